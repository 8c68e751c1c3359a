// The end of a chat, under the last reply: "Did this solve your problem?", then how the chat was, 1 to 5.
//
// One question at a time: the owner shows this only while no reply asks for a thumb of its own.

import { el, icon } from "./dom.js";

const BEST = 5;

export class SolvedQuestion {
  /** `onAnswer(solved)`, `onRate(1..5)`. */
  constructor(say, onAnswer, onRate) {
    this.say = say;
    this.onAnswer = onAnswer;
    this.onRate = onRate;
    this.node = el("div", { class: "rj-solved", hidden: true });
  }

  /** `solved`: true, false or null (not said); `csat`: 1..5 or null; `ended`: somebody else closed the conversation. */
  render(visible, { solved, csat, ended }) {
    this.node.hidden = !visible;
    if (!visible) return;
    const first = solved === null && !ended ? this.#question() : this.#thanks(solved);
    const rate = solved === true || ended ? [this.#rating(csat)] : [];
    this.node.replaceChildren(...first, ...rate);
  }

  #question() {
    const answer = (solved, text) => el("button", { type: "button", class: "rj-button rj-small", on: { click: () => this.onAnswer(solved) } }, this.say(text));
    return [el("span", { id: "rj-solved-text" }, this.say("solved.question")), el("div", { class: "rj-form-row", role: "group", aria: { labelledby: "rj-solved-text" } }, answer(true, "solved.yes"), answer(false, "solved.no"))];
  }

  #thanks(solved) {
    if (solved === null) return [];
    const change = el("button", { type: "button", class: "rj-link", on: { click: () => this.render(true, { solved: null, csat: null, ended: false }) } }, this.say("solved.change"));
    return [el("span", { role: "status" }, this.say(solved ? "solved.thanks.yes" : "solved.thanks.no")), change];
  }

  #rating(csat) {
    const star = (value) => {
      const label = this.say("csat.value", { value });
      const props = { type: "button", class: "rj-icon-button rj-star", title: label, aria: { label, pressed: value === csat }, on: { click: () => this.onRate(value) } };
      const node = el("button", props, icon("star"));
      node.classList.toggle("rj-lit", csat !== null && value <= csat);
      return node;
    };
    const values = Array.from({ length: BEST }, (_, i) => i + 1);
    const text = this.say(csat === null ? "csat.question" : "csat.thanks");
    return el("div", { class: "rj-csat" }, el("span", { id: "rj-csat-text", role: csat === null ? "note" : "status" }, text), el("div", { role: "group", aria: { labelledby: "rj-csat-text" } }, values.map(star)));
  }
}
