// Thumbs on one bot reply, with reasons and a comment on both signs.
//
// A press counts at once (nobody's thumb waits for a form). Reasons and comment then go together as one vote that takes
// the place of the bare one. Pressing the same thumb again withdraws.

import { el, iconButton } from "./dom.js";

const NO_VOTE = { thumb: 0, reasons: [], comment: "" };
const MAX_COMMENT_CHARS = 1000;

export class VoteBar {
  #vote = NO_VOTE;

  /** `chips`: {up: [..], down: [..]}; `on`: {vote({thumb, reasons, comment}) sends it; form(): the form was opened or closed;
   * learns(): whether votes here teach}; `asks`: ask for a vote until there is one. */
  constructor(say, chips, on, asks = false) {
    this.say = say;
    this.chips = chips;
    this.on = on;
    this.asks = asks;
    this.up = this.#thumbButton(1, "up", "vote.up");
    this.down = this.#thumbButton(-1, "down", "vote.down");
    this.edit = el("button", { type: "button", class: "rj-link rj-vote-edit", hidden: true, on: { click: () => this.#openForm() } });
    this.question = el("span", { class: "rj-vote-question", hidden: true }, say("vote.ask"));
    const label = say(asks ? "vote.ask" : "vote.group");
    this.buttons = el("div", { class: "rj-votes", role: "group", aria: { label } }, this.edit, this.question, this.up, this.down);
    this.form = el("div", { class: "rj-vote-slot" });
    this.#showQuestion();
  }

  /** Shows a vote that is in force (from the server, or from another tab). */
  show(vote) {
    this.#vote = { ...NO_VOTE, ...vote };
    const { thumb, reasons, comment } = this.#vote;
    this.up.setAttribute("aria-pressed", String(thumb === 1));
    this.down.setAttribute("aria-pressed", String(thumb === -1));
    this.edit.hidden = thumb === 0 || this.#formIsOpen;
    this.edit.textContent = this.say(reasons.length || comment ? "vote.edit" : "vote.add");
    this.#showQuestion();
    if (thumb === 0) this.#closeForm();
  }

  /** Whether it asks for a vote and has none, or is open. */
  get isAsking() {
    return (this.asks && this.#vote.thumb === 0) || Boolean(this.form.querySelector("form"));
  }

  #showQuestion() {
    const isOpen = this.asks && this.#vote.thumb === 0;
    this.question.hidden = !isOpen;
    this.buttons.classList.toggle("rj-asks", isOpen);
  }

  get #formIsOpen() {
    return this.form.firstChild !== null;
  }

  #thumbButton(thumb, iconName, label) {
    const button = iconButton(iconName, this.say(label), () => this.#press(thumb));
    button.classList.add(`rj-thumb-${iconName}`);
    button.setAttribute("aria-pressed", "false");
    return button;
  }

  #press(thumb) {
    const vote = this.#vote.thumb === thumb ? NO_VOTE : { thumb, reasons: [], comment: "" };
    this.#cast(vote);
    if (vote.thumb) this.#openForm();
  }

  #cast(vote) {
    this.show(vote);
    this.on.vote(vote);
  }

  #openForm() {
    const { thumb, reasons, comment } = this.#vote;
    const chips = (thumb > 0 ? this.chips.up : this.chips.down) || [];
    const chosen = new Set(reasons);
    const field = this.#commentField(comment);
    const form = el(
      "form",
      { class: "rj-vote-form", aria: { label: this.say("vote.details") } },
      el("p", { class: "rj-vote-title" }, this.say(thumb > 0 ? "vote.title.up" : "vote.title.down")),
      el("div", { class: "rj-chips" }, chips.map((chip) => this.#chip(chip, chosen))),
      field,
      el("div", { class: "rj-form-row" }, this.#formButton("button", "vote.skip", "rj-button"), this.#formButton("submit", "vote.send", "rj-button rj-primary")),
    );
    form.addEventListener("keydown", (event) => event.key === "Escape" && this.#closeForm(true));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#cast({ thumb, reasons: [...chosen], comment: field.value.trim() });
      this.#thank();
    });
    form.querySelector("button.rj-button:not(.rj-primary)").addEventListener("click", () => this.#closeForm(true));
    this.form.replaceChildren(form);
    this.on.form();
    this.edit.hidden = true;
    form.querySelector("button").focus({ preventScroll: true });
    form.scrollIntoView({ block: "nearest" });
  }

  #formButton(type, label, className) {
    return el("button", { type, class: className }, this.say(label));
  }

  #commentField(comment) {
    const label = this.say("vote.comment");
    return el("textarea", { class: "rj-comment", rows: 2, maxLength: MAX_COMMENT_CHARS, value: comment, placeholder: label, aria: { label } });
  }

  #chip(chip, chosen) {
    const button = el("button", { type: "button", class: "rj-chip", aria: { pressed: chosen.has(chip) }, data: { chip } }, chipText(this.say, chip));
    button.addEventListener("click", () => {
      if (!chosen.delete(chip)) chosen.add(chip);
      button.setAttribute("aria-pressed", String(chosen.has(chip)));
    });
    return button;
  }

  #thank() {
    this.edit.hidden = false;
    this.form.replaceChildren(el("p", { class: "rj-thanks", role: "status" }, this.say(this.on.learns() ? "vote.thanks" : "vote.thanks.only")));
    this.on.form();
    this.edit.focus({ preventScroll: true });
  }

  #closeForm(refocus = false) {
    this.form.replaceChildren();
    this.on.form();
    this.edit.hidden = this.#vote.thumb === 0;
    if (refocus) (this.#vote.thumb > 0 ? this.up : this.down).focus({ preventScroll: true });
  }
}

/** A chip in the page's language; an unknown one is shown as the server wrote it, with spaces. */
export function chipText(say, chip) {
  const plain = chip.replaceAll("_", " ");
  return say(`chip.${chip}`, {}, plain.charAt(0).toUpperCase() + plain.slice(1));
}
