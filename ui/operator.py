"""The operator page: a Gradio page holding one container that our own scripts fill.

The browser talks to `/v1` and `/ws/operator` itself, with the session cookie (docs/protocol.md), so that the server knows
who acts, and so that lists and transcripts are built from text nodes alone.
"""

from __future__ import annotations

import gradio as gr

HEAD = '<link rel="stylesheet" href="../static/rejoinder/desk.css">'
"""Head of pages one folder down."""
DESK_HEAD = """<link rel="stylesheet" href="../static/rejoinder/operator.css">
<script type="module" src="../static/rejoinder/operator.js"></script>"""
FIRST_FRAME = '<main id="rj-desk" lang="en"><p class="od-first">Opening the inbox…</p></main>'


def operator_page() -> gr.Blocks:
    """Blocks for `/operator`."""
    page: gr.Blocks
    with gr.Blocks(title="Conversations · Rejoinder", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(FIRST_FRAME, elem_classes="od-stage", js_on_load=None, apply_default_css=False)
    return page
