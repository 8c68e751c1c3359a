// Knowledge: articles with an editor and a preview, questions that went wrong in groups, drafts of missing articles.

import { attempt, button, call, count, dialog, el, faint, field, get, mono, nothing, Notice, number, panel, pill, plural, post, table, when } from "./studio_kit.js";
import { renderMarkdown } from "./markdown.js";
import { readTranscript } from "./studio_transcript.js";

const CHECK_AFTER_MS = 250;
const SHOWN_QUESTIONS = 3;
const SHOWN_GROUPS = 6;

export class KnowledgePage {
  constructor() {
    this.notice = new Notice();
    for (const name of ["articles", "gaps", "drafts", "cases"]) this[name] = el("div");
    this.search = el("input", { type: "search", placeholder: "Title or id", on: { input: () => this.#list() } });
    this.search.setAttribute("aria-label", "Search articles");
    this.revision = el("span", { class: "st-faint" });
    const head = el("p", { class: "st-buttons" }, this.search, button("New article", () => this.#edit("", template("", []), true), { class: "primary" }), this.revision);
    const parts = [
      panel("Questions nobody answered", "Out of scope, handed over or with a thumb down; like questions together, largest group first.", this.gaps),
      panel("Drafts", "Articles that somebody missed while reading conversations. Publishing one makes it an article.", this.drafts),
      panel("Cases", "Corrections by customer service, which answer the same question at once, and where they come from.", this.cases),
      panel("Articles", "What the bot may answer with. A change is kept in this home, never in the package, and counts from the next question on.", head, this.articles),
    ];
    this.node = el("div", { class: "st-stack" }, this.notice.node, ...parts);
  }

  async show() {
    await attempt(this.notice, async () => {
      this.#stand(await get("knowledge/articles"));
      const [drafts, { groups }, cases] = await Promise.all([get("drafts"), get("knowledge/gaps"), get("cases")]);
      this.drafts.replaceChildren(this.#draftTable(drafts));
      this.gaps.replaceChildren(this.#gapList(groups));
      this.cases.replaceChildren(this.#caseTable(cases));
    });
  }

  #stand(known) {
    this.known = known;
    this.revision.replaceChildren(`${plural(known.articles.length, "article")}, revision `, mono(known.revision));
    this.#list();
  }

  // --- articles ---------------------------------------------------------------------------------------------------
  #list() {
    const wanted = this.search.value.trim().toLowerCase();
    const found = this.known.articles.filter(({ id, title }) => `${id} ${title}`.toLowerCase().includes(wanted));
    const rows = found.map((line) => [button(line.title, () => this.#open(line.id), { class: "link" }), mono(line.id), count(line.num_questions), origin(line)]);
    this.articles.replaceChildren(rows.length ? table("Articles", ["Title", "Id", ["Questions", "num"], "From"], rows) : nothing("No article matches."));
  }

  async #open(id) {
    await attempt(this.notice, async () => {
      const file = await get(`knowledge/articles/${encodeURIComponent(id)}`);
      await this.#edit(id, file.text, false, file);
    });
  }

  async #edit(id, text, isNew, line = {}, draft = "") {
    const done = await dialog(isNew ? "New article" : line.title, (close) => new ArticleEditor({ id, text, isNew, line, draft, close }).node, "wide");
    if (!done) return;
    this.notice.tell(done);
    await this.show();
  }

  // --- what is missing --------------------------------------------------------------------------------------------
  #gapList(groups) {
    if (!groups.length) return nothing("Nothing went wrong so far, or nobody said so.");
    const [first, rest] = [groups.slice(0, SHOWN_GROUPS), groups.slice(SHOWN_GROUPS)];
    const list = (some) => el("ol", { class: "st-gaps" }, some.map((group) => this.#gap(group)));
    const more = rest.length ? el("details", { class: "st-more" }, el("summary", {}, `${plural(rest.length, "smaller group")}`), list(rest)) : null;
    return el("div", { class: "st-stack" }, ...[list(first), more].filter(Boolean));
  }

  #gap({ questions, why, nearest, nearest_title: title, fit }) {
    const reasons = Object.entries(why).map(([name, num]) => pill(`${name} ${num}`, name === "thumb down" ? "bad" : "warn"));
    const times = (text) => questions.filter((one) => one.text === text).length;
    const line = (one) => el("li", {}, button(one.text, () => readTranscript(one.conversation_id), { class: "link" }), faint(`${one.why}, ${when(one.at)}${times(one.text) > 1 ? `, asked ${times(one.text)} times` : ""}`));
    const wordings = questions.filter((one, i) => questions.findIndex(({ text }) => text === one.text) === i);
    const rest = wordings.slice(SHOWN_QUESTIONS);
    const more = rest.length ? el("details", {}, el("summary", {}, `${plural(rest.length, "more wording")}`), el("ul", {}, rest.map(line))) : null;
    const texts = wordings.map(({ text }) => text);
    const write = button("Write an article", () => this.#edit("", template("", texts.slice(0, 5)), true), { class: "small" });
    const mend = button(`Edit “${title}”`, () => this.#open(nearest), { class: "small" });
    const closest = faint("Closest article: ", title, ` (cosine ${number(fit)})`);
    return el("li", { class: "st-gap" }, el("p", { class: "st-buttons" }, el("strong", {}, plural(questions.length, "question")), ...reasons), el("ul", {}, wordings.slice(0, SHOWN_QUESTIONS).map(line)), more, closest, el("p", { class: "st-buttons" }, write, mend));
  }

  #draftTable(drafts) {
    if (!drafts.length) return nothing("No drafts.");
    const rows = drafts.map((draft) => {
      const source = draft.conversation_id ? button(draft.question || draft.title, () => readTranscript(draft.conversation_id), { class: "link" }) : draft.question;
      const write = button("Write it", () => this.#edit("", template(draft.title, [draft.question], draft.answer), true, {}, draft.id), { class: "small" });
      const discard = button("Discard", () => this.#discard(draft.id), { class: "small" });
      return [source, draft.title, draft.author, when(draft.at), el("span", { class: "st-row-buttons" }, write, discard)];
    });
    return table("Drafts", ["Question", "Title", "By", "When", ""], rows);
  }

  #caseTable(cases) {
    if (!cases.length) return nothing("Nobody has corrected a reply yet.");
    const rows = cases.map((one) => {
      const source = button(one.question, () => readTranscript(one.conversation_id), { class: "link" });
      const remove = one.removed_at ? pill("removed", "bad") : button("Remove", () => this.#forget(one.id), { class: "small" });
      const learned = [...new Set([one.taught, one.words_taught].filter(Boolean))];
      return [source, one.text || mono(one.act), one.draft || mono(one.draft_act), one.author, when(one.at), count(one.num_uses), learned.length ? mono(learned.join(", ")) : "–", remove];
    });
    return table("Cases", ["Question", "Right answer", "The bot had said", "By", "When", ["Used", "num"], "Learned by", ""], rows);
  }

  async #forget(id) {
    await attempt(this.notice, async () => {
      await call("DELETE", `cases/${encodeURIComponent(id)}`);
      this.notice.tell("The case was removed: it answers nothing any more.");
      await this.show();
    });
  }

  async #discard(id) {
    await attempt(this.notice, async () => {
      await call("PATCH", `drafts/${encodeURIComponent(id)}`, { state: "dropped" });
      this.notice.tell("The draft was discarded.");
      await this.show();
    });
  }
}

const origin = ({ is_own: own, is_shipped: shipped }) => (own ? pill(shipped ? "edited here" : "written here", "accent") : pill("the domain"));

/** A file to begin with. JSON strings are YAML strings too, whatever is in them. */
function template(title, questions, answer = "") {
  const lines = (questions.length ? questions : [""]).map((text) => `  - ${JSON.stringify(text)}`);
  return ["---", `title: ${JSON.stringify(title)}`, "questions:", ...lines, "---", answer, ""].join("\n");
}

/** One article as a file, checked and shown as people will read it while one types. */
class ArticleEditor {
  constructor({ id, text, isNew, line, draft, close }) {
    Object.assign(this, { isNew, line, draft, close });
    this.name = el("input", { value: id, disabled: !isNew, maxLength: 80, spellcheck: false, on: { input: () => this.#edited() } });
    this.area = el("textarea", { rows: 12, value: text, maxLength: 20000, on: { input: () => this.#edited() } });
    this.verdict = el("div", { class: "st-verdict", role: "status" });
    this.preview = el("div", { class: "st-preview" });
    this.notice = new Notice();
    this.saveButton = button("Save", () => this.#save(), { class: "primary", disabled: true });
    const drop = line.is_own && button(line.is_shipped ? "Back to the domain's text" : "Remove", () => this.#drop());
    const fields = el("div", { class: "st-stack" }, field("Id", this.name, isNew ? "a-z, 0-9 and _; it stays" : ""), field("Article", this.area, "Title and example questions between the dashes, the approved answer below."));
    const reading = el("section", { class: "st-stack", aria: { label: "Preview" } }, el("h3", {}, "As people read it"), this.preview);
    this.node = el("div", { class: "st-stack" }, el("div", { class: "st-two" }, fields, reading), this.verdict, this.notice.node, el("p", { class: "st-buttons" }, drop, this.saveButton));
    this.before = text;
    this.#check();
  }

  #edited() {
    this.saveButton.disabled = true;
    this.node.toggleAttribute("data-unsaved", this.area.value !== this.before);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#check(), CHECK_AFTER_MS);
  }

  async #check() {
    const [id, text] = [this.name.value, this.area.value];
    if (!id) return this.verdict.replaceChildren("Choose an id.");
    const found = await attempt(this.notice, () => post("knowledge/check", { id, text }));
    if (!found || id !== this.name.value || text !== this.area.value) return undefined;
    this.verdict.className = `st-verdict ${found.ok ? "good" : "bad"}`;
    this.verdict.textContent = found.ok ? "No mistake." : found.mistake;
    this.saveButton.disabled = !found.ok || (!this.isNew && text === this.before);
    if (found.ok) this.#show(found);
    return undefined;
  }

  #show({ title, answer, questions }) {
    const asked = el("details", {}, el("summary", {}, plural(questions.length, "example question")), el("ul", {}, questions.map((text) => el("li", {}, text))));
    this.preview.replaceChildren(el("h4", {}, title), el("div", { class: "st-bubble" }, renderMarkdown(answer)), asked);
  }

  async #save() {
    const body = { text: this.area.value, is_new: this.isNew, draft: this.draft, based_on: this.line.text_hash || "" };
    await attempt(this.notice, async () => {
      const saved = await call("PUT", `knowledge/articles/${encodeURIComponent(this.name.value)}`, body);
      this.close(`“${saved.title}” is in use from the next question on.`);
    });
  }

  async #drop() {
    await attempt(this.notice, async () => {
      await call("DELETE", `knowledge/articles/${encodeURIComponent(this.name.value)}`);
      this.close(this.line.is_shipped ? "The domain's own text is back." : "The article was removed.");
    });
  }
}
