// One conversation in a dialog: who said what, and which rule gave which reward, old ones too.

import { shownText } from "./said.js";
import { dialog, el, faint, get, mono, nothing, number, pill } from "./studio_kit.js";

/** Opens the dialog. */
export function readTranscript(id) {
  const body = el("div", { class: "st-transcript" }, faint("Loading…"));
  const fill = async () => {
    try {
      body.replaceChildren(...lines(await get(`conversations/${encodeURIComponent(id)}`)));
    } catch (error) {
      body.replaceChildren(nothing(error.message));
    }
  };
  fill();
  return dialog(`Conversation ${id}`, () => body, "wide");
}

function lines({ messages, decisions = [], rewards = [] }) {
  const steps = [...decisions].sort((a, b) => a.turn - b.turn || a.created_at - b.created_at);
  return messages.map((message) => {
    // Each reply that can be rated was made by exactly one decision, in the same order.
    const step = message.can_vote ? steps.shift() : null;
    const found = step ? rewards.filter((reward) => reward.decision_id === step.id) : [];
    const head = el("p", { class: "st-who" }, message.role, message.act && mono(message.act), message.version && mono(message.version));
    return el("article", { class: `st-message ${message.role}` }, head, el("p", { class: "st-said" }, shownText(message)), ...found.map(line));
  });
}

function line(reward) {
  const terms = reward.terms.map((term) => `${term.rule} ${number(term.value, 2, true)}`).join(", ");
  const value = reward.value === null ? "withdrawn" : number(reward.value, 2, true);
  return el("p", { class: "st-faint" }, pill(`${reward.scope} ${value}`, reward.value < 0 ? "bad" : "good"), ` revision ${reward.revision}, rules `, mono(reward.rules_hash), terms && `: ${terms}`);
}
