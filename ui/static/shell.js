// The frame around the conversation: header, menu, banner, composer. Draws and reports clicks; decides nothing.

import { el, icon, iconButton } from "./dom.js";

const MAX_TEXT_CHARS = 4000;
const COUNT_FROM_CHARS = 3600;
const MAX_FIELD_HEIGHT_PX = 168;

export class Shell {
  /** `actions`: {send(text), stop(), handover(), fresh(), setReply(mode), setLearn(on), setLanguage(language), download(),
   * erase(), reconnect()}; `languages`: {current, all}. */
  constructor(say, actions, thread, solved, languages) {
    this.say = say;
    this.actions = actions;
    this.languages = languages;
    this.consent = el("p", { class: "rj-consent" });
    this.banner = el("div", { class: "rj-banner", role: "status", hidden: true });
    this.notice = el("section", { class: "rj-notice", aria: { label: say("notice.label") } });
    thread.log.prepend(this.notice);
    thread.log.append(solved);
    const body = el("div", { class: "rj-main" }, thread.scroller, thread.jump);
    this.node = el("div", { class: "rj" }, this.#header(), this.banner, body, this.#composer());
  }

  #header() {
    this.name = el("h1", {});
    this.badgeVersion = el("b", {});
    this.badgeWord = el("span", { class: "rj-badge-word" });
    this.badge = el("span", { class: "rj-badge", role: "status" }, el("i", {}), this.badgeWord, el("span", { class: "rj-dot" }, "·"), this.badgeVersion);
    this.avatar = el("span", { class: "rj-avatar", aria: { hidden: true } });
    this.person = el("button", { type: "button", class: "rj-button rj-person", on: { click: () => this.actions.handover() } }, icon("person"), el("span", {}, this.say("person")));
    const who = el("div", { class: "rj-whois" }, this.name, el("p", { class: "rj-subtitle" }, this.say("subtitle"), this.badge));
    return el("header", { class: "rj-header" }, el("div", { class: "rj-header-inner" }, this.avatar, who, el("span", { class: "rj-spring" }), this.person, this.#menu()));
  }

  #menu() {
    const toggle = iconButton("menu", this.say("menu"), () => this.#showMenu(this.menu.hidden));
    this.toggle = toggle;
    toggle.setAttribute("aria-expanded", "false");
    this.menu = el("div", { class: "rj-menu", hidden: true, role: "group", aria: { label: this.say("menu") } }, ...this.#menuParts());
    const holder = el("div", { class: "rj-menu-holder" }, toggle, this.menu);
    document.addEventListener("click", (event) => !event.composedPath().includes(holder) && this.#showMenu(false));
    holder.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.menu.hidden) return;
      this.#showMenu(false);
      toggle.focus();
    });
    return holder;
  }

  #menuParts() {
    const items = [this.#menuItem("plus", "fresh"), this.#menuItem("download", "download"), this.#menuItem("trash", "erase")];
    return [this.#replyChoice(), this.#learnSwitch(), this.#languageChoice(), el("hr"), el("div", { class: "rj-menu-items" }, items)];
  }

  #showMenu(open) {
    this.menu.hidden = !open;
    this.toggle.setAttribute("aria-expanded", String(open));
  }

  #replyChoice() {
    const option = (mode) => {
      const input = el("input", { type: "radio", name: "rj-reply", value: mode, on: { change: () => this.actions.setReply(mode) } });
      return el("label", { class: "rj-segment" }, input, el("span", {}, this.say(`reply.${mode}`)));
    };
    this.replyHint = el("p", { class: "rj-faint" });
    this.replies = el("fieldset", {}, el("legend", {}, this.say("reply.legend")), el("div", { class: "rj-segments" }, option("approved"), option("generated")), this.replyHint);
    return this.replies;
  }

  #learnSwitch() {
    this.learn = el("input", { type: "checkbox", role: "switch", id: "rj-learn", on: { change: () => this.actions.setLearn(this.learn.checked) } });
    const label = el("label", { class: "rj-switch", for: "rj-learn" }, el("span", {}, this.say("learn.label")), this.learn, el("i", { aria: { hidden: true } }));
    return el("div", {}, label, el("p", { class: "rj-faint" }, this.say("learn.hint")));
  }

  #languageChoice() {
    const option = (language) => {
      const checked = language === this.languages.current;
      const input = el("input", { type: "radio", name: "rj-language", value: language, checked, on: { change: () => this.actions.setLanguage(language) } });
      return el("label", { class: "rj-segment" }, input, el("span", { lang: language }, this.say(`language.${language}`)));
    };
    return el("fieldset", {}, el("legend", {}, this.say("language.legend")), el("div", { class: "rj-segments" }, this.languages.all.map(option)));
  }

  /** `name`: of its action and of its text. */
  #menuItem(iconName, name) {
    const act = () => {
      this.#showMenu(false);
      this.actions[name]();
    };
    return el("button", { type: "button", class: "rj-menu-item", on: { click: act } }, icon(iconName), this.say(name));
  }

  #composer() {
    const label = this.say("composer.label");
    this.field = el("textarea", { class: "rj-field", rows: 1, maxLength: MAX_TEXT_CHARS, placeholder: this.say("composer.placeholder"), aria: { label } });
    this.field.addEventListener("keydown", (event) => this.#onKey(event));
    this.field.addEventListener("input", () => this.#fit());
    this.sendButton = el("button", { type: "submit", class: "rj-send", title: this.say("send"), aria: { label: this.say("send") } }, icon("send"));
    this.stopButton = el("button", { type: "button", class: "rj-send rj-stop", hidden: true, title: this.say("stop"), aria: { label: this.say("stop") }, on: { click: () => this.actions.stop() } }, icon("stop"));
    this.count = el("span", { class: "rj-count", role: "status" });
    this.error = el("div", { class: "rj-error", role: "alert", hidden: true });
    const form = el("form", { class: "rj-compose" }, this.field, this.count, this.sendButton, this.stopButton);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.editing = el("div", { class: "rj-editing", role: "status", hidden: true }, el("span", {}, this.say("edit.hint")), el("button", { type: "button", class: "rj-link", on: { click: () => this.#endEdit("") } }, this.say("edit.cancel")));
    return el("footer", { class: "rj-footer" }, this.error, this.editing, form, el("p", { class: "rj-fine" }, this.say("fine")));
  }

  #onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#submit();
  }

  #submit() {
    const text = this.field.value.trim();
    if (!text) return;
    this.#endEdit("");
    this.actions.send(text);
  }

  /** Puts an earlier question into the field, to be asked in other words. */
  edit(text) {
    this.#endEdit(text);
    this.editing.hidden = false;
    this.field.focus();
  }

  /** Empties the field. */
  clear() {
    this.#endEdit("");
  }

  #endEdit(text) {
    this.editing.hidden = true;
    this.field.value = text;
    this.#fit();
  }

  #fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, MAX_FIELD_HEIGHT_PX)}px`;
    const length = this.field.value.length;
    this.count.textContent = length >= COUNT_FROM_CHARS ? `${length} / ${MAX_TEXT_CHARS}` : "";
  }

  /** Who speaks and what they must say about themselves. */
  introduce(assistant, aiNotice, humanOffer) {
    this.name.textContent = assistant;
    this.avatar.textContent = [...assistant][0] || "";
    const ask = el("button", { type: "button", class: "rj-link", on: { click: () => this.actions.handover() } }, this.say("person"));
    this.notice.replaceChildren(el("p", {}, el("strong", {}, aiNotice)), el("p", {}, humanOffer, " ", ask), this.consent);
  }

  /** The version that new replies come from; a change is seen and announced. */
  setVersion(version) {
    const changed = this.badgeVersion.textContent && this.badgeVersion.textContent !== version;
    this.badgeVersion.textContent = version;
    this.badge.title = this.say("version.badge", { version });
    if (!changed) return;
    this.badge.classList.remove("rj-changed");
    requestAnimationFrame(() => this.badge.classList.add("rj-changed"));
  }

  setSettings(reply, learn) {
    for (const input of this.replies.querySelectorAll("input")) input.checked = input.value === reply;
    this.learn.checked = learn;
    const change = el("button", { type: "button", class: "rj-link", on: { click: () => this.actions.setLearn(!learn) } }, this.say(learn ? "consent.stop" : "consent.allow"));
    this.consent.replaceChildren(this.say(learn ? "consent.on" : "consent.off"), " ", change);
    this.badge.classList.toggle("rj-paused", !learn);
    this.badgeWord.textContent = this.say(learn ? "badge.learning" : "badge.paused");
  }

  setCanWrite(canWrite) {
    this.replies.querySelector("input[value=generated]").disabled = !canWrite;
    this.replyHint.textContent = this.say(canWrite ? "reply.hint" : "reply.unavailable");
  }

  setBusy(busy) {
    const hadFocus = this.stopButton.matches(":focus");
    this.stopButton.hidden = !busy;
    this.sendButton.hidden = busy;
    if (hadFocus && !busy) this.field.focus();
  }

  /** While a person is called, or speaks, nobody needs to call one. */
  setPersonCalled(called) {
    this.person.disabled = called;
  }

  /** A strip under the header: `offline`, a hand-over state, or nothing (""). */
  setBanner(kind, text, canRetry = false) {
    this.banner.hidden = !kind;
    this.banner.dataset.kind = kind;
    const again = el("button", { type: "button", class: "rj-link", on: { click: () => this.actions.reconnect() } }, this.say("reconnect"));
    this.banner.replaceChildren(el("i", { aria: { hidden: true } }), el("span", {}, text), ...(canRetry ? [again] : []));
  }

  /** One line near the composer; `retry` adds a button. */
  showError(text, retry = null) {
    const again = retry && el("button", { type: "button", class: "rj-link", on: { click: () => (this.hideError(), retry()) } }, this.say("retry"));
    const close = iconButton("close", this.say("dismiss"), () => this.hideError());
    this.error.replaceChildren(el("span", {}, text), ...(again ? [again] : []), close);
    this.error.classList.remove("rj-good-news");
    this.error.hidden = false;
  }

  /** One line that something was done. */
  showNote(text) {
    this.showError(text);
    this.error.classList.add("rj-good-news");
  }

  hideError() {
    this.error.hidden = true;
    this.error.replaceChildren();
  }
}
