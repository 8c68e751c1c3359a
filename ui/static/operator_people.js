// For admins: who may sign in, and the log of what was done.

import { el } from "./dom.js";
import { call, read } from "./operator_api.js";
import { ask, button, faint, field, pill, select, show, table, time } from "./operator_parts.js";

const ROLES = [["operator", "operator: speaks, corrects"], ["developer", "developer: versions, rules"], ["admin", "admin: both, and accounts"]];

export async function people() {
  const place = el("div", {});
  const problem = el("p", { class: "od-problem", role: "alert", hidden: true });
  const name = el("input", { class: "od-input", maxLength: 64, autocomplete: "off" });
  const password = el("input", { class: "od-input", type: "password", maxLength: 256, autocomplete: "new-password" });
  const role = select(ROLES, "operator");
  const log = el("div", {});

  async function change(action) {
    problem.hidden = true;
    try {
      await action();
      await draw();
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
  }

  function levers(account) {
    const path = `v1/accounts/${encodeURIComponent(account.name)}`;
    const turn = button(account.disabled ? "Let in" : "Shut out", () => change(() => call("PATCH", path, { disabled: !account.disabled })), { tone: "small" });
    if (account.released) return [turn];
    const words = "Whoever signs in next with the provider under this name has the account, with all that is theirs in it. Until then nobody can use it: its password and its sessions end now.";
    const release = () => ask(`Release ${account.name} to the sign-in provider?`, [faint(words)], "Release", () => call("POST", `${path}/release`)).then((done) => done && change(async () => {}));
    return [turn, button("Release", release, { tone: "small", title: `Release ${account.name} to the sign-in provider` })];
  }

  async function draw() {
    const [accounts, audit] = await Promise.all([read("v1/accounts"), read("v1/audit?limit=50")]);
    const rows = accounts.map((account) => [account.name, account.role, el("span", { class: "od-pills" }, states(account)), time(account.created_at), el("span", { class: "od-tools" }, levers(account))]);
    place.replaceChildren(rows.length ? table(["Name", "Role", "State", "Since", ""], rows, "od-people") : faint("No account yet: you signed in with the operator key."));
    const done = audit.rows.map((row) => [time(row.at), row.actor.replace("operator:", ""), row.action, row.target, changes(row.before, row.after)]);
    const holds = audit.first_broken ? pill(`row ${audit.first_broken} was tampered with`, "bad") : pill("chain holds", "good");
    log.replaceChildren(el("h3", {}, "What was done ", holds), done.length ? table(["When", "Who", "Did", "To", "Before → after"], done) : faint("Nothing yet."));
  }

  const add = button("Add", () => change(async () => {
    await call("POST", "v1/accounts", { name: name.value.trim(), role: role.value, password: password.value });
    name.value = password.value = "";
  }), { tone: "primary" });
  show("People", place, problem, el("div", { class: "od-tools" }, field("Name", name), field("Password (10 characters)", password), field("Role", role), add), log);
  await draw();
}

const states = ({ disabled, provider, released }) => [
  disabled ? pill("shut out", "bad") : released ? pill("waits for the provider", "warn") : pill("may sign in", "good"),
  provider && pill("by the provider"),
];

const changes = (before, after) => {
  const words = (record) => Object.entries(record).map(([key, value]) => `${key} ${value}`).join(", ");
  return [words(before), words(after)].filter(Boolean).join(" → ") || "–";
};
