// The list of messages: bubbles, the reply being written, typing dots, quick replies. Holds no connection.

import { el, icon, iconButton } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { pressed, quickLabel, shownText } from "./said.js";
import { VoteBar } from "./vote.js";

const NEAR_BOTTOM_PX = 120;
const COPIED_MS = 1600;

export class Thread {
  #entries = new Map();
  #pending = new Map();
  #stream = null;
  #newest = null;
  #offered = [];

  /** `actions`: {vote(id, vote), openArticle(id, title), quickReply(text), retry(clientId), another(id), edit(text),
   * formMoved()}. */
  constructor(say, actions) {
    this.say = say;
    this.actions = actions;
    this.chips = { up: [], down: [] };
    this.learns = true;
    this.list = el("div", { class: "rj-list" });
    this.dots = this.#typingDots();
    this.tail = el("div", { class: "rj-tail" });
    this.log = el("div", { class: "rj-thread", role: "log", aria: { live: "polite", label: say("log.label") } }, this.list, this.dots, this.tail);
    this.scroller = el("div", { class: "rj-scroll", tabIndex: -1 }, this.log);
    this.jump = el("button", { type: "button", class: "rj-jump", hidden: true, title: say("jump"), aria: { label: say("jump") }, on: { click: () => this.toBottom() } }, icon("arrow"));
    this.scroller.addEventListener("scroll", () => (this.jump.hidden = this.#nearBottom()), { passive: true });
  }

  /** Highest sequence number shown: what a resume asks to continue after. */
  lastSeq = 0;

  /** Who spoke last: user, bot, operator, system, or "". */
  lastRole = "";

  /** Id of the reply being written, or "". */
  get streaming() {
    return this.#stream ? this.#stream.id : "";
  }

  /** Whether the newest reply asks for a thumb and has none. */
  get asksForVote() {
    return Boolean(this.#newest?.votes?.isAsking);
  }

  clear() {
    this.#newest = null;
    this.#offered = [];
    this.#entries.clear();
    this.#pending.clear();
    this.#stream = null;
    this.lastSeq = 0;
    this.lastRole = "";
    this.list.replaceChildren();
    this.tail.replaceChildren();
    this.typing(false);
  }

  has(messageId) {
    return this.#entries.has(messageId);
  }

  /** Shows what the person just sent, before the server has it. */
  addPending(clientId, text) {
    if (this.#pending.has(clientId)) return;
    const entry = this.#userBubble(text);
    entry.node.classList.add("rj-sending");
    this.#pending.set(clientId, entry);
    this.#append(entry.node);
    this.toBottom();
  }

  /** The server has the message: the bubble gets its id. */
  confirm(clientId, messageId, seq) {
    const entry = this.#pending.get(clientId);
    if (!entry) return;
    this.#pending.delete(clientId);
    entry.node.classList.remove("rj-sending", "rj-failed");
    entry.note.replaceChildren();
    this.#entries.set(messageId, entry);
    this.lastRole = "user";
    this.lastSeq = Math.max(this.lastSeq, seq || 0);
  }

  /** The message was not taken: its bubble offers another try. */
  fail(clientId, reason) {
    const entry = this.#pending.get(clientId);
    if (!entry) return;
    entry.node.classList.remove("rj-sending");
    entry.node.classList.add("rj-failed");
    const retry = el("button", { type: "button", class: "rj-link", on: { click: () => this.actions.retry(clientId, entry.text) } }, this.say("retry"));
    entry.note.replaceChildren(reason, " ", retry);
  }

  /** Puts a failed or waiting bubble back to "sending". */
  resend(clientId) {
    const entry = this.#pending.get(clientId);
    if (!entry) return;
    entry.node.classList.remove("rj-failed");
    entry.node.classList.add("rj-sending");
    entry.note.replaceChildren();
  }

  /** Adds a whole message, or finishes the stream with its id. Twice the same id is one bubble. */
  add(message) {
    this.lastSeq = Math.max(this.lastSeq, message.seq || 0);
    if (message.role === "user" && message.client_id) this.confirm(message.client_id, message.id, message.seq);
    this.lastRole = message.role;
    if (this.#entries.has(message.id)) return;
    const follow = this.#nearBottom();
    if (message.role === "user") this.#addUser(message);
    else if (message.role === "system") this.#addNote(message);
    else this.#addReply(message);
    if (follow) this.toBottom();
  }

  #addUser(message) {
    const entry = this.#userBubble(message.text);
    this.#entries.set(message.id, entry);
    this.#append(entry.node);
  }

  #addNote(message) {
    const name = message.author || this.say("event.somebody");
    const node = el("div", { class: "rj-note" }, this.say(`event.${message.event}`, { name }, message.text));
    this.#entries.set(message.id, { node });
    this.#append(node);
  }

  #addReply(message) {
    const node = this.#stream && this.#stream.id === message.id ? this.#stream.node : this.#replyShell(message.role);
    if (this.#stream && this.#stream.id === message.id) this.#stream = null;
    const entry = { node, ...this.#fillReply(node, message) };
    this.#entries.set(message.id, entry);
    this.#newest = entry;
    if (!node.isConnected) this.#append(node);
    this.#offerQuickReplies(message);
  }

  /** A piece of a reply. Pieces that were seen before, or come after the whole message, change nothing. */
  grow({ message_id: id, index, text, version }) {
    if (this.#entries.has(id)) return;
    const follow = this.#nearBottom();
    if (this.streaming !== id) this.#startStream(id, version, "");
    if (index <= this.#stream.index) return;
    this.#stream.index = index;
    this.#setStreamText(this.#stream.text + text);
    if (follow) this.toBottom();
  }

  /** What a resume says about the reply being written; null: none is. */
  resumeStream(partial) {
    if (this.#stream && (!partial || partial.message_id !== this.#stream.id)) this.#dropStream();
    if (!partial) return;
    if (!this.#stream) this.#startStream(partial.message_id, partial.version, "");
    this.#stream.index = -1;
    this.#setStreamText(partial.text);
  }

  #startStream(id, version, text) {
    if (this.#stream) this.#dropStream();
    const node = this.#replyShell("bot");
    node.classList.add("rj-streaming");
    node.setAttribute("aria-busy", "true");
    this.#stream = { id, index: -1, text, node };
    node.querySelector(".rj-meta").append(this.#versionPill(version));
    this.#append(node);
  }

  #setStreamText(text) {
    this.#stream.text = text;
    this.#stream.node.querySelector(".rj-text").replaceChildren(renderMarkdown(text));
  }

  #dropStream() {
    this.#stream.node.remove();
    this.#stream = null;
  }

  showVote(messageId, vote) {
    this.#entries.get(messageId)?.votes?.show(vote);
  }

  typing(on) {
    if (this.dots.hidden === !on) return;
    const follow = this.#nearBottom();
    this.dots.hidden = !on;
    if (on) this.tail.replaceChildren();
    if (follow) this.toBottom();
  }

  /** Whoever reads the end goes on reading it after `change()`. */
  follow(change) {
    const near = this.#nearBottom();
    change();
    if (near) this.toBottom();
  }

  toBottom() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.jump.hidden = true;
  }

  #nearBottom() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_BOTTOM_PX;
  }

  #append(node) {
    this.tail.replaceChildren();
    this.list.append(node);
  }

  /** `text`: as it was sent; a quick reply is shown as its button was. */
  #userBubble(text) {
    const shown = pressed(this.say, this.#offered, text);
    this.#offered = [];
    const note = el("div", { class: "rj-bubble-note", role: "status" });
    const bubble = el("div", { class: "rj-bubble" }, el("span", { class: "rj-sr" }, this.say("you") + ": "), el("span", { class: "rj-plain", dir: "auto" }, shown));
    return { node: el("article", { class: "rj-message rj-user" }, el("div", { class: "rj-said" }, shown === text && this.#editButton(text), bubble), note), note, text };
  }

  /** Shown on the newest question only (chat.css); on none whose words are not what was sent. */
  #editButton(text) {
    const edit = iconButton("pencil", this.say("edit"), () => this.actions.edit(text));
    edit.classList.add("rj-edit");
    return edit;
  }

  #replyShell(role) {
    const who = this.say(role === "operator" ? "operator" : "assistant");
    const text = el("div", { class: "rj-text", dir: "auto" });
    const bubble = el("div", { class: "rj-bubble" }, el("span", { class: "rj-sr" }, who + ": "), text);
    const meta = el("div", { class: "rj-meta" });
    return el("article", { class: `rj-message rj-${role === "operator" ? "operator" : "bot"}` }, bubble, meta);
  }

  #fillReply(node, message) {
    node.classList.remove("rj-streaming");
    node.removeAttribute("aria-busy");
    node.dataset.messageId = message.id;
    node.querySelector(".rj-text").replaceChildren(renderMarkdown(shownText(message)));
    const on = { vote: (vote) => this.actions.vote(message.id, vote), form: () => this.actions.formMoved(), learns: () => this.learns };
    const votes = canVote(message) ? new VoteBar(this.say, this.chips, on, Boolean(message.ask_rating)) : null;
    node.querySelector(".rj-meta").replaceChildren(...this.#metaParts(message, votes));
    if (votes) node.append(votes.form);
    return { votes };
  }

  #metaParts(message, votes) {
    const said = message.role === "operator" ? [el("span", { class: "rj-who" }, icon("person"), [message.author, this.say("operator")].filter(Boolean).join(" · "))] : [];
    const stopped = message.stop_reason === "cancelled" ? [el("span", { class: "rj-stopped" }, this.say("stopped"))] : [];
    const sources = (message.sources || []).map((source) => this.#sourceChip(source));
    const made = message.version ? [this.#versionPill(message.version)] : [];
    const isReply = votes || message.role === "operator";
    const place = votes && votes.asks ? "rj-actions rj-own-row" : "rj-actions";
    const actions = isReply ? [el("span", { class: place }, votes && votes.buttons, message.can_retry && this.#anotherButton(message.id), this.#copyButton(message.text))] : [];
    return [...said, ...made, ...sources, ...stopped, ...actions];
  }

  #versionPill(version) {
    return el("span", { class: "rj-version", title: this.say("version.title", { version }) }, version);
  }

  #sourceChip({ id, title }) {
    const label = this.say("source.open", { title });
    return el("button", { type: "button", class: "rj-source", title: label, aria: { label }, on: { click: () => this.actions.openArticle(id, title) } }, icon("book"), el("span", {}, title));
  }

  /** Shown under the newest reply only (chat.css). */
  #anotherButton(messageId) {
    const button = iconButton("retry", this.say("another"), () => this.actions.another(messageId));
    button.classList.add("rj-another");
    return button;
  }

  #copyButton(text) {
    const button = iconButton("copy", this.say("copy"), async () => {
      const done = await copyText(text);
      if (!done) return;
      button.replaceChildren(icon("check"));
      setTimeout(() => button.replaceChildren(icon("copy")), COPIED_MS);
    });
    return button;
  }

  #offerQuickReplies(message) {
    this.#offered = message.quick_replies || [];
    const buttons = this.#offered.map((text) => el("button", { type: "button", class: "rj-quick", dir: "auto", on: { click: () => this.actions.quickReply(text) } }, quickLabel(this.say, text)));
    this.tail.replaceChildren(...(buttons.length ? [el("div", { class: "rj-quicks", role: "group", aria: { label: this.say("quick.label") } }, buttons)] : []));
  }

  #typingDots() {
    return el("div", { class: "rj-typing", hidden: true, role: "status", aria: { label: this.say("typing") } }, el("i"), el("i"), el("i"));
  }
}

/** Replies that the policy chose can be rated; a server that does not say marks them by their version. */
export function canVote(message) {
  return message.role === "bot" && (message.can_vote ?? Boolean(message.version));
}

/** Copies; falls back to a selection on plain-http pages, where the clipboard API is missing. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const field = el("textarea", { value: text, class: "rj-sr" });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}
