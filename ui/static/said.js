// What a message says to whoever reads it, where that is not letter for letter what was stored. Chat and staff alike.

const ENDED = /(?:^|[.!?…:。！？])["'’”»)\]*_\x60]*\s*$/u;

/** A reply that was cut in the middle of a sentence says so; one that its person stopped has a note for that. */
export function shownText(message) {
  const isCut = ["length", "deadline", "repetition"].includes(message.stop_reason) && !ENDED.test(message.text);
  return isCut ? message.text.trimEnd() + "…" : message.text;
}

/** A quick reply's words in the reader's language; the server knows it by `text`. */
export const quickLabel = (say, text) => say(`quick.${text}`, {}, text);

/** A person's words: as on the button where `text` is one that the reply before it offered. */
export const pressed = (say, offered, text) => (offered.includes(text) ? quickLabel(say, text) : text);
