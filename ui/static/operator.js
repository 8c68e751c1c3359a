// The operator page: inbox, transcript, take-over. Knows what is shown and what the keys do; parts draw and report.

import { el, newId } from "./dom.js";
import { call, conversationPath, Live, namedPath, openedBefore, query, read, rememberOpen } from "./operator_api.js";
import { Composer } from "./operator_composer.js";
import { correctReply, draftArticle, showKeys, writeNote } from "./operator_dialogs.js";
import { List } from "./operator_list.js";
import { DeskMemory, forgetDesk } from "./operator_memory.js";
import { ask, button, code, faint, field, pill, show, statePill } from "./operator_parts.js";
import { reviewPairs } from "./operator_pairs.js";
import { people } from "./operator_people.js";
import { drawSide, TranscriptView } from "./operator_transcript.js";

const PAGE = 50;
const SETTLE_MS = 200;
const SNOOZE_S = 3600;
const RELOAD_MS = 30_000;

class Desk {
  constructor(root) {
    this.rows = [];
    this.next = null;
    this.openId = null;
    this.list = new List({ filter: () => this.#filter(), open: (id) => this.#open(id), more: () => this.#more(), save: (name, filter) => this.#save(name, filter), forget: (name) => this.#forget(name) });
    this.transcript = new TranscriptView({
      why: (id) => read(`v1/decisions/${encodeURIComponent(id)}/why`).catch(() => null),
      correct: (message) => this.#correct(message),
      rate: (message, value) => this.#do(() => call("POST", "v1/ratings", { key: newId(), message_id: message.id, value }), value > 0 ? "Rated good." : "Rated bad."),
      draft: (message) => this.#missing(message),
      forget: (id) => this.#do(() => call("DELETE", `v1/cases/${id}`), "The correction is taken back: it speaks no more."),
      article: (id) => this.#article(id),
    });
    this.head = el("header", { class: "od-head" });
    this.composer = new Composer({ takeOver: () => this.#takeOver(), handBack: () => this.#handBack(), sent: () => this.#refresh(), tell: (words, isProblem) => this.#tell(words, isProblem) });
    this.side = el("aside", { class: "od-side", aria: { label: "About this conversation" } });
    this.toast = el("div", { class: "od-toast", role: "status", hidden: true });
    this.lamp = el("span", { class: "od-lamp", role: "status" });
    this.who = el("span", { class: "od-me" });
    this.main = el("section", { class: "od-middle", aria: { label: "Conversation" } }, this.head, this.transcript.node, this.composer.node);
    this.body = el("div", { class: "od-body" }, this.list.node, this.main, this.side);
    root.replaceChildren(this.#bar(), this.body, this.toast);
    document.addEventListener("keydown", (event) => this.#onKey(event));
    this.#begin();
  }

  #bar() {
    const link = (label, href, here) => {
      const node = el("a", { href }, label);
      if (here) node.setAttribute("aria-current", "page");
      return node;
    };
    this.studio = link("Studio", "../studio/");
    this.people = button("People", () => people().catch((error) => this.#tell(error.message, true)), { tone: "quiet", hidden: true });
    const out = async () => {
      const ended = await call("DELETE", "v1/session");
      forgetDesk();
      location.assign(ended?.provider_url ?? "../login");
    };
    return el("nav", { class: "od-top", aria: { label: "Pages" } }, el("span", { class: "od-brand" }, "Rejoinder"), link("Conversations", "./", true), this.studio, link("Chat", "../"), el("span", { class: "od-spring" }), this.lamp, this.who, this.people, button("Compare", () => this.#pairs(), { tone: "quiet", keys: "p" }), button("Keys", showKeys, { tone: "quiet", keys: "?" }), button("Sign out", out, { tone: "quiet" }));
  }

  async #begin() {
    try {
      this.me = await read("v1/me");
      this.canAct = this.me.role !== "developer";
      this.studio.hidden = this.me.role === "operator";
      this.people.hidden = this.me.role !== "admin";
      this.who.textContent = `${this.me.name} · ${this.me.role}`;
      this.memory = new DeskMemory(this.me.name);
      if (this.memory.list) this.list.restore(this.memory.list.filter, this.memory.list.chosen);
      await this.#reload();
      await this.#facets();
      await this.#open(openedBefore());
    } catch (error) {
      this.#tell(error.message, true);
    }
    this.live = new Live({ changed: (ids) => this.#changed(ids), viewers: (byId) => this.#viewers(byId), state: (on) => this.#lamp(on) });
    setInterval(() => this.#tick(), RELOAD_MS);
    document.addEventListener("visibilitychange", () => this.#tick());
  }

  async #facets() {
    const [facets, saved] = await Promise.all([read("v1/inbox/facets"), read("v1/filters")]);
    this.list.setFacets(facets, saved);
  }

  async #save(name, filter) {
    const { q, view, assignee, order, thumb, csat, outcome, flagged, language, version, act, article, tag, since, until } = filter;
    await this.#do(() => call("PUT", namedPath("filters", name), { q, view, assignee, order, thumb, csat, outcome, flagged, language, version, act, article, tag, since, until }), `Filter "${name}" is saved.`);
    await this.#facets();
  }

  async #forget(name) {
    await this.#do(() => call("DELETE", `v1/filters/${encodeURIComponent(name)}`), `Filter "${name}" is removed.`);
    await this.#facets();
  }

  // --- the list -----------------------------------------------------------------------------------------------------
  #filter() {
    this.memory?.keepList({ filter: this.list.filter, chosen: this.list.chosen });
    return this.#reload();
  }

  async #reload() {
    const asked = (this.asked = (this.asked ?? 0) + 1);
    const limit = Math.min(Math.max(this.rows.length, PAGE), 200);
    try {
      const answer = await read(`v1/inbox?${query({ ...this.list.filter, limit })}`);
      if (asked !== this.asked) return;
      this.answer = answer;
      this.rows = answer.conversations;
      this.list.draw(this.rows, answer, this.openId);
    } catch (error) {
      this.#tell(error.message, true);
    }
  }

  async #more() {
    const answer = await read(`v1/inbox?${query({ ...this.list.filter, limit: PAGE, cursor: this.answer.next })}`);
    const known = new Set(this.rows.map((row) => row.id));
    this.answer = answer;
    this.rows = [...this.rows, ...answer.conversations.filter((row) => !known.has(row.id))];
    this.list.draw(this.rows, answer, this.openId);
  }

  #changed(ids) {
    clearTimeout(this.settling);
    this.stale = this.stale || ids.includes(this.openId);
    this.settling = setTimeout(() => {
      this.#reload();
      if (this.stale) this.#refresh();
      this.stale = false;
    }, SETTLE_MS);
  }

  /** What time alone changes, and nobody tells of: who was put off is back, who waits has waited longer. */
  #tick() {
    if (document.hidden || !this.isLive) return;
    this.#reload();
    if (this.shown?.desk.state === "snoozed") this.#refresh();
  }

  #viewers(byId) {
    this.watchers = byId;
    for (const row of this.rows) row.viewers = (byId[row.id] ?? []).filter((name) => name !== this.me.name);
    this.list.draw(this.rows, this.answer, this.openId);
    this.#drawHead();
  }

  // --- one conversation -----------------------------------------------------------------------------------------------
  async #open(id) {
    if (!id) return;
    if (id !== this.openId) this.#clear();
    this.openId = id;
    rememberOpen(id);
    this.shown = null;
    this.body.classList.remove("aside");
    this.body.classList.add("reading");
    this.list.mark(id);
    this.live?.look(id);
    await this.#refresh();
  }

  #close() {
    this.openId = null;
    rememberOpen(null);
    this.shown = null;
    this.body.classList.remove("reading");
    this.list.mark(null);
    this.live?.look(null);
    this.transcript.clear();
    this.#clear();
  }

  /** Levers are of the conversation that is open: none is left of another while it is fetched. */
  #clear() {
    this.head.replaceChildren();
    this.composer.clear();
    this.side.replaceChildren();
  }

  #gone(id) {
    for (const place of [id, `note:${id}`]) this.memory?.keepWords(place, {});
    this.#close();
    this.#reload();
    this.#tell("Its person deleted this conversation.", true);
  }

  async #refresh() {
    const id = this.openId;
    if (!id) return;
    try {
      const answer = await read(conversationPath(id));
      if (id !== this.openId) return;
      this.shown = answer;
      this.transcript.draw(answer, this.canAct);
      this.#drawHead();
      if (this.canAct) this.composer.draw(id, answer.desk, this.me.name, this.memory);
      drawSide(this.side, answer, { tag: () => this.#tag(), untag: (tag) => this.#mark({ remove_tag: tag }), note: () => this.#note(), back: () => this.#toggleAbout() }, this.canAct);
    } catch (error) {
      if (error.status === 404 && id === this.openId) this.#gone(id);
      else this.#tell(error.message, true);
    }
  }

  #drawHead() {
    if (!this.shown) return;
    const { desk } = this.shown;
    const watchers = (this.watchers?.[this.openId] ?? []).filter((name) => name !== this.me.name);
    const mine = desk.assignee === this.me.name;
    const back = button("‹ List", () => this.#close(), { tone: "quiet od-back", aria: { label: "Back to the list" } });
    const marks = [
      button(mine ? "Give back" : "Claim", () => this.#claim(), { keys: "a" }),
      button(desk.flagged ? "Unflag" : "Flag", () => this.#mark({ flagged: !desk.flagged }), { keys: "f" }),
      button(desk.state === "snoozed" ? "Wake" : "Snooze 1 h", () => this.#snooze(), { keys: "z" }),
      button("Resolve", () => this.#turn("resolve", "Resolved."), { keys: "e" }),
    ];
    const state = [statePill(desk.state), desk.assignee && pill(`@${desk.assignee}`, "accent"), watchers.length > 0 && pill(`${watchers.join(", ")} looking`, "eye")].filter(Boolean);
    const about = button("About", () => this.#toggleAbout(), { tone: "od-about", keys: "i" });
    this.head.replaceChildren(back, el("div", { class: "od-state" }, ...state), el("span", { class: "od-spring" }), ...(this.canAct ? marks : []), about);
  }

  /** Narrow screens: what is known about the conversation, in the place of the transcript. */
  #toggleAbout() {
    const isOpen = this.body.classList.toggle("aside");
    this.body.querySelector(isOpen ? ".od-side .od-about" : ".od-head .od-about")?.focus();
  }

  // --- what one does with it --------------------------------------------------------------------------------------------
  /** Do it, say so, and show what came of it. */
  async #do(action, done) {
    try {
      await action();
      if (done) this.#tell(done);
      await Promise.all([this.#refresh(), this.#reload()]);
      return true;
    } catch (error) {
      this.#tell(error.message, true);
      if (error.status === 404) this.#refresh();
      return false;
    }
  }

  #mark(changes, done = "") {
    return this.#do(() => call("PATCH", conversationPath(this.openId), changes), done);
  }

  async #claim() {
    const { assignee, status } = this.shown.desk;
    if (assignee === this.me.name) return this.#mark({ claimed: false }, "Nobody's again.");
    if (!assignee) return this.#mark({ claimed: true }, "Yours.");
    if (status === "person") return this.#takeOver();
    return ask(`${assignee} has claimed this conversation`, [faint("Claim it only if you have agreed with them.")], "Claim it all the same", () => this.#mark({ claimed: true, force: true }));
  }

  #snooze() {
    const asleep = this.shown.desk.state === "snoozed";
    return this.#mark({ snoozed_until: asleep ? 0 : this.answer.now + SNOOZE_S }, asleep ? "Back in the inbox." : "Snoozed for an hour, or until the customer writes.");
  }

  async #takeOver() {
    const { assignee, status } = this.shown.desk;
    const theirs = assignee && assignee !== this.me.name;
    const take = () => call("POST", conversationPath(this.openId, "/takeover"), { force: Boolean(theirs) });
    if (!theirs) return (await this.#do(take, "You are speaking now; the customer was told.")) && this.composer.focus();
    const words = status === "person" ? "They are speaking with the customer now." : "They have claimed it.";
    if (await ask(`Take over from ${assignee}?`, [faint(words)], "Take over", take)) await this.#do(async () => {}, "You are speaking now.");
  }

  #turn(what, done) {
    return this.#do(() => call("POST", conversationPath(this.openId, `/${what}`)), done);
  }

  #handBack() {
    return this.#turn("handback", "The assistant answers again.");
  }

  async #tag() {
    const input = el("input", { class: "od-input", required: true, maxLength: 40 });
    if (await ask("Add a tag", [field("Tag", input)], "Add", () => call("PATCH", conversationPath(this.openId), { add_tag: input.value.trim() }))) await this.#do(() => this.#facets());
  }

  async #note() {
    if (await writeNote(this.openId, this.memory)) await this.#do(async () => {});
  }

  async #correct(message) {
    this.acts ??= await read("v1/acts");
    if (await correctReply(message, this.acts, this.memory)) await this.#do(async () => {}, "In force: the same question is answered so from now on.");
  }

  async #missing(message) {
    if (await draftArticle(message, this.memory)) this.#tell("The draft is kept with the question.");
  }

  async #article(id) {
    const article = await read(`v1/articles/${encodeURIComponent(id)}`).catch(() => null);
    if (article) show(article.title, el("p", { class: "od-text" }, article.answer), code(article.id));
  }

  #pairs() {
    return reviewPairs(this.canAct).catch((error) => this.#tell(error.message, true));
  }

  // --- keys, lamp, words ------------------------------------------------------------------------------------------------
  #onKey(event) {
    // A dialog takes the keys also where its focus was lost to the page, as by a button that is disabled.
    const typing = event.target.closest?.("input, textarea, select") || document.querySelector("dialog[open]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !this.me) return;
    const always = { j: () => this.#open(this.list.beside(this.openId, 1)), k: () => this.#open(this.list.beside(this.openId, -1)), "/": () => this.list.search.focus(), "?": showKeys, p: () => this.#pairs(), Escape: () => this.#close() };
    const onOne = { Enter: () => event.target.closest?.("button, summary, a") ? null : this.transcript.node.focus(), o: () => this.#toggleLast(), i: () => this.#toggleAbout() };
    const acting = {
      a: () => this.#claim(), t: () => this.#takeOver(), h: () => this.#handBack(), e: () => this.#turn("resolve", "Resolved."),
      z: () => this.#snooze(), f: () => this.#mark({ flagged: !this.shown.desk.flagged }), "#": () => this.#tag(), n: () => this.#note(), c: () => this.#correctLast(), r: () => this.composer.focus(),
    };
    const action = always[event.key] ?? (this.shown && (onOne[event.key] ?? (this.canAct && acting[event.key])));
    if (!action) return;
    if (event.key !== "Enter" || !event.target.closest?.("button, summary, a")) event.preventDefault();
    action();
  }

  #correctLast() {
    const last = this.shown.messages.filter((message) => message.can_vote).at(-1);
    if (last) this.#correct(last);
  }

  #toggleLast() {
    const last = [...this.transcript.node.querySelectorAll(".od-step")].at(-1);
    if (last) last.open = !last.open;
  }

  #lamp(on) {
    this.isLive = on;
    this.lamp.textContent = on ? "live" : "offline, reconnecting…";
    this.lamp.classList.toggle("off", !on);
    // What changed before the server began to tell of changes, or while it could not.
    if (on) this.#changed([this.openId]);
  }

  #tell(words, isProblem = false) {
    clearTimeout(this.silence);
    this.toast.textContent = words;
    this.toast.hidden = false;
    this.toast.classList.toggle("bad", isProblem);
    this.silence = setTimeout(() => (this.toast.hidden = true), isProblem ? 9000 : 5000);
  }
}

const start = () => {
  const root = document.querySelector("#rj-desk");
  if (root) new Desk(root);
  else requestAnimationFrame(start);
};
start();
