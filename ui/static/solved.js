// "Did this solve your problem?": one question under the last reply.

import { el } from "./dom.js";

export class SolvedQuestion {
  constructor(say, onAnswer) {
    this.say = say;
    this.onAnswer = onAnswer;
    this.node = el("div", { class: "rj-solved", hidden: true });
  }

  /** Asks, thanks (`solved` true or false), or hides (`visible` false). */
  render(visible, solved) {
    this.node.hidden = !visible;
    if (!visible) return;
    this.node.replaceChildren(...(solved === null ? this.#question() : this.#thanks(solved)));
  }

  #question() {
    const answer = (solved, text) => el("button", { type: "button", class: "rj-button rj-small", on: { click: () => this.onAnswer(solved) } }, this.say(text));
    return [el("span", { id: "rj-solved-text" }, this.say("solved.question")), el("div", { class: "rj-form-row", role: "group", aria: { labelledby: "rj-solved-text" } }, answer(true, "solved.yes"), answer(false, "solved.no"))];
  }

  #thanks(solved) {
    const change = el("button", { type: "button", class: "rj-link", on: { click: () => this.render(true, null) } }, this.say("solved.change"));
    return [el("span", { role: "status" }, this.say(solved ? "solved.thanks.yes" : "solved.thanks.no")), change];
  }
}
