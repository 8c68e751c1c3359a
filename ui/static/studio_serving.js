// How replies are made now: who waits, how long things take, what is computed together, which versions speak.

import { card, count, el, faint, number, panel, percent, plural, table } from "./studio_kit.js";

const TIMES = [
  ["Waited for a place", "queue_ms"],
  ["First text", "first_text_ms"],
  ["Generated: first token", "first_token_ms"],
  ["Generated: each next token", "piece_ms"],
  ["Whole reply", "reply_ms"],
  ["A new version, until it served", "swap_ms"],
];

/** A panel, or null where the server says nothing about it. */
export function renderServing(serving) {
  if (!serving) return null;
  const { writer } = serving;
  const parts = [block("Times", times(serving)), block("Versions", versions(serving)), block("Choices made together", bars(serving.batches, "batch"))];
  if (writer) parts.push(block("Generated replies written together", bars(writer.batches, "pass", "passes")));
  const told = Object.entries(serving.errors_by_code).map(([code, times_]) => `${code} ${count(times_)}`);
  if (told.length) parts.push(block("Told to people as errors", faint(told.join(", "))));
  return panel("Serving", "This server since its start.", el("div", { class: "st-cards small" }, ...cards(serving)), el("div", { class: "st-halves" }, ...parts));
}

function cards(serving) {
  const { writer } = serving;
  const found = [
    card("Now", plural(serving.replies_running, "reply", "replies"), `being made, ${count(serving.replies_waiting)} waiting, ${plural(serving.sockets, "open page")}`),
    card("Time to reply", ms(serving.reply_ms.p50), `median; 95 % within ${ms(serving.reply_ms.p95)}`),
    card("Known texts", percent(serving.known_texts), "did not go through the encoder again"),
    card("Swaps", count(serving.swaps), [`${plural(serving.versions_loaded, "version")} in memory`, serving.swaps_refused && `${count(serving.swaps_refused)} refused`].filter(Boolean).join(", ")),
  ];
  if (writer) {
    found.push(card("Written", `${number(writer.tokens_per_s, 0)} tokens/s`, `${plural(writer.replies, "generated reply", "generated replies")}, ${count(writer.running)} now, ${count(writer.waiting)} waiting`));
    found.push(card("Prompts known", percent(writer.prompt_reuse), "of their tokens had been read before"));
  }
  return found;
}

const block = (title, ...children) => el("section", { aria: { label: title } }, el("h3", {}, title), ...children);

function times(serving) {
  const rows = TIMES.map(([label, name]) => [label, ms(serving[name].p50), ms(serving[name].p95)]);
  return table("Times", ["", ["median", "num"], ["95 % within", "num"]], rows);
}

function versions(serving) {
  const { none, ...named } = serving.replies_by_version;
  const found = Object.entries(named).sort().reverse();
  if (none) found.push(["none", none]);
  if (!found.length) return faint("No reply yet.");
  const rows = found.map(([version, replies]) => [version === "none" ? "none (fixed lines)" : version, count(replies)]);
  return table("Versions", ["version", ["replies", "num"]], rows);
}

function bars(found, one, many) {
  const total = found.reduce((sum, bar) => sum + bar.batches, 0);
  if (!total) return faint("None yet.");
  const last = found.findLastIndex((bar) => bar.batches);
  const rows = found.slice(0, last + 1).map((bar, i) => [members(found, i), count(bar.batches), el("progress", { max: total, value: bar.batches, aria: { label: `${percent(bar.batches / total)} of all` } })]);
  return table(plural(total, one, many), ["together", [many || `${one}es`, "num"], ""], rows);
}

function members(found, i) {
  const from = i ? found[i - 1].up_to + 1 : 1;
  const to = found[i].up_to;
  return to === null ? `${from} and more` : from >= to ? String(to) : `${from}–${to}`;
}

const ms = (value) => (typeof value !== "number" ? "–" : value >= 1000 ? `${number(value / 1000, 1)} s` : `${number(value, value < 100 ? 1 : 0)} ms`);
