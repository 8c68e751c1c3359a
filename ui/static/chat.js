// The chat: joins the connection (protocol.md) to what is seen. On the page `/` and in the widget alike.
//
// 1. Whoever starts it gives a container, the server's address, the texts and who the assistant is.
// 2. hello brings the conversation; each frame after it changes one thing on the page.
// 3. What a person does is shown at once, kept in the outbox, and sent until the server acknowledges it.

import { ArticlePanel } from "./article.js";
import { Connection } from "./connection.js";
import { newId } from "./dom.js";
import { catalogue, chooseLanguage } from "./language.js";
import { Outbox, loadChat, onChatChanged, saveChat, saveLanguage } from "./memory.js";
import { Confirmation, OwnConversation } from "./own.js";
import { Shell } from "./shell.js";
import { SolvedQuestion } from "./solved.js";
import { Thread, canVote } from "./thread.js";

const PROTOCOL = 1;
const GIVE_UP_TYPING_MS = 60_000;

export class Chat {
  #votes = new Map();
  #castVotes = new Map();
  #outbox = new Outbox();
  /** What the next hello asks for: {conversation_id, token}, or a new conversation where there is no id. */
  #wanted = loadChat();
  #conversationId = "";
  #end = { solved: null, csat: null, ended: false };
  #canSolve = false;
  /** As the server last told; what is wanted and not acknowledged is in the outbox. */
  #settings = { reply: "approved", learn: true };
  #status = { kind: "", text: "" };
  #typingTimer = 0;

  /** `server`: address of the product's root; `config`: what the page carries (ui/chat.py). */
  constructor(server, { texts, language, assistant, ai_notice: aiNotice, human_offer: humanOffer }) {
    this.language = chooseLanguage(texts, language);
    this.domainLanguage = language;
    // The domain's own words are in its language; whoever reads another is told in that.
    this.isTranslated = this.language !== language;
    this.say = catalogue(texts[this.language]);
    this.languages = Object.keys(texts);
    this.#build(server);
    this.#introduce(assistant, aiNotice, humanOffer);
    this.shell.setSettings("approved", true);
    const url = Object.assign(new URL("ws/chat", server), { protocol: server.protocol === "https:" ? "wss:" : "ws:" });
    this.connection = new Connection(url, { greeting: () => this.#hello(), onFrame: (frame) => this.#receive(frame), onState: (state) => this.#onState(state) });
    onChatChanged((chat) => chat.conversation_id !== this.#conversationId && this.#switchTo(chat));
  }

  #build(server) {
    const say = this.say;
    this.panel = new ArticlePanel(say, new URL("v1/articles/", server));
    this.own = new OwnConversation(new URL("v1/conversations/", server), loadChat);
    this.confirmation = new Confirmation(say, () => this.#erase());
    this.solved = new SolvedQuestion(say, (solved) => this.#answerSolved(solved), (value) => this.#rate(value));
    this.thread = new Thread(say, {
      vote: (id, vote) => this.#vote(id, vote),
      openArticle: (id, title) => this.panel.open(id, title),
      quickReply: (text) => this.#say(text),
      retry: (clientId, text) => this.#resend(clientId, text),
      another: (id) => this.#another(id),
      edit: (text) => this.shell.edit(text),
      formMoved: () => this.#showSolved(),
    });
    this.shell = new Shell(say, this.#shellActions(), this.thread, this.solved.node, { current: this.language, all: this.languages });
  }

  start(container) {
    container.lang = this.language;
    container.replaceChildren(this.shell.node, this.panel.dialog, this.confirmation.dialog);
    this.connection.open();
  }

  #shellActions() {
    return {
      send: (text) => this.#say(text),
      stop: () => this.connection.send({ type: "stop" }),
      handover: () => this.#deliver({ type: "handover", key: newId() }),
      fresh: () => this.#startFresh(),
      setReply: (reply) => this.#set({ reply }),
      setLearn: (learn) => this.#set({ learn }),
      setLanguage: (language) => (saveLanguage(language), location.reload()),
      download: () => this.#download(),
      erase: () => this.confirmation.open(),
      reconnect: () => this.connection.open(),
    };
  }

  // --- sending ----------------------------------------------------------------------------------------------------

  #hello() {
    const { conversation_id, token } = this.#wanted;
    const hello = { type: "hello", protocol: PROTOCOL };
    if (token) hello.token = token;
    if (!token || !conversation_id) return { ...hello, reply: this.#settings.reply };
    return { ...hello, conversation_id, last_seq: conversation_id === this.#conversationId ? this.thread.lastSeq : 0 };
  }

  /** Keeps a frame until it is acknowledged; sends it now if it can. */
  #deliver(frame) {
    this.#outbox.put(frame.client_id || frame.key, frame);
    if (frame.type === "settings") this.#showSettings();
    this.connection.send(frame);
  }

  #say(text) {
    const frame = { type: "message", client_id: newId(), text };
    this.shell.hideError();
    this.thread.addPending(frame.client_id, text);
    this.#setTyping(this.connection.online);
    this.#deliver(frame);
  }

  #resend(clientId, text) {
    this.shell.hideError();
    this.thread.resend(clientId);
    this.#setTyping(this.connection.online);
    this.#deliver({ type: "message", client_id: clientId, text });
  }

  #vote(messageId, vote) {
    const frame = { type: "feedback", key: newId(), message_id: messageId, thumb: vote.thumb };
    if (vote.reasons.length) frame.reasons = vote.reasons;
    if (vote.comment) frame.comment = vote.comment;
    this.#castVotes.set(frame.key, vote);
    this.#deliver(frame);
    this.#showSolved();
  }

  /** Another answer in place of the newest reply. */
  #another(messageId) {
    this.shell.hideError();
    this.#setTyping(this.connection.online);
    this.#deliver({ type: "retry", key: newId(), message_id: messageId });
  }

  #answerSolved(solved) {
    this.#end = { ...this.#end, solved };
    this.#showSolved();
    this.#deliver({ type: "outcome", key: newId(), solved });
  }

  #rate(csat) {
    this.#end = { ...this.#end, csat };
    this.#showSolved();
    this.#deliver({ type: "csat", key: newId(), value: csat });
  }

  async #download() {
    if (!(await this.own.download())) this.shell.showError(this.say("download.failed"));
  }

  async #erase() {
    if (!(await this.own.erase())) return this.shell.showError(this.say("erase.failed"));
    this.#startFresh();
    this.shell.showNote(this.say("erase.done"));
  }

  #set(change) {
    this.#deliver({ type: "settings", key: newId(), ...change });
  }

  #startFresh() {
    this.shell.hideError();
    this.shell.clear();
    this.#switchTo({ token: loadChat().token });
  }

  /** Leaves this conversation for another, or a new one: other tabs follow when that has an id. */
  #switchTo(chat) {
    this.#wanted = chat;
    this.#outbox.clear();
    this.#forget();
    this.connection.open();
  }

  #forget() {
    this.#conversationId = "";
    this.#votes.clear();
    this.#castVotes.clear();
    this.#end = { solved: null, csat: null, ended: false };
    this.#canSolve = false;
    this.thread.clear();
    this.#setTyping(false);
  }

  // --- receiving --------------------------------------------------------------------------------------------------

  #receive(frame) {
    const known = {
      hello: () => this.#onHello(frame),
      ack: () => this.#onAck(frame),
      message: () => this.#onMessage(frame.message),
      delta: () => this.#onDelta(frame),
      feedback: () => this.#showVote(frame.message_id, frame),
      settings: () => this.#onSettings(frame),
      status: () => this.#onStatus(frame),
      outcome: () => this.#onOutcome(frame),
      version: () => this.shell.setVersion(frame.version),
      error: () => this.#onError(frame),
    };
    known[frame.type]?.();
  }

  #onHello(hello) {
    if (hello.conversation_id !== this.#conversationId) this.#forget();
    this.#conversationId = hello.conversation_id;
    this.#outbox.open(hello.conversation_id);
    this.#wanted = { conversation_id: hello.conversation_id, token: hello.token };
    saveChat(this.#wanted);
    this.#introduce(hello.assistant, hello.ai_notice, hello.human_offer);
    this.shell.setVersion(hello.version);
    this.shell.setCanWrite(hello.can_write);
    this.thread.chips = hello.chips;
    this.#onSettings(hello);
    this.#onStatus(hello);
    this.#catchUp(hello);
    this.#end = { ...this.#end, solved: hello.solved, csat: hello.csat };
    this.#showSolved();
  }

  #introduce(assistant, aiNotice, humanOffer) {
    const foreign = this.say("foreign", { language: this.say(`speaks.${this.domainLanguage}`, {}, this.domainLanguage) });
    const notice = this.isTranslated ? [`${this.say("ai_notice")} ${foreign}`, this.say("human_offer")] : [aiNotice, humanOffer];
    this.shell.introduce(assistant, ...notice);
  }

  #catchUp({ messages, partial, votes }) {
    for (const message of messages) this.#onMessage(message);
    this.thread.resumeStream(partial);
    for (const [id, vote] of Object.entries(votes)) this.#showVote(id, vote);
    for (const frame of this.#outbox.all()) this.#sendAgain(frame);
    const unanswered = this.thread.lastRole === "user" && !partial;
    this.#setTyping(unanswered || this.#outbox.all().some((frame) => frame.type === "message"));
    this.thread.toBottom();
  }

  #sendAgain(frame) {
    if (frame.type === "message") this.thread.addPending(frame.client_id, frame.text);
    if (frame.type === "feedback") this.thread.showVote(frame.message_id, frame);
    this.connection.send(frame);
  }

  #onAck({ client_id: clientId, key, message_id: messageId, seq }) {
    const frame = this.#outbox.take(clientId || key);
    if (clientId) this.thread.confirm(clientId, messageId, seq);
    if (frame?.type === "feedback") this.#votes.set(frame.message_id, this.#castVotes.get(key) || frame);
    this.#castVotes.delete(key);
    if (frame?.type === "settings") this.#showSettings();
  }

  #onMessage(message) {
    if (message.client_id) this.#outbox.take(message.client_id);
    this.thread.add(message);
    if (message.role === "user") return;
    this.#setTyping(false);
    this.#canSolve ||= canVote(message);
    if (canVote(message) && this.#end.solved === false) this.#end = { ...this.#end, solved: null };
    this.#showSolved();
  }

  #onDelta(delta) {
    this.thread.grow(delta);
    this.#setTyping(false);
  }

  #showVote(messageId, { thumb, reasons = [], comment = "" }) {
    this.#votes.set(messageId, { thumb, reasons, comment });
    this.thread.showVote(messageId, { thumb, reasons, comment });
    this.#showSolved();
  }

  #onSettings({ reply, learn }) {
    this.#settings = { reply, learn };
    this.#showSettings();
  }

  /** What is wanted is shown until the server has taken it or refused it. */
  #showSettings() {
    const wanted = this.#outbox.all().filter(({ type }) => type === "settings");
    const { reply, learn } = Object.assign({}, this.#settings, ...wanted);
    this.thread.learns = learn;
    this.shell.setSettings(reply, learn);
  }

  #onStatus({ status, position, operator }) {
    const detail = { waiting: position && ".position", person: operator && ".named" }[status] || "";
    const text = status === "bot" ? "" : this.say(`status.${status}${detail}`, { position, operator });
    this.#status = { kind: status === "bot" ? "" : status, text };
    this.#end = { ...this.#end, ended: status === "resolved" };
    this.shell.setPersonCalled(["waiting", "person"].includes(status));
    this.#showSolved();
    if (this.connection.online) this.shell.setBanner(this.#status.kind, text);
    if (status !== "bot") this.#setTyping(false);
  }

  /** Said in another tab; what this one has said and not heard back of stays. */
  #onOutcome({ solved = null, csat = null }) {
    const waiting = new Set(this.#outbox.all().map(({ type }) => type));
    this.#end = { ...this.#end, ...(waiting.has("outcome") ? {} : { solved }), ...(waiting.has("csat") ? {} : { csat }) };
    this.#showSolved();
  }

  #onError(error) {
    if (!this.connection.online) return this.#refusedAtHello(error);
    if (error.code === "not_found") return this.#startOver();
    const line = this.#errorLine(error);
    const frame = this.#outbox.take(error.client_id || error.key);
    if (frame?.type === "message") return this.#messageRefused(frame, line);
    if (frame?.type === "retry") this.#setTyping(false);
    if (frame?.type === "feedback") this.thread.showVote(frame.message_id, this.#votes.get(frame.message_id) || {});
    if (frame?.type === "settings") this.#showSettings();
    this.shell.showError(line, frame ? () => this.#deliver(frame) : null);
  }

  #errorLine({ code, message, retry_after_s: wait }) {
    const line = this.say(`error.${code}`, {}, message);
    return wait ? `${line} ${this.say("error.wait", { seconds: Math.ceil(wait) })}` : line;
  }

  #messageRefused(frame, line) {
    this.#setTyping(false);
    this.thread.fail(frame.client_id, this.say("failed"));
    this.shell.showError(line, () => this.#resend(frame.client_id, frame.text));
  }

  /** A conversation the server does not know or give us: start a new one; anything else waits and tries again. */
  #refusedAtHello(error) {
    if (["not_found", "not_allowed"].includes(error.code) && this.#wanted.token) this.#startOver();
    else if (error.code === "protocol") {
      this.connection.close();
      this.shell.setBanner("offline", this.say("error.protocol"));
    } else {
      this.shell.showError(this.#errorLine(error));
      this.connection.retryLater();
    }
  }

  /** This conversation is gone: what was said and wished and not taken goes to a new one. */
  #startOver() {
    const unsent = this.#outbox.all().filter(({ type }) => ["message", "settings"].includes(type));
    this.#switchTo({});
    for (const frame of unsent) this.#outbox.put(frame.client_id || frame.key, frame);
    this.shell.showError(this.say("error.lost"));
  }

  // --- small state ------------------------------------------------------------------------------------------------

  #onState(state) {
    if (state === "online") this.shell.setBanner(this.#status.kind, this.#status.text);
    else this.shell.setBanner("offline", this.say("offline"), true);
    if (state === "offline") this.#setTyping(false);
  }

  /** Whether a reply is expected: while a person speaks, none is. */
  #setTyping(expected) {
    const on = expected && this.#status.kind !== "person";
    clearTimeout(this.#typingTimer);
    this.thread.typing(on);
    if (on) this.#typingTimer = setTimeout(() => this.#setTyping(false), GIVE_UP_TYPING_MS);
    this.shell.setBusy(on || Boolean(this.thread.streaming));
    this.#showSolved();
  }

  #showSolved() {
    const quiet = this.thread.dots.hidden && !this.thread.streaming;
    this.thread.follow(() => this.solved.render(this.#canSolve && quiet && !this.thread.asksForVote, this.#end));
  }
}
