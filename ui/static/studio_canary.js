// A canary: a version that serves a share of conversations beside the champion, and what people say of the two.

import { button, count, el, faint, mono, panel, percent, pill, table, when } from "./studio_kit.js";

const SHARES = [0.05, 0.1, 0.25, 0.5];
const TONES = { wait: "warn", promote: "good", withdraw: "bad" };
const VERDICTS = { wait: "too early to tell", promote: "to be promoted", withdraw: "to be withdrawn" };

/** A panel, or nothing where no canary serves. `promote` and `withdraw` ask for a reason and do it. */
export function renderCanary(canary, promote, withdraw) {
  if (!canary) return [];
  const meaning = `Gets ${percent(canary.share)} of conversations since ${when(canary.since)}, each for as long as it lasts: ${canary.reason}`;
  const verdict = el("p", {}, pill(VERDICTS[canary.verdict], TONES[canary.verdict]), ` ${canary.verdict_reason}`);
  const heads = ["", "Version", ["Conversations", "num"], ["Replies", "num"], ["Thumbs up", "num"], ["Solved", "num"]];
  const both = table("Canary and champion", heads, [row("Canary", canary.candidate), row("Champion", canary.champion)]);
  const note = faint("Both since the canary began. In brackets: where the true share lies, at 95 %.");
  const buttons = el("p", { class: "st-buttons" }, button("Promote it", promote), button("Withdraw it", withdraw));
  return [panel(`Canary ${canary.version}`, meaning, verdict, both, note, buttons)];
}

const row = (name, arm) => [name, mono(arm.version), count(arm.conversations), count(arm.replies), share(arm.up, arm.up_ci, arm.rated), share(arm.success, arm.success_ci, arm.outcomes)];

function share(mean, interval, num) {
  if (!num) return "–";
  const within = interval ? ` [${interval.map((end) => percent(end)).join(", ")}]` : "";
  return `${percent(mean)}${within} of ${count(num)}`;
}

/** Which share of conversations a new canary gets. */
export function shareField() {
  const options = SHARES.map((value) => el("option", { value, selected: value === 0.1 }, percent(value)));
  return el("select", {}, ...options);
}
