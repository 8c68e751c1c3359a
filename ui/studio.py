"""The studio page: a Gradio page holding one container that our own scripts fill.

The browser talks to `/v1` itself, with the operator's session (docs/protocol.md); this module only names what is plotted.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape

import gradio as gr

from ui.metrics import METRICS

HEAD = """<link rel="stylesheet" href="../static/rejoinder/studio.css">
<script type="module" src="../static/rejoinder/studio.js"></script>"""
"""The page lives one folder down."""


def studio_page() -> gr.Blocks:
    """Blocks for `/studio`."""
    page: gr.Blocks
    with gr.Blocks(title="Studio · Rejoinder", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(container(), elem_classes="st-stage", js_on_load=None, apply_default_css=False)
    return page


def container() -> str:
    """What the scripts fill, with their configuration in `data-config`."""
    config = {"metrics": {name: asdict(metric) for name, metric in METRICS.items()}}
    data = escape(json.dumps(config, ensure_ascii=True), quote=True)
    return f'<div id="studio" data-config="{data}"><p class="st-empty">Loading…</p></div>'
