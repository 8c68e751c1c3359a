// Comparing two versions, blind: a question, two answers in an order drawn by lot, and whose they were only afterwards.

import { el } from "./dom.js";
import { call, read } from "./operator_api.js";
import { button, faint, field, select, show, table } from "./operator_parts.js";

const VERDICTS = [["left", "Left is better", "1"], ["right", "Right is better", "2"], ["both", "Both are fine", "3"], ["neither", "Neither is", "4"]];

/** Opens the review; `canJudge`: whether verdicts may be given. */
export async function reviewPairs(canJudge) {
  const { champion, versions } = await read("v1/versions");
  const usable = versions.filter(({ state }) => ["base", "champion", "published"].includes(state)).map(({ version }) => version);
  const other = usable.filter((version) => version !== champion).at(-1);
  const choices = usable.map((version) => [version, version]);
  const left = select(choices, other ?? champion);
  const right = select(choices, champion);
  const place = el("div", { class: "od-pair" });
  const tally = el("div", {});
  const next = button("Next question", () => draw(), { tone: "primary", disabled: !canJudge });
  const dialog = show("Compare two versions", faint("Both answer one question that customers asked; you do not see which is which. Verdicts are counted here, and the gate hears them: a new version that prefers what you found worse, beyond chance, is refused."), el("div", { class: "od-tools" }, field("One", left), field("The other", right), next), place, tally);

  async function draw() {
    try {
      const { pair } = await call("POST", "v1/pairs", { versions: [left.value, right.value] });
      place.replaceChildren(...(pair ? shown(pair) : [faint("These two answer the newest questions alike.")]));
    } catch (error) {
      place.replaceChildren(el("p", { class: "od-problem", role: "alert" }, error.message));
    }
  }

  function shown(pair) {
    const side = (name, text) => el("section", { class: "od-side-by-side", aria: { label: name } }, el("h3", {}, name), el("p", { class: "od-text" }, text));
    const judge = async (verdict) => {
      const told = await call("POST", `v1/pairs/${encodeURIComponent(pair.id)}`, { verdict });
      place.replaceChildren(faint(`Kept. Left was ${told.left_version}, right was ${told.right_version}.`));
      await count();
    };
    const buttons = VERDICTS.map(([verdict, label, keys]) => button(label, () => judge(verdict), { keys }));
    place.onkeydown = null;
    dialog.onkeydown = (event) => buttons[VERDICTS.findIndex(([, , key]) => key === event.key)]?.isConnected && buttons[VERDICTS.findIndex(([, , key]) => key === event.key)].click();
    return [el("blockquote", {}, pair.question), el("div", { class: "od-two" }, side("Left", pair.left), side("Right", pair.right)), el("div", { class: "od-tools" }, ...buttons)];
  }

  async function count() {
    const rows = await read("v1/pairs");
    tally.replaceChildren(rows.length ? table(["Versions", "First better", "Second better", "Both fine", "Neither"], rows.map((row) => [`${row.a} / ${row.b}`, row.a_wins, row.b_wins, row.both, row.neither].map(String))) : faint("No verdict yet."));
  }

  await count();
}
