// What the studio's pages are made of: the road to the API, figures as people read them, tables, dialogs.

import { el } from "./dom.js";

export { el };

const API = new URL("../v1/", location.href);

/** An answer of the API, or an Error whose message is one line fit to be shown. */
export async function call(method, path, body) {
  const options = { method, headers: { Accept: "application/json" } };
  if (body !== undefined) Object.assign(options, { body: JSON.stringify(body), headers: { ...options.headers, "Content-Type": "application/json" } });
  const answer = await fetch(new URL(path, API), options).catch(() => null);
  if (!answer) throw new Error("The server does not answer. It may be starting; this page tries again by itself.");
  if (answer.status === 401) location.assign(`../login?next=${encodeURIComponent(location.pathname + location.hash)}`);
  const content = await answer.json().catch(() => null);
  if (answer.ok && content) return content;
  throw new Error(content?.error?.message || `The server answered ${answer.status}.`);
}

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);

// --- figures ----------------------------------------------------------------------------------------------------------

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** A number with so many digits; a dash where there is none. */
export function number(value, digits = 2, signed = false) {
  if (!isNumber(value)) return "–";
  const shown = Math.abs(value).toFixed(digits);
  const sign = value < 0 && Number(shown) ? "−" : signed && value > 0 ? "+" : "";
  return sign + shown;
}

export const percent = (share, digits = 0) => (isNumber(share) ? `${(100 * share).toFixed(digits)} %` : "–");
export const count = (value) => (isNumber(value) ? value.toLocaleString("en") : "–");

/** Epoch seconds as a short local time. */
export function when(at) {
  if (!isNumber(at) || at <= 0) return "–";
  return new Date(at * 1000).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

// --- parts ------------------------------------------------------------------------------------------------------------

export const pill = (label, tone = "") => el("span", { class: `st-pill ${tone}` }, label);
export const mono = (label) => el("code", { class: "st-mono" }, label);
export const faint = (...children) => el("p", { class: "st-faint" }, ...children);
export const nothing = (line) => el("p", { class: "st-empty" }, line);

/** A button; `props` may say `class: "primary"` or `disabled`. */
export function button(label, onClick, props = {}) {
  return el("button", { type: "button", ...props, class: `st-button ${props.class || ""}`, on: { click: onClick } }, label);
}

/** A block with a heading, one line of meaning, and what it shows. */
export function panel(title, meaning, ...children) {
  const head = el("header", {}, el("h2", {}, title), meaning && faint(meaning));
  return el("section", { class: "st-panel", aria: { label: title } }, head, ...children);
}

/** A figure one looks at first. */
export function card(name, value, note) {
  return el("section", { class: "st-card" }, el("h3", {}, name), el("p", { class: "st-figure" }, value), faint(note ?? ""));
}

/** A table that scrolls inside its own frame; on a phone its rows stand in lines (studio.css). Cells are strings or nodes; `heads` may be `[label, "num"]`. */
export function table(label, heads, rows) {
  const kinds = heads.map((head) => (Array.isArray(head) ? head[1] : ""));
  const names = heads.map((head) => [head].flat()[0]);
  // Named in each cell, too: on a phone a row stands in lines of its own, without the heads above it.
  const cells = (row) => row.map((cell, i) => el("td", { class: kinds[i], data: { head: names[i] } }, cell));
  const head = names.map((name, i) => el("th", { scope: "col", class: kinds[i] }, name));
  const body = rows.map((row) => el("tr", {}, ...cells(row)));
  const found = el("table", { class: "st-table st-rows" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body));
  return el("div", { class: "st-scroll", tabIndex: 0, role: "region", aria: { label } }, found);
}

/** A labelled field. */
export function field(label, input, hint) {
  return el("label", { class: "st-field" }, el("span", {}, label), input, hint && faint(hint));
}

/** A line that tells what happened or went wrong; empty: gone. */
export class Notice {
  constructor() {
    this.node = el("div", { class: "st-notice", role: "status", hidden: true });
  }

  tell(line, tone = "good") {
    this.node.hidden = !line;
    this.node.className = `st-notice ${tone}`;
    this.node.textContent = line;
  }

  fail(error) {
    this.tell(error.message || String(error), "bad");
  }
}

/** Does `work` and shows its error, if there is one, in the notice. */
export async function attempt(notice, work) {
  try {
    return await work();
  } catch (error) {
    notice.fail(error);
    return undefined;
  }
}

let numDialogs = 0;

/** A modal dialog; resolves with what `close(value)` was given, or null. `fill(close)` gives the content.
 *  Content marked `data-unsaved` is thrown away only when that is asked for twice. */
export function dialog(title, fill, css = "") {
  return new Promise((resolve) => {
    const id = `st-dialog-${++numDialogs}`;
    const node = el("dialog", { class: `st-dialog ${css}`, aria: { labelledby: id } });
    let answer = null;
    const close = (value) => {
      answer = value;
      node.close();
    };
    const warning = el("p", { class: "st-bad", role: "alert" }, "What you wrote is not saved. Close again to throw it away.");
    const mayLeave = () => {
      const isSure = !node.querySelector("[data-unsaved]") || node.contains(warning);
      if (!isSure) node.querySelector("header").after(warning);
      return isSure;
    };
    const leave = el("button", { type: "button", class: "st-close", aria: { label: "Close" }, on: { click: () => mayLeave() && close(null) } }, "×");
    node.append(el("header", {}, el("h2", { id }, title), leave), ...[fill(close)].flat());
    node.addEventListener("cancel", (event) => mayLeave() || event.preventDefault());
    node.addEventListener("close", () => (node.remove(), resolve(answer)));
    document.querySelector("#studio").append(node);
    node.showModal();
  });
}

/** Asks for a reason before something is changed; resolves with it, or null. `more`: further fields. */
export function askReason(title, consequence, verb, tone = "", more = []) {
  return dialog(title, (close) => {
    const reason = el("textarea", { rows: 3, maxLength: 500, required: true, placeholder: "Why? Kept with the change." });
    const error = el("p", { class: "st-bad", role: "alert" });
    const submit = (event) => {
      event.preventDefault();
      if (reason.value.trim()) close(reason.value.trim());
      else error.textContent = "Write a reason first: it is kept with the change.";
    };
    const buttons = el("p", { class: "st-buttons" }, button("Cancel", () => close(null)), el("button", { class: `st-button primary ${tone}` }, verb));
    return el("form", { noValidate: true, on: { submit } }, el("p", {}, consequence), ...more, field("Reason", reason), error, buttons);
  });
}

/** Follows a job until it ends: `tell(job)` at each step; resolves with the job. */
export async function follow(job, tell) {
  let known = job;
  while (known.state === "running") {
    tell(known);
    await new Promise((resolve) => setTimeout(resolve, 300));
    known = await get(`jobs/${encodeURIComponent(known.id)}`);
  }
  tell(known);
  if (known.state === "failed") throw new Error(known.error);
  return known;
}

/** A bar that shows a job, with a button that ends it early. */
export class JobBar {
  constructor(unit) {
    this.unit = unit;
    this.bar = el("progress", { aria: { label: "Progress" } });
    this.line = el("span", { class: "st-faint" });
    this.node = el("div", { class: "st-job", hidden: true }, this.bar, this.line, button("Stop", () => this.#stop()));
  }

  async run(start) {
    this.node.hidden = false;
    this.line.textContent = "Starting…";
    this.bar.removeAttribute("value");
    try {
      return await follow(await start(), (job) => this.#show(job));
    } finally {
      this.node.hidden = true;
    }
  }

  #show(job) {
    this.id = job.id;
    if (!job.total) return;
    this.bar.max = job.total;
    this.bar.value = job.done;
    this.line.textContent = `${count(job.done)} of ${count(job.total)} ${this.unit}`;
  }

  async #stop() {
    if (this.id) await call("DELETE", `jobs/${encodeURIComponent(this.id)}`).catch(() => null);
  }
}
