// Two versions on the same questions: what changed, first.

import { el, faint, mono, percent, pill, plural, table } from "./studio_kit.js";

/** The worker's result as a table. */
export function renderComparison({ versions: [first, second], questions, num_changed: changed }) {
  const order = [...questions].sort((a, b) => Number(b.changed) - Number(a.changed) || b.distance - a.distance);
  const choice = ({ act, title, probability }) => el("span", {}, title || mono(act), " ", el("span", { class: "st-faint st-sure" }, percent(probability)));
  const rows = order.map((line) => [line.text, choice(line.first), choice(line.second), line.changed ? pill("another act", "warn") : "", percent(line.distance, 1)]);
  const summary = faint(`${plural(questions.length, "question")}, ${changed} answered with another act. Percentages: how sure each version is; distance: half the sum of all differences.`);
  return el("div", { class: "st-stack" }, summary, table("Two versions side by side", ["Question", first, second, "", ["Distance", "num"]], rows));
}
