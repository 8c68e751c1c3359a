"""The studio page: which version serves, how learning goes, and the levers over both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui import metrics
from ui.client import Api, ApiError
from ui.handlers import DIRECT
from ui.markup import SIGN_OUT_JS, empty, mono, problem, text, top_bar

REFRESH_S = 5.0
CHANGES = {
    "rollback": "Roll back",
    "promote": "Promote",
    "freeze": "Freeze",
    "unfreeze": "Unfreeze",
}
_CONSEQUENCE = {
    "rollback": "New replies come from {version} again, at once. Learning is frozen until you unfreeze it.",
    "promote": "New replies come from {version}, at once.",
    "freeze": "The champion stays, whatever the learner finds. Chat and collecting go on.",
    "unfreeze": "The learner may publish again what passes the gate.",
}
COLORS = {"up": "#2f9e6e", "down": "#d0574c"}
BASE_CHOICE = "(the version before)"


@dataclass(frozen=True)
class Studio:
    """The page's handlers."""

    api: Api

    async def refresh(self) -> tuple[Any, ...]:
        """(problem, cards, four plots, versions, updates)."""
        try:
            versions, learner = await self.api.versions(), await self.api.learner()
        except ApiError as error:
            return problem(str(error)), *[gr.skip()] * 7
        plots = (
            metrics.thumbs_over_time,
            metrics.reward_over_time,
            metrics.thumbs_by_version,
            metrics.success_by_version,
        )
        tables = metrics.render_versions(versions, learner), metrics.render_updates(learner)
        return "", metrics.render_cards(versions, learner), *(plot(learner) for plot in plots), *tables

    async def choices(self) -> Any:
        """The versions one can go to."""
        try:
            listed = (await self.api.versions()).get("versions") or []
        except ApiError:
            return gr.skip()
        names = [str(line["version"]) for line in reversed(listed) if line.get("state") != "pruned"]
        return gr.Dropdown(choices=[BASE_CHOICE, *names])

    def ask(self, change: str, version: str, reason: str) -> tuple[Any, ...]:
        """(pending change, question, whether it is shown, result line): nothing happens before the answer."""
        to = "" if version == BASE_CHOICE else version
        if not reason.strip():
            return None, "", gr.Column(visible=False), problem("Write a reason first: it is kept with the change.")
        if change == "promote" and not to:
            return None, "", gr.Column(visible=False), problem("Choose the version to promote.")
        return (change, to, reason.strip()), _question(change, to, reason), gr.Column(visible=True), ""

    async def confirm(self, pending: tuple[str, str, str] | None) -> tuple[Any, ...]:
        """(pending, question shown, result line, reason)."""
        if pending is None:
            return None, gr.Column(visible=False), "", gr.skip()
        try:
            standing = await self._change(*pending)
        except ApiError as error:
            return None, gr.Column(visible=False), problem(str(error)), gr.skip()
        frozen = "learning is frozen" if standing.get("frozen") else "learning may publish"
        done = f'<div class="dk-done" role="status">Done: {mono(standing.get("champion", ""))} serves, {frozen}.</div>'
        return None, gr.Column(visible=False), done, ""

    async def _change(self, change: str, version: str, reason: str) -> dict[str, Any]:
        if change == "rollback":
            return await self.api.rollback(version, reason)
        if change == "promote":
            return await self.api.promote(version, reason)
        return await (self.api.freeze(reason) if change == "freeze" else self.api.unfreeze(reason))


def _question(change: str, version: str, reason: str) -> str:
    consequence = _CONSEQUENCE[change].format(version=version or "the version before")
    return f'<div class="dk-question"><strong>{CHANGES[change]}?</strong> {text(consequence)}<br>Reason: {text(reason.strip())}</div>'


def studio_page(api: Api) -> gr.Blocks:
    """Blocks for `/studio`."""
    studio = Studio(api)
    page: gr.Blocks
    with gr.Blocks(title="Studio · Rejoinder", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(top_bar("studio"), js_on_load=SIGN_OUT_JS, apply_default_css=False)
        trouble, cards = _html(""), _html(empty("Loading…"))
        plots = _plots()
        _html('<h2 class="dk-title">Versions</h2>')
        versions = _html("")
        _levers(page, studio)
        _html('<h2 class="dk-title">Learner updates</h2>')
        updates = _html("")
        shown = [trouble, cards, *plots, versions, updates]
        gr.on([page.load, gr.Timer(REFRESH_S).tick], studio.refresh, None, shown, **DIRECT)
    return page


def _html(value: str) -> gr.HTML:
    return gr.HTML(value, js_on_load=None, apply_default_css=False)


def _plots() -> list[gr.components.Component]:
    common: dict[str, Any] = {"height": 230, "buttons": [], "x_title": " ", "min_width": 320, "container": False}
    thumbs: dict[str, Any] = {
        "color": "thumb",
        "color_map": COLORS,
        "y": "votes",
        "y_title": "votes",
        "color_title": " ",
        **common,
    }
    with gr.Row():
        over_time = _plot("Thumbs over time", gr.LinePlot, x="at", **thumbs)
        reward = _plot("Reward over time", gr.LinePlot, x="at", y="reward", y_title="mean reward", **common)
    with gr.Row():
        bars: dict[str, Any] = {"kind": gr.BarPlot, "x": "label", "tooltip": ["version"]}
        by_version = _plot("Thumbs per version", **bars, **thumbs)
        success = _plot("Success per version", **bars, y="success", y_title="success, %", y_lim=[0, 100], **common)
    return [over_time, reward, by_version, success]


def _plot(title: str, kind: type[gr.components.Component], **options: Any) -> gr.components.Component:
    with gr.Column(elem_classes="dk-plot", min_width=340):
        _html(f'<h3>{text(title)}</h3><p class="dk-faint">{text(metrics.MEANING[title])}</p>')
        return kind(**options)


def _levers(page: gr.Blocks, studio: Studio) -> None:
    with gr.Column(elem_classes="dk-levers"):
        with gr.Row():
            version = gr.Dropdown([BASE_CHOICE], value=BASE_CHOICE, label="Version", min_width=200)
            reason = gr.Textbox(label="Reason", placeholder="Why? Kept with the change.", max_length=500, scale=3)
        with gr.Row():
            buttons = {change: gr.Button(label, size="sm") for change, label in CHANGES.items()}
    with gr.Column(visible=False, elem_classes="dk-confirm") as confirmation:
        question = _html("")
        with gr.Row():
            yes = gr.Button("Yes, do it", variant="primary", size="sm")
            no = gr.Button("Cancel", size="sm")
    result, pending = _html(""), gr.State(None)
    for change, button in buttons.items():
        asked = [gr.State(change), version, reason]
        button.click(studio.ask, asked, [pending, question, confirmation, result], **DIRECT)
    yes.click(studio.confirm, pending, [pending, confirmation, result, reason], **DIRECT)
    no.click(lambda: (None, gr.Column(visible=False)), None, [pending, confirmation], **DIRECT)
    gr.on([page.load, version.focus], studio.choices, None, version, **DIRECT)
