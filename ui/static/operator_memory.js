// What a tab of the operator's page would lose when its session ends: filters, and words that were not sent yet. Kept in that
// tab alone, for the account that is signed in, until it signs out.

import { readKept, session, writeKept } from "./memory.js";

const DESK = "rejoinder.desk";

/** At sign-out, from whichever page. */
export const forgetDesk = () => writeKept(session, DESK, null);

export class DeskMemory {
  #kept;

  /** What another account left here is gone. */
  constructor(account) {
    const found = readKept(session, DESK);
    this.#kept = found?.account === account ? found : { account, list: null, words: {} };
    this.#save();
  }

  /** {filter, chosen} of the list, or null. */
  get list() {
    return this.#kept.list;
  }

  keepList(list) {
    this.#kept.list = list;
    this.#save();
  }

  /** What was written at a place and not sent: a record with its `text`, or {}. */
  words(place) {
    return this.#kept.words[place] ?? {};
  }

  keepWords(place, record) {
    if (record.text) this.#kept.words[place] = record;
    else delete this.#kept.words[place];
    this.#save();
  }

  /** The field keeps what is typed into it, and begins with what was; `forget()` once it is sent or given up. */
  field(place, input) {
    input.value = this.words(place).text ?? input.value;
    input.addEventListener("input", () => this.keepWords(place, { text: input.value }));
    return { forget: () => this.keepWords(place, {}) };
  }

  #save() {
    writeKept(session, DESK, this.#kept);
  }
}
