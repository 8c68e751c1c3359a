// The panel that shows an approved article. One dialog for the page: focus is kept inside, Escape closes.

import { el, iconButton } from "./dom.js";
import { renderMarkdown } from "./markdown.js";

export class ArticlePanel {
  /** `base`: address that `{id}` is appended to. */
  constructor(say, base) {
    this.say = say;
    this.base = base;
    this.title = el("h2", { id: "rj-article-title" });
    this.body = el("div", { class: "rj-article-body rj-text" });
    const close = iconButton("close", say("close"), () => this.dialog.close());
    const head = el("header", {}, el("div", {}, el("p", { class: "rj-eyebrow" }, say("article.eyebrow")), this.title), close);
    this.dialog = el("dialog", { class: "rj-panel", aria: { labelledby: "rj-article-title" } }, head, this.body);
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  /** Opens at once with the title; the text follows. */
  async open(id, title) {
    this.title.textContent = title;
    this.body.replaceChildren(el("p", { class: "rj-faint" }, this.say("loading")));
    this.dialog.showModal();
    const article = await this.#fetch(id);
    if (article) this.title.textContent = article.title;
    this.body.replaceChildren(article ? renderMarkdown(article.answer) : el("p", { role: "alert" }, this.say("article.missing")));
  }

  async #fetch(id) {
    try {
      const answer = await fetch(new URL(encodeURIComponent(id), this.base));
      return answer.ok ? await answer.json() : null;
    } catch {
      return null; // offline: said in the panel
    }
  }
}
