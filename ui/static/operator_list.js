// The left side: views, search, filters, and the conversations that match. Reports what is chosen; asks for nothing itself.

import { el } from "./dom.js";
import { absolute, query } from "./operator_api.js";
import { button, code, field, pill, select, span, statePill, time } from "./operator_parts.js";

const VIEWS = [
  ["open", "Open", { view: "open" }],
  ["waiting", "Waiting", { view: "waiting", order: "waiting" }],
  ["mine", "Mine", { assignee: "me", view: "" }],
  ["bot", "Bot", { view: "bot" }],
  ["person", "With a person", { view: "person" }],
  ["snoozed", "Snoozed", { view: "snoozed" }],
  ["resolved", "Resolved", { view: "resolved" }],
  ["all", "All", { view: "" }],
];
const EMPTY = {
  q: "", view: "open", assignee: "", order: "newest", thumb: "", csat: 0, outcome: "", flagged: false, language: "",
  version: "", act: "", article: "", tag: "", since: 0, until: 0,
};

/** "2026-11-05" for epoch seconds. */
function dayOf(at) {
  const day = new Date(at * 1000);
  return [day.getFullYear(), day.getMonth() + 1, day.getDate()].map((part) => String(part).padStart(2, "0")).join("-");
}

/** Epoch seconds of the midnight that begins a day, or `later` days after it. */
function startOf(text, later) {
  const [year, month, day] = text.split("-").map(Number);
  return new Date(year, month - 1, day + later).getTime() / 1000;
}

export class List {
  /** `on`: {filter(filter), open(id), more(), save(name, filter), forget(name)}. */
  constructor(on) {
    this.on = on;
    this.filter = { ...EMPTY };
    this.view = "open";
    this.rows = [];
    this.facets = { acts: [], articles: [], versions: [], tags: [], operators: [] };
    this.saved = [];
    this.chosen = "";
    this.savedRow = el("div", { class: "od-saved" });
    this.saveName = el("input", { class: "od-input", placeholder: "Name", maxLength: 60, data: { name: "save" }, aria: { label: "Name of this filter" } });
    this.tabs = el("div", { class: "od-tabs", role: "group", aria: { label: "Views" } });
    this.search = el("input", { type: "search", class: "od-input", placeholder: "Search conversations", maxLength: 200, aria: { label: "Search" } });
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.set({ q: this.search.value.trim() });
      if (event.key === "Escape") this.search.blur();
    });
    this.search.addEventListener("search", () => this.search.value || this.set({ q: "" }));
    this.toggle = button("Filters", () => this.showFilters(this.panel.hidden), { aria: { expanded: false } });
    this.panel = el("div", { class: "od-filters", hidden: true });
    this.list = el("div", { class: "od-rows", role: "list", aria: { label: "Conversations" } });
    this.foot = el("div", { class: "od-foot" });
    this.node = el("section", { class: "od-left", aria: { label: "Inbox" } }, this.tabs, el("div", { class: "od-search" }, this.search, this.toggle), this.panel, this.list, this.foot);
    this.drawTabs({});
  }

  set(changes) {
    this.filter = { ...this.filter, ...changes };
    // Only what depends on the filter: a control that is drawn anew while somebody types in it loses their place.
    this.savedRow.replaceChildren(...this.#savedParts());
    this.#markActive();
    this.on.filter(this.filter);
  }

  choose(view) {
    this.view = view;
    const [, , wanted] = VIEWS.find(([name]) => name === view);
    this.set({ assignee: "", order: "newest", ...wanted });
    this.drawFilters();
  }

  drawTabs(counts) {
    this.counts = counts;
    const total = (counts.bot ?? 0) + (counts.waiting ?? 0) + (counts.person ?? 0);
    const shown = { ...counts, open: total, resolved: 0, all: 0, bot: 0 };
    this.tabs.replaceChildren(
      ...VIEWS.map(([name, label]) => {
        const count = shown[name] ? el("b", { class: name === "waiting" ? "od-count warn" : "od-count" }, String(shown[name])) : null;
        return el("button", { type: "button", class: "od-tab", aria: { pressed: this.view === name }, on: { click: () => this.choose(name) } }, label, count);
      }),
    );
  }

  showFilters(open) {
    this.panel.hidden = !open;
    this.toggle.setAttribute("aria-expanded", String(open));
    if (open) this.drawFilters();
  }

  setFacets(facets, saved) {
    this.facets = facets;
    this.saved = saved;
    if (!saved.some(({ name }) => name === this.chosen)) this.chosen = "";
    this.drawFilters();
  }

  drawFilters() {
    const { filter, facets } = this;
    const some = (any, values) => [["", any], ...values.map((value) => [value, value])];
    const chosen = (label, name, choices) => {
      const node = select(choices, String(filter[name]), (value) => this.set({ [name]: name === "csat" ? Number(value) : value }));
      node.dataset.name = name;
      return field(label, node);
    };
    const day = (label, name) => {
      // Days are the reader's own; "until" means to the end of that day.
      const ends = name === "until" ? 1 : 0;
      const input = el("input", { type: "date", class: "od-input", data: { name }, value: filter[name] ? dayOf(filter[name] - ends) : "" });
      input.addEventListener("change", () => this.set({ [name]: input.value ? Math.max(0, startOf(input.value, ends)) : 0 }));
      return field(label, input);
    };
    const flagged = el("input", { type: "checkbox", data: { name: "flagged" }, checked: filter.flagged, on: { change: () => this.set({ flagged: flagged.checked }) } });
    // Drawn again when the choices arrive: whoever is at a control by keyboard stays there.
    const focused = this.panel.contains(document.activeElement) ? document.activeElement.dataset.name : "";
    this.panel.replaceChildren(
      chosen("Thumb", "thumb", [["", "Any"], ["up", "Has a thumb up"], ["down", "Has a thumb down"]]),
      chosen("Satisfaction", "csat", [["0", "Any"], ...[1, 2, 3, 4, 5].map((n) => [String(n), `${n} of 5`])]),
      chosen("Outcome", "outcome", [["", "Any"], ["solved", "Solved"], ["not_solved", "Not solved"]]),
      chosen("Assignee", "assignee", [["", "Anybody"], ["me", "Me"], ["nobody", "Nobody"], ...facets.operators.map((name) => [name, name])]),
      chosen("Version", "version", some("Any", facets.versions)),
      chosen("Article", "article", some("Any", facets.articles)),
      chosen("Act", "act", some("Any", facets.acts)),
      chosen("Tag", "tag", some("Any", facets.tags)),
      chosen("Language", "language", some("Any", ["en", "de", "fr", "es", "it", "nl", "pt", "pl", "tr", "ru", "zh", "ja", "ar"])),
      day("From", "since"),
      day("Until", "until"),
      el("label", { class: "od-check" }, flagged, "Flagged only"),
      this.savedRow,
    );
    this.savedRow.replaceChildren(...this.#savedParts());
    if (focused) this.panel.querySelector(`[data-name="${focused}"]`)?.focus();
    this.#markActive();
  }

  #markActive() {
    const active = Object.keys(EMPTY).filter((name) => !["q", "view", "order"].includes(name) && this.filter[name] !== EMPTY[name]);
    this.toggle.classList.toggle("active", active.length > 0);
  }

  #savedParts() {
    const kept = select([["", "Saved filters"], ...this.saved.map(({ name }) => [name, name])], "", (name) => {
      const found = this.saved.find((one) => one.name === name);
      if (found) this.restore(found.filter, found.name);
    });
    kept.value = this.chosen;
    kept.setAttribute("aria-label", "Saved filters");
    kept.dataset.name = "saved";
    const name = this.saveName;
    const clear = button("Clear", () => this.restore({}));
    const forget = this.chosen && button("Remove", () => this.on.forget(this.chosen), { aria: { label: `Remove the filter ${this.chosen}` } });
    const keep = button("Save", () => name.value.trim() && this.on.save(name.value.trim(), this.filter));
    const exports = ["csv", "jsonl"].map((format) => el("a", { class: "od-button", href: absolute(`v1/inbox/export?${query({ ...this.filter, format })}`), download: `conversations.${format}` }, `Export ${format.toUpperCase()}`));
    return [kept, forget, name, keep, clear, ...exports].filter(Boolean);
  }

  /** A filter as it was kept or saved, by its name if it has one. */
  restore(filter, name = "") {
    this.chosen = name;
    this.filter = { ...EMPTY, ...filter };
    this.view = VIEWS.find(([, , wanted]) => (wanted.view ?? "") === this.filter.view && (wanted.assignee ?? "") === this.filter.assignee)?.[0] ?? "all";
    this.search.value = this.filter.q;
    this.set({});
    this.drawFilters();
  }

  /** What the server answered; `openId` is marked. */
  draw(rows, { next, searched_to: searchedTo, now, counts }, openId) {
    this.rows = rows;
    this.drawTabs(counts);
    const lines = rows.map((row) => this.#row(row, openId, now));
    this.list.replaceChildren(...(lines.length ? lines : [el("p", { class: "od-empty" }, "No conversation matches.")]));
    const more = next && button(searchedTo ? "Search further back" : "Older", () => this.on.more());
    const note = searchedTo && el("p", { class: "od-faint" }, "Searched back to ", time(searchedTo), ".");
    this.foot.replaceChildren(...[note, more].filter(Boolean));
  }

  #row(row, openId, now) {
    const words = row.snippet.length ? row.snippet.map(({ text, hit }) => (hit ? el("mark", {}, text) : text)) : [row.last_text || "(no message yet)"];
    const since = row.state === "waiting" ? pill(`waits ${span(now - row.waiting_since)}`, "warn") : statePill(row.state);
    const meta = [
      since,
      row.assignee && pill(`@${row.assignee}`, "accent"),
      row.viewers.length && pill(`${row.viewers.join(", ")} looking`, "eye"),
      row.flagged && pill("flagged", "bad"),
      row.up > 0 && pill(`▲ ${row.up}`, "good"),
      row.down > 0 && pill(`▼ ${row.down}`, "bad"),
      row.csat > 0 && pill(`${row.csat}/5`, row.csat > 3 ? "good" : row.csat < 3 ? "bad" : ""),
      row.outcome && pill(row.outcome === "solved" ? "solved" : "not solved", row.outcome === "solved" ? "good" : "bad"),
      ...row.tags.map((tag) => pill(`#${tag}`)),
      row.versions.length > 0 && code(row.versions.at(-1)),
      time(row.updated_at, span(now - row.updated_at)),
    ];
    const open = el("button", { type: "button", class: "od-row", data: { id: row.id }, on: { click: () => this.on.open(row.id) } }, el("span", { class: "od-row-text" }, ...words), el("span", { class: "od-row-meta" }, ...meta.filter(Boolean)));
    if (row.id === openId) open.setAttribute("aria-current", "true");
    return el("div", { role: "listitem" }, open);
  }

  /** Marks a row without drawing the list again, and keeps it in sight. */
  mark(id) {
    for (const row of this.list.querySelectorAll(".od-row")) {
      if (row.dataset.id === id) {
        row.setAttribute("aria-current", "true");
        row.scrollIntoView({ block: "nearest" });
      } else row.removeAttribute("aria-current");
    }
  }

  /** The id `step` rows after `id`; the first when `id` is not in the list. */
  beside(id, step) {
    const place = this.rows.findIndex((row) => row.id === id);
    return this.rows[place < 0 ? 0 : Math.min(Math.max(place + step, 0), this.rows.length - 1)]?.id;
  }
}
