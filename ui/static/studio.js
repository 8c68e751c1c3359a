// The studio: three pages behind tabs, all talking to `/v1` with the operator's session. This file only connects them.

import { el } from "./dom.js";
import { forgetDesk } from "./operator_memory.js";
import { KnowledgePage } from "./studio_knowledge.js";
import { LearningPage } from "./studio_learning.js";
import { RulesPage } from "./studio_rules.js";

const PAGES = { learning: "Learning", rules: "Reward rules", knowledge: "Knowledge" };

class Studio {
  constructor(container) {
    const config = JSON.parse(container.dataset.config);
    this.pages = { learning: new LearningPage(config.metrics), rules: new RulesPage(), knowledge: new KnowledgePage() };
    this.tabs = Object.entries(PAGES).map(([name, label]) => this.#tab(name, label));
    const list = el("div", { class: "st-tabs", role: "tablist", aria: { label: "Studio" }, on: { keydown: (event) => this.#walk(event) } }, ...this.tabs);
    this.panels = Object.entries(this.pages).map(([name, page]) => el("div", { id: `st-page-${name}`, role: "tabpanel", tabIndex: -1, hidden: true, aria: { labelledby: `st-tab-${name}` } }, page.node));
    const main = el("main", { class: "st-main" }, el("h1", {}, "Studio"), list, ...this.panels);
    container.replaceChildren(el("div", { class: "st-frame" }, this.#bar(), main));
    addEventListener("hashchange", () => this.#show());
    this.#show();
  }

  #bar() {
    const leave = el("button", { type: "button", on: { click: () => this.#signOut() } }, "Sign out");
    const links = [["Conversations", "../operator/"], ["Studio", "../studio/"], ["Chat", "../"]];
    const here = (label) => (label === "Studio" ? { aria: { current: "page" } } : {});
    return el("nav", { class: "st-bar", aria: { label: "Pages" } }, el("strong", {}, "Rejoinder"), ...links.map(([label, href]) => el("a", { href, ...here(label) }, label)), el("span"), leave);
  }

  async #signOut() {
    const ended = await fetch("../v1/session", { method: "DELETE" }).then((answer) => (answer.status === 200 ? answer.json() : null));
    forgetDesk();
    location.assign(ended?.provider_url ?? "../login");
  }

  #tab(name, label) {
    return el("button", { type: "button", id: `st-tab-${name}`, role: "tab", data: { name }, aria: { controls: `st-page-${name}` }, on: { click: () => (location.hash = name) } }, label);
  }

  /** Arrow keys go from tab to tab. */
  #walk(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    const next = this.tabs.at((this.tabs.indexOf(document.activeElement) + move) % this.tabs.length);
    next.focus();
    location.hash = next.dataset.name;
  }

  #show() {
    const name = location.hash.slice(1) in PAGES ? location.hash.slice(1) : "learning";
    for (const tab of this.tabs) {
      const isHere = tab.dataset.name === name;
      tab.setAttribute("aria-selected", String(isHere));
      tab.tabIndex = isHere ? 0 : -1;
    }
    for (const panel of this.panels) panel.hidden = panel.id !== `st-page-${name}`;
    for (const [other, page] of Object.entries(this.pages)) if (other !== name) page.hide?.();
    this.pages[name].show();
  }
}

/** Waits for the container that the page renders, then starts once. */
function begin() {
  const container = document.querySelector("#studio");
  if (!container || container.dataset.started) return Boolean(container);
  container.dataset.started = "yes";
  new Studio(container);
  return true;
}

if (!begin()) {
  const observer = new MutationObserver(() => begin() && observer.disconnect());
  observer.observe(document.documentElement, { childList: true, subtree: true });
}
