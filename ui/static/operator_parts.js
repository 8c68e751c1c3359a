// Small things that the operator page is made of: pills, times, buttons, dialogs. Text is always a text node.

import { el } from "./dom.js";

export const STATES = {
  bot: ["with the bot", ""],
  waiting: ["waiting for a person", "warn"],
  person: ["with a person", "accent"],
  resolved: ["resolved", "good"],
  snoozed: ["snoozed", ""],
};

export const pill = (text, tone = "") => el("span", { class: `od-pill ${tone}` }, String(text));
export const code = (text) => el("code", { class: "od-code" }, String(text));
export const faint = (text) => el("p", { class: "od-faint" }, text);
export const statePill = (state) => pill(STATES[state]?.[0] ?? state, STATES[state]?.[1] ?? "");
export const percent = (share) => (share > 0 && share < 0.005 ? "<1 %" : `${Math.round(share * 100)} %`);
export const signed = (value) => (value > 0 ? "+" : "") + Number(value).toFixed(2);

/** "3 min", "2 h", "5 d" for a length of time in seconds. */
export function span(seconds) {
  if (seconds < 60) return "now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** A moment, as people here read it. */
export function when(at) {
  return new Date(at * 1000).toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

export const time = (at, text) => el("time", { dateTime: new Date(at * 1000).toISOString(), title: when(at) }, text ?? when(at));

/** A button; `keys` is shown beside its name. */
export function button(label, onClick, { keys = "", tone = "", ...extra } = {}) {
  return el("button", { type: "button", class: `od-button ${tone}`, on: { click: onClick }, ...extra }, label, keys && el("kbd", {}, keys));
}

export function table(heads, rows, css = "") {
  const head = el("tr", {}, ...heads.map((name) => el("th", { scope: "col" }, name)));
  const body = rows.map((row) => el("tr", {}, ...row.map((cell) => el("td", {}, cell))));
  return el("div", { class: "od-scroll", tabIndex: 0, role: "region", aria: { label: heads.filter(Boolean).join(", ") } }, el("table", { class: `od-table ${css}` }, el("thead", {}, head), el("tbody", {}, ...body)));
}

let numFields = 0;

/** An input under its label. */
export function field(label, input, hint = "") {
  input.id ||= `od-field-${(numFields += 1)}`;
  return el("div", { class: "od-field" }, el("label", { for: input.id }, label), input, hint && faint(hint));
}

export function select(choices, value, onChange = () => {}) {
  const node = el("select", { class: "od-input", on: { change: () => onChange(node.value) } });
  node.append(...choices.map(([key, text]) => el("option", { value: key }, text)));
  node.value = value;
  return node;
}

/** A modal dialog with a form; `submit()` may throw, and its words are shown. Resolves to whether it was sent. */
export function ask(title, body, submitLabel, submit) {
  return new Promise((resolve) => {
    const problem = el("p", { class: "od-problem", role: "alert", hidden: true });
    const send = el("button", { type: "submit", class: "od-button primary" }, submitLabel);
    const cancel = button("Cancel", () => dialog.close());
    const form = el("form", {}, el("h2", {}, title), ...body, problem, el("div", { class: "od-actions" }, cancel, send));
    const dialog = el("dialog", { class: "od-dialog", aria: { label: title } }, form);
    let sent = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      send.disabled = true;
      try {
        await submit();
        sent = true;
        dialog.close();
      } catch (error) {
        problem.textContent = error.message;
        problem.hidden = false;
        send.disabled = false;
        (form.querySelector("input, textarea, select") ?? send).focus();
      }
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
      // A closed one keeps the focus for a moment: what is typed then is for the page.
      if (dialog.open) event.stopPropagation();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(sent);
    });
    document.querySelector("#rj-desk").append(dialog);
    dialog.showModal();
  });
}

/** A dialog that only shows. */
export function show(title, ...body) {
  const close = button("Close", () => dialog.close(), { tone: "primary" });
  const dialog = el("dialog", { class: "od-dialog wide", aria: { label: title } }, el("h2", {}, title), ...body, el("div", { class: "od-actions" }, close));
  dialog.addEventListener("keydown", (event) => dialog.open && event.stopPropagation());
  dialog.addEventListener("close", () => dialog.remove());
  document.querySelector("#rj-desk").append(dialog);
  dialog.showModal();
  return dialog;
}
