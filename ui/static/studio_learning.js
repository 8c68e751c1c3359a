// Learning: what serves, how learning goes, what each version learned from whom, and the levers over it.

import { renderCanary, shareField } from "./studio_canary.js";
import { askReason, attempt, button, card, count, dialog, el, faint, field, get, JobBar, mono, nothing, Notice, number, panel, percent, pill, plural, post, table, when } from "./studio_kit.js";
import { plot } from "./studio_plot.js";
import { renderComparison } from "./studio_compare.js";
import { renderServing } from "./studio_serving.js";
import { readTranscript } from "./studio_transcript.js";

const REFRESH_MS = 5000;
const PLOTTED = 60;
const TONES = { champion: "accent", refused: "bad", damaged: "bad", published: "good", skipped: "" };
const LEARNER = { stale: "not heard of", stopped: "not running" };
const LEVERS = {
  rollback: ["Roll back", (version) => `New replies come from ${version || "the version before"} again, at once. Learning is frozen until you unfreeze it.`],
  promote: ["Promote", (version) => `New replies come from ${version}, at once.`],
  freeze: ["Freeze learning", () => "The champion stays, whatever the learner finds. Chat and collecting go on."],
  unfreeze: ["Unfreeze learning", () => "The learner may publish again what passes the gate."],
  canary: ["Canary", (version) => `${version} serves this share of conversations beside the champion, until people's word promotes or withdraws it.`],
  withdraw: ["Withdraw the canary", () => "The champion serves alone again, from the next reply on, in running conversations too."],
};

const NAMED = { rollback: "to ", promote: "", canary: "" };

export class LearningPage {
  /** `metrics`: name -> {title, unit, meaning}. */
  constructor(metrics) {
    this.metrics = metrics;
    this.notice = new Notice();
    this.job = new JobBar("questions");
    for (const name of ["cards", "canary", "serving", "levers", "plots", "versions", "articles", "updates", "comparison"]) this[name] = el("div");
    const parts = [
      this.notice.node, this.cards, this.canary, this.serving, this.levers, this.plots,
      panel("Versions", "Newest first. Thumbs and rewards are of the replies that each version made.", this.versions),
      panel("Two versions side by side", "What each would do on the same questions, right now. Nobody is answered and nothing is stored.", this.#compareForm(), this.job.node, this.comparison),
      panel("Articles", "How people took each article, and whether it gets better: rewards of its replies, oldest version to newest.", this.articles),
      panel("Updates", "What the learner did last, and what became of it.", this.updates),
    ];
    this.node = el("div", { class: "st-stack" }, ...parts);
  }

  show() {
    clearInterval(this.timer);
    this.timer = setInterval(() => this.#refresh(), REFRESH_MS);
    this.seen = "";
    this.#refresh();
  }

  hide() {
    clearInterval(this.timer);
  }

  async #refresh() {
    if (document.hidden) return;
    try {
      const serving = get("serving").catch(() => null);
      const [versions, learner, articles] = await Promise.all([get("versions"), get("learner"), get("learner/articles")]);
      const said = JSON.stringify([versions, learner.by_version, learner.updates, learner.learner, articles]);
      this.#renderHead(versions, learner);
      this.#renderServing(await serving);
      if (said !== this.seen) this.#renderRest(versions, learner, articles.articles);
      this.seen = said;
      if (this.wasAway) this.notice.tell("");
      this.wasAway = false;
    } catch (error) {
      this.wasAway = true;
      this.notice.fail(error);
    }
  }

  #renderServing(serving) {
    const said = JSON.stringify(serving);
    if (said !== this.servingSeen) this.serving.replaceChildren(...[renderServing(serving)].filter(Boolean));
    this.servingSeen = said;
  }

  #renderHead(versions, learner) {
    const rows = learner.by_version;
    const sum = (name) => rows.reduce((total, row) => total + (row[name] || 0), 0);
    const [up, down] = [sum("up"), sum("down")];
    const serving = rows.find((row) => row.version === versions.champion) || {};
    const frozen = versions.frozen ? pill("frozen: the learner may not publish", "warn") : pill("learning may publish", "good");
    const status = learner.status || {};
    const heard = status.at ? `heard of ${when(status.at)}` : "start it with rejoinder up";
    const cards = [
      card("Champion", mono(versions.champion), frozen),
      card("Learner", LEARNER[learner.learner] || status.what || status.state || "not running", [status.fresh === undefined ? "" : `${plural(status.fresh, "fresh reward")}, `, heard].join("")),
      card("Replies", count(sum("replies")), "made by all versions"),
      card("Thumbs up", up + down ? percent(up / (up + down)) : "–", `of ${plural(up + down, "vote")} in force`),
      card("Champion's reward", number(serving.mean_reward, 2, true), "mean of its rated replies, −1 to +1"),
    ];
    this.cards.replaceChildren(el("div", { class: "st-cards" }, ...cards));
  }

  #renderRest(versions, learner, articles) {
    this.listed = [...versions.versions].reverse();
    this.levers.replaceChildren(this.#leverButtons(versions));
    this.canary.replaceChildren(...renderCanary(versions.canary, () => this.#pull("promote", versions.canary.version), () => this.#pull("withdraw")));
    this.plots.replaceChildren(this.#plots(learner));
    this.versions.replaceChildren(this.#versionTable(learner.by_version));
    this.articles.replaceChildren(articleTable(articles));
    this.updates.replaceChildren(this.#updateTable(learner.updates));
    this.#fillChoices();
  }

  // --- levers -----------------------------------------------------------------------------------------------------
  #leverButtons({ frozen }) {
    const freeze = frozen ? "unfreeze" : "freeze";
    const buttons = ["rollback", freeze].map((change) => button(LEVERS[change][0], () => this.#pull(change)));
    return el("p", { class: "st-buttons" }, ...buttons, faint("Promote and go back to older ones in the list of versions."));
  }

  async #pull(change, version = "") {
    const [label, consequence] = LEVERS[change];
    const share = shareField();
    const more = change === "canary" ? [field("Share of conversations", share)] : [];
    const reason = await askReason(version ? `${label} ${NAMED[change]}${version}` : label, consequence(version), "Yes, do it", "warn", more);
    if (!reason) return;
    const bodies = { rollback: version ? { to: version, reason } : { reason }, promote: { version, reason }, canary: { version, reason, share: Number(share.value) } };
    const body = bodies[change] || { reason };
    await attempt(this.notice, async () => {
      const standing = await post(`versions/${change}`, body);
      const learning = standing.frozen ? "learning is frozen" : "learning may publish";
      this.notice.tell(`Done: ${standing.champion} serves, ${learning}.`);
      this.seen = "";
      await this.#refresh();
    });
  }

  // --- plots ------------------------------------------------------------------------------------------------------
  #plots({ by_version: rows, over_time: buckets, updates }) {
    const versions = rows.slice(-PLOTTED);
    const made = updates.filter((row) => row.outcome !== "skipped").slice(-PLOTTED);
    const byVersion = (name, series, options = {}) => this.#plot(name, versions.map((row) => row.version), series, options);
    const unmeasured = made.length ? { missing: "The algorithm that learns here does not measure this." } : {};
    const byUpdate = (name, options = {}) => this.#plot(name, made.map((row) => `#${row.seq}`), [{ name: this.metrics[name].title, tone: "accent", values: made.map((row) => measured(row.metrics[name])) }], { ...unmeasured, ...options });
    const column = (name) => versions.map((row) => measured(row[name]));
    const plots = [
      byVersion("success", [{ name: "solved", tone: "accent", values: column("success") }], { range: [0, 1], show: percent }),
      byVersion("thumbs", [{ name: "up", tone: "good", values: column("up") }, { name: "down", tone: "bad", values: column("down") }], { kind: "bar", show: count }),
      byVersion("reward", [{ name: "mean reward", tone: "accent", values: column("mean_reward") }], { show: (value) => number(value, 2, true) }),
      this.#overTime(buckets),
      byUpdate("kl_champion", { show: (value) => number(value, 4) }),
      byUpdate("kl_start", { show: (value) => number(value, 3) }),
      byUpdate("entropy"),
      byUpdate("ess", { range: [0, 1] }),
      byUpdate("clip_fraction", { range: [0, 0.1], show: (value) => percent(value, 1) }),
      byUpdate("staleness", { show: (value) => number(value, 1) }),
    ];
    return el("div", { class: "st-plots" }, ...plots);
  }

  #plot(name, labels, series, options) {
    const { title, unit, meaning } = this.metrics[name];
    return plot({ title: unit ? `${title}, ${unit}` : title, meaning, labels, series, show: (value) => number(value, 2), ...options });
  }

  #overTime(buckets) {
    const series = [{ name: "up", tone: "good", values: buckets.map((row) => row.up) }, { name: "down", tone: "bad", values: buckets.map((row) => row.down) }];
    return this.#plot("thumbs_over_time", buckets.map((row) => when(row.at)), series, { show: count });
  }

  // --- tables -----------------------------------------------------------------------------------------------------
  #versionTable(figures) {
    const found = new Map(figures.map((row) => [row.version, row]));
    const heads = ["Version", "State", "Made", "From", ["Learned from", "num"], ["Replies", "num"], ["Thumbs up", "num"], ["Reward", "num"], ["Success", "num"], ""];
    return table("Versions", heads, this.listed.map((line) => this.#versionRow(line, found.get(line.version) || {})));
  }

  #versionRow(line, row) {
    const votes = (row.up || 0) + (row.down || 0);
    const { num_decisions: replies = 0, num_words: words = 0 } = line.lineage ?? {};
    const lessons = [replies && plural(replies, "reply", "replies"), words && plural(words, "wording")].filter(Boolean).join(", ");
    const taught = lessons ? button(lessons, () => this.#teachers(line.version), { class: "link" }) : "–";
    const isUsable = ["published", "base"].includes(line.state);
    const canary = isUsable && line.state !== "base" && button("Canary", () => this.#pull("canary", line.version), { class: "small" });
    const promote = isUsable && line.state !== "base" && button("Promote", () => this.#pull("promote", line.version), { class: "small" });
    const back = isUsable && button("Roll back to", () => this.#pull("rollback", line.version), { class: "small" });
    return [
      mono(line.version), pill(line.state, TONES[line.state]), when(line.created_at), line.parent ? mono(line.parent) : "–", taught,
      count(row.replies || 0), votes ? `${percent(row.up / votes)} of ${votes}` : "–", number(row.mean_reward, 2, true), percent(row.success), el("span", { class: "st-row-buttons" }, promote, canary, back),
    ];
  }

  /** Which conversations, and which words of operators, taught a version. */
  #teachers(version) {
    const body = el("div", {}, faint("Loading…"));
    attempt(this.notice, async () => {
      const { conversations, num_decisions: num, words } = await get(`versions/${version}/lessons`);
      const rows = conversations.map((line) => [button(line.text || line.conversation_id, () => readTranscript(line.conversation_id), { class: "link" }), when(line.at), count(line.num_decisions), number(line.mean_reward, 2, true)]);
      const heads = ["Conversation", "When", ["Replies", "num"], ["Mean reward now", "num"]];
      body.replaceChildren(faint(`${plural(num, "reply", "replies")} in all; the newest conversations first.`), table("Conversations", heads, rows), ...wordsTaught(words));
    });
    dialog(`What taught ${version}`, () => body, "wide");
  }

  #updateTable(updates) {
    if (!updates.length) return nothing("No update yet: the learner waits for thumbs.");
    const rows = [...updates].reverse().slice(0, 20).map((row) => {
      const reasons = row.metrics.gate?.reasons || [];
      return [`#${row.seq}`, when(row.at), pill(row.outcome, TONES[row.outcome]), mono(row.version), count(row.metrics.rows), count(row.metrics.fresh), number(row.metrics.seconds, 1), heard(row.metrics.gate?.verdicts_champion), reasons.join("; ")];
    });
    return table("Updates", ["Update", "When", "Outcome", "Version", ["Rows", "num"], ["Fresh", "num"], ["Seconds", "num"], "Verdicts", "Why refused"], rows);
  }

  // --- comparing two versions -------------------------------------------------------------------------------------
  #compareForm() {
    this.first = el("select", { aria: { label: "One version" } });
    this.second = el("select", { aria: { label: "The other version" } });
    this.questions = el("textarea", { rows: 4, maxLength: 20000, placeholder: "One question a line. Empty: the newest questions that people asked." });
    this.questions.setAttribute("aria-label", "Questions, one a line");
    return el("div", { class: "st-compare" }, el("p", { class: "st-buttons" }, this.first, "and", this.second, button("Compare", () => this.#compare(), { class: "primary" })), this.questions);
  }

  #fillChoices() {
    const names = this.listed.filter((line) => !["pruned", "damaged"].includes(line.state)).map((line) => line.version);
    for (const [select, preferred] of [[this.first, names[1] || names[0]], [this.second, names[0]]]) {
      const chosen = names.includes(select.value) ? select.value : preferred;
      select.replaceChildren(...names.map((name) => el("option", { value: name, selected: name === chosen }, name)));
    }
  }

  async #compare() {
    this.notice.tell("");
    const questions = this.questions.value.split("\n").map((line) => line.trim()).filter(Boolean);
    const body = { versions: [this.first.value, this.second.value], questions };
    const job = await attempt(this.notice, () => this.job.run(() => post("versions/compare", body)));
    if (job) this.comparison.replaceChildren(renderComparison(job.result));
  }
}

const measured = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

/** What the language model learned to say from operators; nothing where it learned none. */
function wordsTaught(words) {
  if (!words.length) return [];
  const rows = words.map((line) => [el("span", {}, el("q", {}, line.text), " ", line.removed_at > 0 && pill("taken back")), button(line.question || line.conversation_id, () => readTranscript(line.conversation_id), { class: "link" }), line.author.replace("operator:", ""), when(line.at)]);
  return [el("h3", {}, "Operators' own words"), faint("The language model learned to say these where replies are generated."), table("Operators' own words", ["Words", "Asked", "By", "When"], rows)];
}

/** Operators' blind verdicts on a candidate beside the champion. */
const heard = (found) => (found ? `${found.wins} for, ${found.losses} against` : "–");

/** Bars of one article's mean rewards, version by version. */
function progress(versions) {
  const bars = versions.slice(-24).map(({ version, mean_reward: reward }) => {
    const bar = el("i", { class: reward < 0 ? "bad" : "good", title: `${version}: ${number(reward, 2, true)}` });
    bar.style.height = `${Math.max(2, Math.abs(reward ?? 0) * 22)}px`;
    return bar;
  });
  return el("span", { class: "st-spark", role: "img", aria: { label: versions.map(({ version, mean_reward: reward }) => `${version} ${number(reward, 2, true)}`).join(", ") } }, ...bars);
}

function articleTable(articles) {
  if (!articles.length) return nothing("No article was answered with yet.");
  const rows = articles.map((row) => {
    const votes = row.up + row.down;
    const rated = row.by_version.filter((one) => one.mean_reward !== null);
    return [row.title, count(row.replies), votes ? `${percent(row.up / votes)} of ${votes}` : "–", number(row.mean_reward, 2, true), rated.length ? progress(rated) : "–"];
  });
  return table("Articles", ["Article", ["Replies", "num"], ["Thumbs up", "num"], ["Reward", "num"], "By version"], rows);
}
