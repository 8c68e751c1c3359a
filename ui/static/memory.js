// What the browser remembers: which conversation is ours (all tabs), and what this tab has sent without an answer.

const CHAT = "rejoinder.chat";
const OUTBOX = "rejoinder.outbox";
const LANGUAGE = "rejoinder.language";

export function readKept(storage, key) {
  try {
    return JSON.parse(storage().getItem(key) || "null");
  } catch {
    return null; // storage is blocked, or holds something that is not ours
  }
}

export function writeKept(storage, key, value) {
  try {
    if (value === null) storage().removeItem(key);
    else storage().setItem(key, JSON.stringify(value));
  } catch {
    // storage is blocked or full: the chat still works until the page is closed
  }
}

const local = () => window.localStorage;
export const session = () => window.sessionStorage;

/** `{conversation_id, token}` shared by all tabs, or `{}`. */
export function loadChat() {
  return readKept(local, CHAT) || {};
}

export function saveChat(chat) {
  writeKept(local, CHAT, chat);
}

/** Calls back with the new `{conversation_id, token}` when another tab changed it. */
export function onChatChanged(listener) {
  window.addEventListener("storage", (event) => {
    if (event.key === CHAT && event.newValue) listener(loadChat());
  });
}

/** The language that was chosen here, or "". */
export function loadLanguage() {
  return readKept(local, LANGUAGE) || "";
}

export function saveLanguage(language) {
  writeKept(local, LANGUAGE, language);
}

/** Frames sent and not acknowledged, in order; they survive a reload of this tab. */
export class Outbox {
  #conversationId = "";
  #frames = new Map();

  /** Frames belong to one conversation: another one starts empty. */
  open(conversationId) {
    if (conversationId === this.#conversationId) return;
    const saved = readKept(session, OUTBOX);
    const kept = saved && saved.conversation_id === conversationId ? saved.frames : [];
    const early = this.#conversationId ? [] : [...this.#frames];
    this.#conversationId = conversationId;
    this.#frames = new Map([...kept, ...early]);
    this.#save();
  }

  put(id, frame) {
    this.#frames.set(id, frame);
    this.#save();
  }

  /** Forgets a frame; returns it, or undefined. */
  take(id) {
    const frame = this.#frames.get(id);
    if (this.#frames.delete(id)) this.#save();
    return frame;
  }

  all() {
    return [...this.#frames.values()];
  }

  clear() {
    this.#frames.clear();
    this.#conversationId = "";
    writeKept(session, OUTBOX, null);
  }

  #save() {
    writeKept(session, OUTBOX, { conversation_id: this.#conversationId, frames: [...this.#frames] });
  }
}
