// Below the transcript: the words to the customer while one speaks, else who does and how to take over. Sends; decides nothing else.

import { el, newId } from "./dom.js";
import { call, conversationPath, namedPath, read } from "./operator_api.js";
import { ask, button, faint, field, percent, select } from "./operator_parts.js";

const WHO_SPEAKS = {
  waiting: "The customer waits for a person; until then the assistant answers. Take over to speak yourself.",
  resolved: "Closed. It opens again when the customer writes, or when you take over.",
};
const BOT_SPEAKS = "The assistant answers. Take over to speak yourself: it is silent until you hand back.";

export class Composer {
  /** `on`: {takeOver(), handBack(), sent(), tell(words, isProblem)}. */
  constructor(on) {
    this.on = on;
    this.node = el("footer", { class: "od-composer" });
  }

  clear() {
    this.drawnFor = null;
    this.node.replaceChildren();
  }

  /** `id`: the conversation; `desk`: who has it; `name`: whose page this is; `memory`: a DeskMemory. */
  draw(id, desk, name, memory) {
    const wanted = `${id}:${desk.status}:${desk.assignee}`;
    if (wanted === this.drawnFor) return;
    const had = this.id === id && this.field?.isConnected ? this.field : null;
    Object.assign(this, { id, memory, drawnFor: wanted });
    if (desk.status === "person" && desk.assignee === name) return this.#drawField();
    if (had && desk.status === "person") this.on.tell(`${desk.assignee} has taken over.${had.value.trim() ? " What you had written is kept." : ""}`, true);
    const words = desk.status === "person" ? `${desk.assignee} is speaking with the customer.` : (WHO_SPEAKS[desk.status] ?? BOT_SPEAKS);
    const label = desk.status === "person" ? "Take over from them" : "Take over";
    this.node.replaceChildren(faint(words), button(label, () => this.on.takeOver(), { tone: "primary", keys: "t" }));
  }

  focus() {
    if (this.field?.isConnected) this.field.focus();
  }

  #drawField() {
    const { text = "", teach = false, draft = null, sending = null } = this.memory.words(this.id);
    this.draft = draft;
    this.sending = sending;
    this.field = el("textarea", { class: "od-input", rows: 3, maxLength: 4000, value: text, placeholder: "Write to the customer. Ctrl+Enter sends.", aria: { label: "Your message" } });
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#send();
      if (event.key === "Escape") this.field.blur();
    });
    this.teach = el("input", { type: "checkbox", checked: teach });
    for (const input of [this.field, this.teach]) input.addEventListener("input", () => this.#keep());
    const macros = select([["", "Macros"]], "", (name) => {
      if (name) this.#fill(this.field, this.macros[name]);
      macros.value = "";
    });
    macros.setAttribute("aria-label", "Macros");
    this.#fetchMacros(macros);
    const keep = button("Keep as macro", () => this.#keepMacro(macros), { tone: "small" });
    const back = button("Hand back to the bot", () => this.on.handBack(), { keys: "h" });
    this.node.replaceChildren(
      this.field,
      el("div", { class: "od-tools" }, button("Send", () => this.#send(), { tone: "primary" }), button("Draft by the bot", () => this.#suggest()), macros, keep, el("label", { class: "od-check" }, this.teach, "Teach the bot this answer"), el("span", { class: "od-spring" }), back),
    );
  }

  #keep() {
    this.memory.keepWords(this.id, { text: this.field.value, teach: this.teach.checked, draft: this.draft, sending: this.sending });
  }

  /** Puts words into a field that is still shown, after a yes where they take the place of typed ones; whether it did. */
  async #fill(field, text, draft = this.draft) {
    const typed = field.value.trim();
    const replaces = typed && typed !== this.draft?.text.trim();
    if (replaces && !(await ask("Replace what you have written?", [el("blockquote", {}, text)], "Replace", () => {}))) return false;
    if (!field.isConnected) return false;
    this.draft = draft;
    field.value = text;
    field.focus();
    this.#keep();
    return true;
  }

  async #fetchMacros(node) {
    this.macros = await read("v1/macros").catch(() => ({}));
    node.replaceChildren(el("option", { value: "" }, "Macros"), ...Object.keys(this.macros).map((name) => el("option", { value: name }, name)));
  }

  async #keepMacro(node) {
    const text = this.field.value.trim();
    if (!text) return this.on.tell("Write the reply first, then keep it.", true);
    const name = el("input", { class: "od-input", required: true, maxLength: 60 });
    await ask("Keep this reply for everybody", [field("Name", name), el("blockquote", {}, text)], "Keep", () => call("PUT", namedPath("macros", name.value.trim()), { text }));
    this.#fetchMacros(node);
  }

  async #suggest() {
    const { id, field } = this;
    try {
      const found = await call("POST", conversationPath(id, "/suggest"));
      if (!field.isConnected) return;
      if (!found.text) return this.on.tell(`The bot would do ${found.act}: it has no words for it.`);
      if (await this.#fill(field, found.text, { act: found.act, text: found.text })) this.on.tell(`Draft: ${found.act}, ${percent(found.probability)}. Sent as it is, it teaches nothing; edited, it can.`);
    } catch (error) {
      this.#failed(error);
    }
  }

  async #send() {
    const { id, memory } = this;
    const [text, teach] = [this.field.value.trim(), this.teach.checked];
    if (!text) return;
    // The same words sent again are one message; other words are another.
    if (this.sending?.text !== text) this.sending = { text, key: newId() };
    this.#keep();
    try {
      const said = await call("POST", conversationPath(id, "/say"), { key: this.sending.key, text, teach, draft: this.draft });
      // What was typed meanwhile, here or there, stays.
      if (memory.words(id).text?.trim() === text) memory.keepWords(id, {});
      this.on.tell(said.case_id ? "Sent, and the bot knows it from now on." : teach ? "Sent. The bot's own words, unedited, teach it nothing." : "Sent.");
      if (id === this.id) this.#empty(text);
      this.on.sent();
    } catch (error) {
      this.#failed(error);
    }
  }

  /** A conversation that is gone is told of when it is shown anew. */
  #failed(error) {
    this.on.tell(error.message, true);
    if (error.status === 404) this.on.sent();
  }

  #empty(sent) {
    this.sending = this.draft = null;
    if (this.field.value.trim() !== sent) return;
    this.field.value = "";
    this.teach.checked = false;
  }
}
