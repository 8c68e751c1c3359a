"""The operator page: search conversations, read one with everything behind each reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui.client import Api, ApiError
from ui.handlers import DIRECT
from ui.markup import SIGN_OUT_JS, empty, problem, top_bar
from ui.transcript import render_list, render_transcript

HEAD = '<link rel="stylesheet" href="../static/rejoinder/desk.css">'
"""Head of the operator's pages, which live one folder down."""
PAGE_SIZE = 20
ROW_CLICK_JS = """element.addEventListener('click', (event) => {
  const row = event.target.closest('.dk-row');
  if (!row) return;
  for (const other of element.querySelectorAll('[aria-current]')) other.removeAttribute('aria-current');
  row.setAttribute('aria-current', 'true');
  trigger('select', {id: row.dataset.id});
})"""
THUMBS = [("Any thumb", 0), ("Has a thumb up", 1), ("Has a thumb down", -1)]
STATUSES = [
    ("Any status", ""),
    ("With the bot", "bot"),
    ("Waiting for a person", "waiting"),
    ("With a person", "person"),
    ("Resolved", "resolved"),
]
CHOOSE = "Choose a conversation to read it."


Place = tuple[list[float], float]
"""Where one is in the list: the `before` of every page walked through (0.0 first), and of the page that follows."""
START: Place = ([0.0], 0.0)


@dataclass(frozen=True)
class OperatorDesk:
    """The page's handlers. The first three answer (list, problem, place, newer button, older button)."""

    api: Api

    async def first_page(self, query: str, thumb: int, version: str, status: str) -> tuple[Any, ...]:
        """The newest conversations that match."""
        return await self._page((query, thumb, version, status), [0.0])

    async def older(self, query: str, thumb: int, version: str, status: str, place: Place) -> tuple[Any, ...]:
        """The page after this one."""
        cursors, following = place
        return await self._page((query, thumb, version, status), [*cursors, following] if following else cursors)

    async def newer(self, query: str, thumb: int, version: str, status: str, place: Place) -> tuple[Any, ...]:
        """The page before this one."""
        return await self._page((query, thumb, version, status), place[0][:-1] or [0.0])

    async def read(self, event: gr.EventData) -> tuple[str, str]:
        """(transcript, problem) of the row that was clicked."""
        try:
            return render_transcript(await self.api.conversation(str(event.id))), ""
        except ApiError as error:
            return empty(CHOOSE), problem(str(error))

    async def _page(self, wanted: tuple[str, int, str, str], cursors: list[float]) -> tuple[Any, ...]:
        query, thumb, version, status = wanted
        try:
            page = await self.api.conversations(
                q=query.strip(),
                thumb=thumb,
                version=version.strip(),
                status=status,
                before=cursors[-1],
                limit=PAGE_SIZE,
            )
        except ApiError as error:
            return gr.skip(), problem(str(error)), gr.skip(), gr.skip(), gr.skip()
        following = float(page.get("next") or 0.0)
        turn = gr.Button(interactive=len(cursors) > 1), gr.Button(interactive=bool(following))
        return render_list(page.get("conversations") or []), "", (cursors, following), *turn


def operator_page(api: Api) -> gr.Blocks:
    """Blocks for `/operator`."""
    desk = OperatorDesk(api)
    page: gr.Blocks
    with gr.Blocks(title="Conversations · Rejoinder", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(top_bar("operator"), js_on_load=SIGN_OUT_JS, apply_default_css=False)
        filters = _filters()
        trouble = gr.HTML("", js_on_load=None, apply_default_css=False)
        with gr.Row(elem_classes="dk-desk"):
            with gr.Column(scale=2, min_width=320):
                rows = gr.HTML(empty("Loading…"), js_on_load=ROW_CLICK_JS, apply_default_css=False, elem_id="dk-list")
                with gr.Row():
                    newer = gr.Button("Newer", size="sm", interactive=False)
                    older = gr.Button("Older", size="sm", interactive=False)
            with gr.Column(scale=3, min_width=360):
                transcript = gr.HTML(empty(CHOOSE), js_on_load=None, apply_default_css=False, elem_id="dk-transcript")
        place = gr.State(START)
        seen = [rows, trouble, place, newer, older]
        gr.on(
            [page.load, *(box.submit for box in filters if isinstance(box, gr.Textbox))],
            desk.first_page,
            filters,
            seen,
            **DIRECT,
        )
        gr.on([box.change for box in filters if isinstance(box, gr.Dropdown)], desk.first_page, filters, seen, **DIRECT)
        older.click(desk.older, [*filters, place], seen, **DIRECT)
        newer.click(desk.newer, [*filters, place], seen, **DIRECT)
        rows.select(desk.read, None, [transcript, trouble], **DIRECT)
    return page


def _filters() -> list[gr.components.Component]:
    with gr.Row(elem_classes="dk-filters"):
        return [
            gr.Textbox(label="Search", placeholder="Words in the conversation, then Enter", scale=3, min_width=220),
            gr.Dropdown(THUMBS, value=0, label="Thumb", min_width=150),
            gr.Textbox(label="Version", placeholder="v000003", min_width=130),
            gr.Dropdown(STATUSES, value="", label="Status", min_width=160),
        ]
