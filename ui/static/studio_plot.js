// Line and bar plots in SVG that one can hover, touch, or walk through with the arrow keys. Knows nothing of the API.

import { el } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 190;
const PAD = { left: 46, right: 12, top: 10, bottom: 26 };

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** Round numbers that cover [low, high]: at most five. */
export function ticks(low, high) {
  const raw = (high - low || 1) / 4;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * ([1, 2, 2.5, 5, 10].find((factor) => factor * unit >= raw) || 10);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/**
 * A plot as a figure: title, one line of meaning, the drawing, its legend, and the same numbers as a table.
 *
 * `labels`: what stands at each x. `series`: `[{name, tone, values}]`, null where nothing was measured.
 * `kind`: line or bar. `show(value)`: a value with its unit. `range`: `[low, high]` that the axis covers at least. `missing`: what is
 * said where nothing was measured.
 */
export function plot({ title, meaning, labels, series, kind = "line", show = String, range = null, missing = "Nothing was measured yet." }) {
  const figure = el("figure", { class: "st-plot" }, el("figcaption", {}, el("h3", {}, title), el("p", { class: "st-faint" }, meaning)));
  const known = series.flatMap(({ values }) => values.filter((value) => value !== null));
  if (!known.length) {
    figure.append(el("p", { class: "st-empty" }, missing));
    return figure;
  }
  const drawing = new Drawing({ title, labels, series, kind, show, range, known });
  figure.append(drawing.node);
  if (series.length > 1) figure.append(legend(series));
  figure.append(asTable(title, labels, series, show));
  return figure;
}

function legend(series) {
  return el("ul", { class: "st-legend" }, series.map(({ name, tone }) => el("li", {}, el("i", { class: `st-tone-${tone}` }), name)));
}

function asTable(title, labels, series, show) {
  const cell = (value) => el("td", { class: "num" }, value === null ? "–" : show(value));
  const rows = labels.map((label, i) => el("tr", {}, el("th", { scope: "row" }, label), ...series.map(({ values }) => cell(values[i] ?? null))));
  const head = el("tr", {}, el("th", { scope: "col" }, ""), ...series.map(({ name }) => el("th", { scope: "col", class: "num" }, name)));
  const details = el("details", { class: "st-numbers" }, el("summary", { aria: { label: `${title}: the numbers` } }, "Numbers"));
  // Filled when opened: a page of plots would otherwise carry thousands of cells.
  const fill = () => details.append(el("div", { class: "st-scroll", tabIndex: 0, role: "region", aria: { label: title } }, el("table", { class: "st-table" }, el("thead", {}, head), el("tbody", {}, ...rows))));
  details.addEventListener("toggle", fill, { once: true });
  return details;
}

class Drawing {
  constructor(options) {
    Object.assign(this, options);
    const values = [...this.known, ...(this.range || []), ...(this.kind === "bar" ? [0] : [])];
    this.ticks = ticks(Math.min(...values), Math.max(...values));
    this.low = this.ticks[0];
    this.high = this.ticks.at(-1) === this.low ? this.low + 1 : this.ticks.at(-1);
    this.at = null;
    this.tip = el("div", { class: "st-tip", hidden: true, role: "status" });
    const label = `${this.title}: ${this.labels.length} points from ${this.show(Math.min(...this.known))} to ${this.show(Math.max(...this.known))}. Arrow keys read them.`;
    this.stage = el("div", { class: "st-drawing", tabIndex: 0, role: "group", aria: { label } });
    this.node = el("div", { class: "st-drawing-frame" }, this.stage, this.tip);
    this.stage.addEventListener("pointermove", (event) => this.#point(this.#nearest(event)));
    this.stage.addEventListener("pointerdown", (event) => this.#point(this.#nearest(event)));
    this.stage.addEventListener("pointerleave", () => this.#point(null));
    this.stage.addEventListener("blur", () => this.#point(null));
    this.stage.addEventListener("keydown", (event) => this.#step(event));
    new ResizeObserver(([entry]) => this.#draw(Math.round(entry.contentRect.width))).observe(this.stage);
  }

  #draw(width) {
    if (!width || width === this.width) return;
    this.width = width;
    const root = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" });
    root.append(...this.#grid(), ...this.series.flatMap((one, i) => (this.kind === "bar" ? this.#bars(one, i) : this.#line(one))));
    this.cursor = svg("line", { class: "st-cursor", y1: PAD.top, y2: HEIGHT - PAD.bottom, visibility: "hidden" });
    root.append(this.cursor);
    this.stage.replaceChildren(root);
  }

  #x(i) {
    const room = this.width - PAD.left - PAD.right;
    if (this.kind === "bar") return PAD.left + (room * (i + 0.5)) / this.labels.length;
    return PAD.left + (this.labels.length > 1 ? (room * i) / (this.labels.length - 1) : room / 2);
  }

  #y(value) {
    return PAD.top + (HEIGHT - PAD.top - PAD.bottom) * (1 - (value - this.low) / (this.high - this.low));
  }

  #grid() {
    const lines = this.ticks.flatMap((value) => [
      svg("line", { class: value === 0 ? "st-zero" : "st-grid", x1: PAD.left, x2: this.width - PAD.right, y1: this.#y(value), y2: this.#y(value) }),
      svg("text", { class: "st-tick", x: PAD.left - 7, y: this.#y(value) + 4, "text-anchor": "end" }, this.show(value)),
    ]);
    const longest = Math.max(...this.labels.map((label) => label.length));
    const wanted = Math.max(2, Math.floor((this.width - PAD.left) / (7 * longest + 24)));
    const step = Math.ceil(this.labels.length / wanted);
    const newest = this.labels.length - 1;
    const named = this.labels.map((_, i) => i).filter((i) => (newest - i) % step === 0);
    const anchor = (i) => (this.kind === "bar" || (i && i < newest) ? "middle" : i ? "end" : "start");
    return [...lines, ...named.map((i) => svg("text", { class: "st-tick", x: this.#x(i), y: HEIGHT - 7, "text-anchor": anchor(i) }, this.labels[i]))];
  }

  #line({ values, tone }) {
    const runs = [[]];
    values.forEach((value, i) => (value === null ? runs.push([]) : runs.at(-1).push([this.#x(i), this.#y(value)])));
    const path = runs.filter((run) => run.length).map((run) => `M${run.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L")}`).join("");
    const dots = runs.flat().length <= 40 ? runs.flat() : runs.filter((run) => run.length === 1).flat();
    return [svg("path", { class: `st-line st-tone-${tone}`, d: path }), ...dots.map(([cx, cy]) => svg("circle", { class: `st-dot st-tone-${tone}`, cx, cy, r: 2.6 }))];
  }

  #bars({ values, tone }, place) {
    const slot = (this.width - PAD.left - PAD.right) / this.labels.length;
    const width = Math.max(1, Math.min(26, (slot * 0.76) / this.series.length));
    const start = (i) => this.#x(i) + (place - this.series.length / 2) * width;
    const bar = (value, i) => {
      const [top, bottom] = [this.#y(Math.max(value, 0)), this.#y(Math.min(value, 0))];
      return svg("rect", { class: `st-bar st-tone-${tone}`, x: start(i), y: top, width: Math.max(1, width - 1), height: Math.max(0, bottom - top), rx: Math.min(2, width / 3) });
    };
    return values.flatMap((value, i) => (value === null ? [] : [bar(value, i)]));
  }

  #nearest(event) {
    const x = event.clientX - this.stage.getBoundingClientRect().left;
    const distances = this.labels.map((_, i) => Math.abs(this.#x(i) - x));
    return distances.indexOf(Math.min(...distances));
  }

  #step(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const newest = this.labels.length - 1;
    this.#point(this.at === null ? newest : Math.min(newest, Math.max(0, this.at + move)));
  }

  #point(i) {
    this.at = i;
    this.tip.hidden = i === null;
    this.cursor?.setAttribute("visibility", i === null ? "hidden" : "visible");
    if (i === null) return;
    const x = this.#x(i);
    for (const name of ["x1", "x2"]) this.cursor.setAttribute(name, x);
    const lines = this.series.map(({ name, tone, values }) => el("span", {}, el("i", { class: `st-tone-${tone}` }), `${name} ${(values[i] ?? null) === null ? "–" : this.show(values[i])}`));
    this.tip.replaceChildren(el("strong", {}, this.labels[i]), ...lines);
    this.tip.style.left = `${Math.min(Math.max(x, 70), this.width - 70)}px`;
  }
}
