// A person's own conversation over HTTP: taking it along as a file, having it forgotten.

import { el } from "./dom.js";

export class OwnConversation {
  /** `base`: address of the conversations; `credentials()`: {conversation_id, token} of the one that is open. */
  constructor(base, credentials) {
    this.base = base;
    this.credentials = credentials;
  }

  /** Saves the conversation as a file; returns whether it worked. */
  async download() {
    const answer = await this.#ask("GET", "/download");
    if (!answer) return false;
    const address = URL.createObjectURL(await answer.blob());
    const link = el("a", { href: address, download: `conversation-${this.credentials().conversation_id}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
    return true;
  }

  /** Has the server forget it; returns whether it did. */
  async erase() {
    return Boolean(await this.#ask("DELETE", ""));
  }

  async #ask(method, tail) {
    const { conversation_id: id, token } = this.credentials();
    try {
      const answer = await fetch(new URL(encodeURIComponent(id) + tail, this.base), { method, headers: { Authorization: `Bearer ${token}` } });
      return answer.ok ? answer : null;
    } catch {
      return null; // offline: the caller says so
    }
  }
}

/** Asks before something that cannot be undone; `onYes` runs when it is wanted. */
export class Confirmation {
  constructor(say, onYes) {
    const close = () => this.dialog.close();
    const yes = el("button", { type: "button", class: "rj-button rj-danger", on: { click: () => (close(), onYes()) } }, say("erase.yes"));
    const no = el("button", { type: "button", class: "rj-button", on: { click: close } }, say("erase.no"));
    const title = el("h2", { id: "rj-erase-title" }, say("erase.title"));
    const row = el("div", { class: "rj-form-row" }, no, yes);
    this.dialog = el("dialog", { class: "rj-panel rj-confirm", aria: { labelledby: "rj-erase-title" } }, title, el("p", {}, say("erase.text")), row);
  }

  open() {
    this.dialog.showModal();
  }
}
