// Reward rules: an editor that says what is wrong while one types, a trial on history, and saving with a reason.

import { DeskMemory } from "./operator_memory.js";
import { askReason, attempt, button, count, el, faint, field, get, JobBar, mono, nothing, Notice, number, panel, percent, pill, plural, post, table, when } from "./studio_kit.js";
import { renderReport } from "./studio_report.js";

const CHECK_AFTER_MS = 250;
const LOOK_AGAIN_MS = 2000;
const PLACE = "rules";

export class RulesPage {
  constructor() {
    this.notice = new Notice();
    this.editor = new Editor((text) => this.#edited(text));
    this.job = new JobBar("decisions");
    this.verdict = el("div", { class: "st-verdict", role: "status" });
    this.changes = el("details", { class: "st-diff", hidden: true });
    this.force = el("p", { class: "st-faint" });
    this.report = el("div", { class: "st-stack" });
    this.versions = el("div");
    this.tryButton = button("Try on history", () => this.#try(), { class: "primary" });
    this.saveButton = button("Save…", () => this.#save(), { disabled: true });
    this.resetButton = button("Undo changes", () => this.#load(this.rules.text));
    this.saveHint = faint("");
    const buttons = el("p", { class: "st-buttons" }, this.tryButton, this.saveButton, this.resetButton, this.saveHint);
    const meaning = "What a signal is worth. Try a change on history, then save it: a new version with your name and reason.";
    const editing = panel("Reward rules", meaning, this.force, this.editor.node, this.verdict, this.changes, buttons, this.job.node);
    const log = panel("Versions of the rules", "Newest first. Rewards that older rules gave stay readable in the transcripts.", this.versions);
    this.node = el("div", { class: "st-stack" }, this.notice.node, editing, this.report, log);
    this.tried = null;
  }

  /** The page is on the screen: what is in force, unless somebody is writing. */
  async show() {
    await attempt(this.notice, async () => {
      const before = this.rules;
      this.memory ??= new DeskMemory((await get("me")).name);
      const draft = before ? this.editor.text : this.memory.words(PLACE).text;
      this.#stand(await get("rules"));
      const isWriting = before ? draft !== before.text : draft && draft !== this.rules.text;
      if (!isWriting) return this.#load(this.rules.text);
      if (!before) this.#bringBack(draft);
      else if (before.rules_hash !== this.rules.rules_hash) await this.#overtaken(draft);
    });
  }

  #bringBack(draft) {
    this.#load(draft);
    this.notice.tell("The changes that you had not saved are back in the editor.");
  }

  /** Other rules are in force than those somebody writes against: the differences change, and no trial counts any more. */
  async #overtaken(draft) {
    this.tried = null;
    await this.#check(draft);
    const { author, number } = this.rules.versions[0];
    this.notice.tell(`${author} put version ${number} in force meanwhile. The differences are now against it: with these rules you would undo it. Try them again before you save.`, "bad");
  }

  #stand(rules) {
    this.rules = rules;
    const source = rules.number ? `version ${rules.number}` : "the domain's own file";
    const state = rules.current ? pill("all rewards are by these rules", "good") : pill("the learner computes the rewards anew", "warn");
    this.force.replaceChildren("In force: ", source, " ", mono(rules.rules_hash), " ", state);
    this.versions.replaceChildren(rules.versions.length ? this.#log(rules) : nothing("Nobody has changed them yet: the domain's file is in force."));
    clearTimeout(this.again);
    if (!rules.current) this.again = setTimeout(() => this.show(), LOOK_AGAIN_MS);
  }

  #log({ versions, number: current }) {
    const rows = versions.map((line) => [
      String(line.number), line.number === current ? pill("in force", "accent") : "", when(line.at), line.author, line.reason,
      mono(line.rules_hash), count(line.rewards), button("Open", () => this.#open(line.number), { class: "small" }),
    ]);
    return table("Versions of the rules", [["No.", "num"], "", "Since", "By", "Reason", "Hash", ["Rewards", "num"], ""], rows);
  }

  async #open(number) {
    await attempt(this.notice, async () => {
      this.#load((await get(`rules/versions/${number}`)).text);
      this.notice.tell(`Version ${number} is in the editor; it is not in force until you save it.`);
      this.editor.focus();
    });
  }

  #load(text) {
    this.editor.text = text;
    this.#edited(text);
  }

  #edited(text) {
    clearTimeout(this.timer);
    this.#allow();
    this.memory.keepWords(PLACE, { text: text === this.rules.text ? "" : text });
    this.timer = setTimeout(() => this.#check(text), CHECK_AFTER_MS);
  }

  async #check(text) {
    const found = await attempt(this.notice, () => post("rules/check", { text }));
    if (!found || text !== this.editor.text) return;
    this.checked = { text, ...found };
    this.#judge(found);
    this.#compare(found.diff);
    this.#allow();
  }

  #judge({ ok, mistake, warnings }) {
    this.editor.mark(mistake?.line);
    this.verdict.className = `st-verdict ${ok ? "good" : "bad"}`;
    if (ok) {
      const lines = warnings.map((line) => el("li", {}, line));
      this.verdict.replaceChildren(lines.length ? "No mistake, but:" : "No mistake.", ...(lines.length ? [el("ul", {}, ...lines)] : []));
      return;
    }
    const { file, line, column, expected, got, hint } = mistake;
    const place = button(`${file}:${line}:${column}`, () => this.editor.goTo(line, column), { class: "link" });
    this.verdict.replaceChildren(place, ` expected ${expected}, got ${got}`, hint ? ` (did you mean ${hint}?)` : "");
  }

  #compare(lines) {
    this.changes.hidden = !lines.length;
    const num = (kind) => lines.filter((line) => line.kind === kind).length;
    const sign = { added: "+", removed: "−", same: " ", gap: "⋯" };
    const rows = lines.map(({ kind, text }) => el("span", { class: `st-${kind}` }, `${sign[kind]} ${text}\n`));
    const summary = el("summary", {}, `Against the rules in force: ${plural(num("added"), "line")} added, ${num("removed")} removed`);
    this.changes.replaceChildren(summary, el("pre", { tabIndex: 0 }, ...rows));
  }

  /** Trying needs rules without a mistake; saving needs that this very text was tried. */
  #allow() {
    const text = this.editor.text;
    const isWell = this.checked?.text === text && this.checked.ok;
    const isNew = isWell && this.checked.rules_hash !== this.rules?.rules_hash;
    const isTried = this.tried === text;
    this.tryButton.disabled = !isWell || !this.job.node.hidden;
    this.saveButton.disabled = !(isNew && isTried);
    this.resetButton.disabled = !this.rules || text === this.rules.text;
    this.saveHint.textContent = isNew && !isTried ? "Saving opens once these rules were tried on history." : "";
  }

  async #try() {
    const text = this.editor.text;
    this.notice.tell("");
    const run = this.job.run(() => post("rules/backtests", { text }));
    this.#allow();
    const job = await attempt(this.notice, () => run);
    if (job) {
      this.tried = job.result.complete ? text : this.tried;
      this.report.replaceChildren(renderReport(job.result, job.seconds));
    }
    this.#allow();
  }

  async #save() {
    const text = this.editor.text;
    const consequence = "These rules replace those in force. The learner computes every reward anew; old rewards stay readable.";
    const reason = await askReason("Save reward rules", consequence, "Save");
    if (!reason) return;
    const saved = await attempt(this.notice, () => post("rules", { text, reason, based_on: this.rules.rules_hash }));
    if (!saved) return this.show();
    this.memory.keepWords(PLACE, {});
    await attempt(this.notice, async () => {
      this.notice.tell(`Rules version ${saved.number} is in force.`);
      this.#stand(await get("rules"));
      await this.#check(text);
    });
  }
}

/** A plain text area with line numbers: the one of the first mistake is marked. */
class Editor {
  constructor(onInput) {
    this.numbers = el("pre", { class: "st-line-numbers", aria: { hidden: "true" } });
    this.area = el("textarea", { spellcheck: false, wrap: "off", rows: 22, maxLength: 60000, autocapitalize: "off", autocomplete: "off" });
    this.area.setAttribute("aria-label", "Reward rules, YAML");
    this.area.addEventListener("input", () => (this.#count(), onInput(this.text)));
    this.area.addEventListener("scroll", () => (this.numbers.scrollTop = this.area.scrollTop));
    this.node = el("div", { class: "st-editor" }, this.numbers, this.area);
  }

  get text() {
    return this.area.value;
  }

  set text(text) {
    this.area.value = text;
    this.#count();
  }

  focus() {
    this.area.focus();
  }

  mark(line) {
    this.marked = line;
    this.#count();
    this.area.setAttribute("aria-invalid", String(Boolean(line)));
  }

  goTo(line, column) {
    const lines = this.text.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0) + column - 1;
    this.area.focus();
    this.area.setSelectionRange(start, start + 1);
    this.area.scrollTop = Math.max(0, (line - 6) * 20);
  }

  #count() {
    const num = this.text.split("\n").length;
    const mark = (line) => el("span", { class: line === this.marked ? "st-marked" : "" }, `${line}\n`);
    this.numbers.replaceChildren(...Array.from({ length: num }, (_, i) => mark(i + 1)));
    this.numbers.scrollTop = this.area.scrollTop;
  }
}
