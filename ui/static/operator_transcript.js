// The transcript: every message, and behind each reply of the bot what it could have done, why it did this, and what came of it.

import { el } from "./dom.js";
import { code, faint, percent, pill, signed, table, time, button, statePill } from "./operator_parts.js";
import { shownText } from "./said.js";

const ROLES = { user: "Customer", bot: "Assistant", operator: "Customer service", system: "Event" };
const SHOWN_ACTS = 6;
const MOVED_BY = {
  retriever: "The retriever alone would have chosen this act.",
  case: "A correction of the same question brought this act to the top.",
  weights: "What was learned from ratings brought this act to the top.",
  chance: "This act was drawn by chance: it was not the most probable one, and exploring is how the policy learns.",
};

/** What a signal says, in words; `value` is what it carries. */
const SAID = {
  outcome: ({ value }) => (value > 0 ? pill("solved", "good") : pill("not solved", "bad")),
  csat: ({ value }) => pill(`${value} of 5`, value > 3 ? "good" : value < 3 ? "bad" : ""),
  handover: () => pill("asked for a person", "warn"),
  retry: () => pill("asked for another answer"),
  rephrase: ({ value }) => pill(`asked again in other words (${Number(value).toFixed(2)} alike)`),
  abandon: () => pill("left it there"),
  rating: ({ value }) => pill(`rated ${signed(value)}`, value > 0 ? "good" : "bad"),
  correction: () => pill("corrected", "accent"),
};

export class TranscriptView {
  /** `on`: {why(decisionId), correct(message), rate(message, value), draft(message), forget(caseId), article(id)}. */
  constructor(on) {
    this.on = on;
    this.open = new Set();
    this.whys = new Map();
    this.node = el("div", { class: "od-transcript", role: "log", aria: { label: "Transcript" }, tabIndex: 0 });
    this.clear();
  }

  clear() {
    this.node.replaceChildren(el("p", { class: "od-empty" }, "Choose a conversation: ", el("kbd", {}, "j"), " and ", el("kbd", {}, "k"), " go through the list, ", el("kbd", {}, "?"), " shows every key."));
  }

  draw(answer, canAct) {
    const atEnd = this.node.scrollHeight - this.node.scrollTop - this.node.clientHeight < 60;
    this.canAct = canAct;
    const lines = answer.messages.map((message) => this.#message(message, answer));
    this.node.replaceChildren(...lines);
    if (atEnd || this.shownId !== answer.conversation.id) this.node.scrollTop = this.node.scrollHeight;
    this.shownId = answer.conversation.id;
  }

  #message(message, answer) {
    const role = message.role in ROLES ? message.role : "system";
    const who = role === "operator" && message.author ? message.author : ROLES[role];
    const head = el("p", { class: "od-who" }, who, " ", time(message.created_at));
    const decisionId = answer.decision_of?.[message.id];
    const decision = decisionId && answer.decisions.find((one) => one.id === decisionId);
    const step = decision ? [this.#step(message, decision, answer)] : [];
    return el("article", { class: `od-message od-${role}` }, head, el("div", { class: "od-text" }, shownText(message)), ...step);
  }

  #step(message, decision, answer) {
    const share = Math.exp(decision.logprobs[decision.chosen]);
    const rewards = latest(answer.rewards.filter((reward) => reward.decision_id === decision.id));
    const signals = answer.signals.filter((signal) => signal.decision_id === decision.id);
    const failed = (answer.action_events?.[decision.id] ?? []).some((event) => event.error);
    const summary = [code(decision.legal[decision.chosen].act), failed && pill("action failed", "bad"), code(decision.version), el("span", {}, percent(share)), ...rewards.map(rewardPill), ...signals.filter((s) => s.kind === "thumb").slice(-1).filter((s) => s.value).map(thumbPill)];
    const details = el("details", { class: "od-step", open: this.open.has(message.id) }, el("summary", {}, ...summary.filter(Boolean)));
    const fill = () => details.append(this.#inside(message, decision, answer, rewards, signals));
    if (details.open) fill();
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) fill();
      if (details.open) this.open.add(message.id);
      else this.open.delete(message.id);
    });
    const cases = answer.cases.filter((one) => one.decision_id === decision.id);
    return el("div", {}, details, this.#actions(message), ...cases.map((one) => this.#case(one)));
  }

  #actions(message) {
    if (!this.canAct) return null;
    const rate = (label, value) => button(label, () => this.on.rate(message, value), { tone: "small" });
    return el("div", { class: "od-step-actions" }, button("Correct", () => this.on.correct(message), { tone: "small", keys: "c" }), rate("Good", 1), rate("Bad", -1), button("Article missing", () => this.on.draft(message), { tone: "small" }));
  }

  #case(one) {
    const state = one.removed_at ? pill("taken back") : pill("in force", "good");
    const waits = "The learner trains on it once enough people have spoken on the topic (learn.quorum).";
    const learned = one.taught ? `The weights learned it: ${one.taught} was the first version.` : waits;
    const written = one.words_taught ? `The language model learned its words: ${one.words_taught} was the first version.` : "Its words are learned where replies are generated (learn.words_weight), if an article says what they say.";
    const kept = one.lesson_id || one.text ? "" : "It speaks as a case; the conversation is kept for the gate.";
    const became = [one.lesson_id ? learned : "", one.text ? written : "", kept].filter(Boolean).join(" ");
    const used = one.num_uses === 1 ? "It spoke in one reply since." : `It spoke in ${one.num_uses} replies since.`;
    const right = one.text ? el("q", {}, one.text) : code(one.act);
    const undo = !one.removed_at && this.canAct ? button("Take back", () => this.on.forget(one.id), { tone: "small" }) : null;
    return el("div", { class: "od-case" }, el("p", {}, "Corrected by ", one.author.replace("operator:", ""), " to ", right, " ", state), faint(one.removed_at ? `Taken back by ${one.removed_by.replace("operator:", "")}.` : `${used} ${became}`), undo);
  }

  #inside(message, decision, answer, rewards, signals) {
    const acts = el("div", {}, this.#acts(decision, this.whys.get(decision.id)));
    if (!this.whys.has(decision.id)) this.#explain(decision, acts);
    const done = answer.action_events?.[decision.id] ?? [];
    const doings = done.length ? [el("h3", {}, "What it did beside speaking"), el("ol", { class: "od-doings" }, ...done.map(doing))] : [];
    return el("div", { class: "od-inside" }, el("h3", {}, "What it could do, and why it did this"), acts, ...doings, el("h3", {}, "What people said"), ...signalLines(signals), el("h3", {}, "Reward"), ...rewardLines(rewards), this.#facts(message, decision));
  }

  async #explain(decision, acts) {
    const why = await this.on.why(decision.id);
    if (!why) return;
    this.whys.set(decision.id, why);
    acts.replaceChildren(this.#acts(decision, why));
  }

  #acts(decision, why) {
    const ranked = decision.legal.map(({ act, prior_logit: prior }, i) => ({ act, prior, i, share: Math.exp(decision.logprobs[i]), ...(why?.acts[i] ?? {}) }));
    ranked.sort((a, b) => b.share - a.share);
    const heads = ["Act", ...(why ? ["Fresh install", ...(why.case ? ["With the case"] : [])] : []), "Propensity", "Prior"];
    const rows = ranked.map((row) => [
      el("span", { class: "od-act" }, code(row.act), row.i === decision.chosen && pill("chosen", "accent"), row.i === decision.mode && pill("most likely")),
      ...(why ? [percent(row.retriever), ...(why.case ? [percent(row.with_case)] : [])] : []),
      bar(row.share),
      row.prior ? signed(row.prior) : "0",
    ]);
    const rest = rows.slice(SHOWN_ACTS);
    const more = rest.length > 0 && el("details", {}, el("summary", {}, `and ${rest.length} more`), table(heads, rest));
    const caseLine = why?.case && faint(`Case ${why.case.case_id} (cosine ${why.case.cosine.toFixed(3)}) added ${signed(why.case.prior_logit)} to the prior of ${why.case.act}.`);
    return el("div", {}, why ? el("p", { class: "od-why" }, MOVED_BY[why.moved_by] ?? "") : faint("Comparing with a fresh install…"), table(heads, rows.slice(0, SHOWN_ACTS), "od-acts"), more, caseLine);
  }

  #facts(message, decision) {
    const sources = message.sources.map((source) => button(`Source: ${source.title}`, () => this.on.article(source.id), { tone: "small" }));
    const timings = Object.entries(decision.timings_ms).map(([name, ms]) => `${name} ${ms.toFixed(0)} ms`);
    const facts = [`version ${decision.version}`, `temperature ${decision.temperature}`, `V ${decision.value.toFixed(2)}`, decision.holdout ? "held out for the gate" : "", decision.train_ok ? "" : "not to be learned from", ...timings];
    return el("div", { class: "od-facts" }, ...sources, faint(`Read as: ${decision.query}`), faint(facts.filter(Boolean).join(" · ")));
  }
}

/** The facts of a conversation: state, marks, what was said about the whole, notes. */
export function drawSide(node, answer, on, canAct) {
  const { desk, conversation } = answer;
  const whole = answer.signals.filter((signal) => !signal.decision_id);
  const tags = desk.tags.map((tag) => el("span", { class: "od-pill" }, `#${tag}`, canAct && el("button", { type: "button", class: "od-x", aria: { label: `Remove tag ${tag}` }, on: { click: () => on.untag(tag) } }, "×")));
  const facts = [
    ["State", statePill(desk.state)],
    ["Assignee", desk.assignee || "nobody"],
    ["Started", time(conversation.created_at)],
    ["Language", desk.language || "not known yet"],
    ["Replies", `${conversation.reply}, ${conversation.learn ? "may be learned from" : "not to be learned from"}`],
    ["Satisfaction", desk.csat ? `${desk.csat} of 5` : "not given"],
  ];
  const list = el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  const notes = answer.notes.map((note) => el("li", {}, el("p", {}, note.text), el("p", { class: "od-faint" }, note.author.replace("operator:", ""), " · ", time(note.at))));
  const parts = [
    button("‹ Transcript", on.back, { tone: "quiet od-about" }),
    el("h2", {}, "Conversation"), code(conversation.id), list,
    el("h2", {}, "Tags"), el("div", { class: "od-tags" }, ...tags, canAct && button("Add", on.tag, { tone: "small", keys: "#" })),
    el("h2", {}, "Notes"), notes.length ? el("ul", { class: "od-notes" }, ...notes) : faint("Only the staff sees notes."), canAct && button("Write a note", on.note, { tone: "small", keys: "n" }),
    el("h2", {}, "About the whole conversation"), ...wholeLines(whole), ...latest(answer.rewards.filter((reward) => reward.scope === "conversation")).map(rewardPill),
  ];
  node.replaceChildren(...parts.filter(Boolean));
}

/** The newest revision of each scope. */
function latest(rewards) {
  const newest = new Map();
  for (const reward of rewards) if ((newest.get(reward.scope)?.revision ?? 0) < reward.revision) newest.set(reward.scope, reward);
  return [...newest.values()];
}

const rewardPill = (reward) => (reward.value === null ? pill("reward withdrawn") : pill(`reward ${signed(reward.value)}`, reward.value > 0 ? "good" : reward.value < 0 ? "bad" : ""));
const thumbPill = (signal) => (signal.value > 0 ? pill("▲ thumb up", "good") : pill("▼ thumb down", "bad"));

function bar(share) {
  const fill = el("i", {});
  fill.style.width = `${(100 * share).toFixed(1)}%`;
  return el("span", { class: "od-share" }, el("span", { class: "od-bar", aria: { hidden: true } }, fill), percent(share));
}

function signalWord(signal) {
  if (signal.kind === "thumb") return signal.value === 0 ? pill("thumb withdrawn") : thumbPill(signal);
  return SAID[signal.kind]?.(signal) ?? pill(signal.kind);
}

/** One event of an action, as Rasa names them. */
function doing({ event, name, value, error, ...rest }) {
  const known = {
    action: () => ["ran ", code(name), error && " ", error && pill(error, "bad")],
    slot: () => (value === null ? [code(name), " was emptied"] : [code(name), " = ", code(JSON.stringify(value))]),
    active_loop: () => (name ? ["began the form ", code(name)] : ["ended the form"]),
  };
  const parts = known[event]?.() ?? [code(event), " ", code(JSON.stringify({ ...rest, name, value }))];
  return el("li", {}, ...parts.filter(Boolean));
}

/** What was said of the whole: short lines, for the narrow column. */
function wholeLines(signals) {
  if (!signals.length) return [faint("Nothing yet.")];
  const line = (signal) => el("li", {}, signalWord(signal), signal.comment && el("p", {}, signal.comment), el("p", { class: "od-faint" }, by(signal), " · ", time(signal.created_at)));
  return [el("ul", { class: "od-whole" }, ...signals.map(line))];
}

const by = (signal) => (signal.source === "user" ? "customer" : signal.author.replace("operator:", ""));

function signalLines(signals) {
  if (!signals.length) return [faint("Nothing yet.")];
  const said = (signal) => [...signal.label.split("|").filter(Boolean).map((chip) => pill(chip)), signal.comment].filter(Boolean);
  return [table(["Signal", "Said", "By", "When"], signals.map((signal) => [signalWord(signal), el("span", {}, ...said(signal)), by(signal), time(signal.created_at)]))];
}

function rewardLines(rewards) {
  if (!rewards.length) return [faint("Not settled yet, or nobody spoke about it: unrated is not zero.")];
  return rewards.flatMap((reward) => [
    el("p", { class: "od-line" }, rewardPill(reward), ` revision ${reward.revision}, ${reward.scope}, rules `, code(reward.rules_hash.slice(0, 12))),
    reward.terms.length ? table(["Rule", "Gave", "For signal"], reward.terms.map((term) => [term.rule, signed(term.value), String(term.signal_seq || "–")])) : faint("No rule gives anything now."),
  ]);
}
