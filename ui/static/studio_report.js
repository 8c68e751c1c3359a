// A backtest's report: new rules beside those in force. docs/rules.md says how to read each number.

import { button, card, count, el, faint, number, panel, percent, plural, table } from "./studio_kit.js";
import { plot } from "./studio_plot.js";
import { readTranscript } from "./studio_transcript.js";

/** The whole report as panels. */
export function renderReport(report, seconds) {
  const { after, before } = report;
  const seen = `${plural(report.num_decisions, "decision")} in ${plural(report.num_conversations, "conversation")}, ${number(seconds, 1)} s`;
  const parts = report.complete ? seen : `Stopped early; this is what was seen: ${seen}`;
  return el("div", { class: "st-stack" },
    panel("On history", parts, el("div", { class: "st-cards" }, ...cards(report)), changes(report.diff)),
    el("div", { class: "st-plots" }, histogram(after, before)),
    el("div", { class: "st-two" }, shifts("Gain most", report.gained), shifts("Lose most", report.lost)),
    exposure(report), segments(report.segments), byRule(after.rules), failures(report.failures));
}

function cards({ after, before, handover_rate: handovers }) {
  const beside = (value) => `in force: ${value}`;
  const interval = ([low, high]) => `[${number(low)}, ${number(high)}]`;
  return [
    card("Coverage", percent(after.coverage, 1), `of decisions have a reward; ${beside(percent(before.coverage, 1))}`),
    card("Mean reward", number(after.distribution.mean, 3, true), `from −1 to 1, deviation ${number(after.distribution.std)}; ${beside(number(before.distribution.mean, 3, true))}`),
    card("Agreement with success", number(after.auc), `AUC ${interval(after.auc_ci)}, .5 knows nothing of it; ${beside(number(before.auc))}`),
    card("Correlation with length", number(after.length_correlation, 2, true), `rank correlation; far from 0 teaches length; ${beside(number(before.length_correlation, 2, true))}`),
    card("Clipped", percent(after.clipped, 1), `of rated decisions; much: weights too large; ${beside(percent(before.clipped, 1))}`),
    card("Asked for a person", percent(handovers, 1), "of conversations, under any rules"),
  ];
}

function changes(diff) {
  const said = { raised: diff.num_raised, lowered: diff.num_lowered, "newly rated": diff.num_newly_rated, "no longer rated": diff.num_no_longer_rated, "with another sign": diff.num_sign_flipped };
  const parts = Object.entries(said).map(([name, value]) => `${count(value)} ${name}`);
  return faint(`Against the rules in force ${plural(diff.num_changed, "decision")} would have another reward: ${parts.join(", ")}; mean change ${number(diff.mean_change, 3, true)}.`);
}

function histogram(after, before) {
  const bins = after.distribution.histogram;
  const labels = bins.map((_, i) => number(-1 + (2 * (i + 0.5)) / bins.length, 2, true));
  const series = [
    { name: "new", tone: "accent", values: bins },
    { name: "in force", tone: "soft", values: before.distribution.histogram },
  ];
  return plot({ title: "Distribution of rewards", meaning: "Rated decisions by reward, from −1 to 1. A reward that hardly varies teaches nothing.", labels, series, kind: "bar", show: count });
}

function shifts(title, lines) {
  const rows = lines.map(({ conversation_id: id, before, after }) => [button(id, () => readTranscript(id), { class: "link" }), number(before, 2, true), number(after, 2, true), number(after - before, 2, true)]);
  const heads = ["Conversation", ["In force", "num"], ["New", "num"], ["Change", "num"]];
  return panel(title, "Sums of a conversation's rewards; read a few before you save.", rows.length ? table(title, heads, rows) : faint("None."));
}

function exposure({ after, before }) {
  const rows = Object.entries(after.acts).map(([act, now]) => [
    act, percent(now.rate, 1), percent(now.rate_among_best, 1), number(now.mean_reward, 2, true), number(now.mean_reward_others, 2, true), number(before.acts[act]?.mean_reward, 2, true),
  ]);
  const heads = ["Act", ["Share", "num"], ["Among the best tenth", "num"], ["Mean reward", "num"], ["Others' mean", "num"], ["In force", "num"]];
  return panel("Easy ways to a reward", "Handing over or asking back is always possible. If it pays more than answering, the bot will learn to do just that.", table("Exposure", heads, rows));
}

function segments(lines) {
  const rows = lines.map((line) => [line.name, count(line.num_conversations), percent(line.coverage), number(line.mean_before, 2, true), number(line.mean_after, 2, true), number(line.mean_after - line.mean_before, 2, true)]);
  const heads = ["Users", ["Conversations", "num"], ["Coverage", "num"], ["In force", "num"], ["New", "num"], ["Change", "num"]];
  return panel("Kinds of users", "Mean reward of each kind. A change that only one of them feels is probably about them.", table("Kinds of users", heads, rows));
}

function byRule(rules) {
  const rows = Object.entries(rules).map(([name, { terms, mean, sum }]) => [name, count(terms), number(mean, 3, true), number(sum, 1, true)]);
  return panel("Rule by rule", "How often each rule spoke, and what it gave. A rule that is missing here never held.", table("Rule by rule", ["Rule", ["Terms", "num"], ["Mean", "num"], ["Sum", "num"]], rows));
}

function failures(found) {
  const lines = Object.entries(found);
  return lines.length ? panel("Could not be computed", "These rules gave nothing where this happened.", el("ul", {}, lines.map(([line, times]) => el("li", {}, `${plural(times, "time")}: ${line}`)))) : null;
}
