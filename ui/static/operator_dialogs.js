// Dialogs of the operator page: the right act or words for a reply, an article that is missing, a note (all resolve to whether it
// was sent), and the sheet of keys. `memory` (operator_memory.js) keeps their words until they are sent or given up.

import { el } from "./dom.js";
import { call, conversationPath } from "./operator_api.js";
import { ask, field, show, table } from "./operator_parts.js";

const KEYS = [
  ["j / k", "next, previous conversation"], ["Enter", "to the transcript"], ["/", "search"], ["a", "claim, or give back"],
  ["t", "take over"], ["r", "write to the customer"], ["h", "hand back to the bot"], ["e", "resolve"],
  ["z", "snooze for an hour, or wake"], ["f", "flag, or unflag"], ["#", "tag"], ["n", "note"], ["c", "correct the last reply"],
  ["o", "open or close the last reply's details"], ["i", "tags, notes and ratings, on narrow screens"], ["p", "compare two versions"], ["?", "this sheet"],
];

/** `acts`: act -> its title, all that may be called right. */
export function correctReply(message, acts, memory) {
  const text = el("textarea", { class: "od-input", rows: 5, maxLength: 4000, value: message.text });
  const options = el("datalist", { id: "od-acts-known" }, ...Object.entries(acts).map(([act, title]) => el("option", { value: act }, title)));
  const act = el("input", { class: "od-input", placeholder: "answer:…" });
  act.setAttribute("list", options.id);
  const fields = [field("The right act", act, "Pick an article, a response or an action: the weights learn it, too."), options, field("Or the right words", text, "Edited words are shown as you write them whenever the same is asked; leave them as they are to pick an act only.")];
  const send = () => call("POST", "v1/corrections", { message_id: message.id, act: act.value.trim(), text: text.value });
  const kept = memory.field(`correct:${message.id}`, text);
  return ask("Correct this reply", fields, "Correct it", send).finally(kept.forget);
}

export function draftArticle(message, memory) {
  const title = el("input", { class: "od-input", required: true, maxLength: 120 });
  const answer = el("textarea", { class: "od-input", rows: 5, maxLength: 8000 });
  const fields = [field("Title of the article", title), field("What it should say", answer, "A first version; developers finish it in the studio.")];
  const kept = memory.field(`draft:${message.id}`, answer);
  return ask("The right article is missing", fields, "Keep the draft", () => call("POST", "v1/drafts", { message_id: message.id, title: title.value.trim(), answer: answer.value })).finally(kept.forget);
}

export function writeNote(conversationId, memory) {
  const input = el("textarea", { class: "od-input", rows: 4, required: true, maxLength: 4000 });
  const kept = memory.field(`note:${conversationId}`, input);
  const send = () => call("POST", conversationPath(conversationId, "/notes"), { text: input.value });
  return ask("Write a note", [field("Only the staff sees it", input)], "Keep", send).finally(kept.forget);
}

export function showKeys() {
  show("Keys", table(["Key", "Does"], KEYS.map(([key, does]) => [el("kbd", {}, key), does])));
}
