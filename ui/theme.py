"""How Gradio's own parts look: system fonts (nothing is fetched from another host) and our colours."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors

_FONTS = ["-apple-system", "BlinkMacSystemFont", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "Menlo", "Consolas", "Liberation Mono", "monospace"]


def theme() -> gr.themes.Base:
    """Gradio's base theme in our colours, light and dark."""
    base = gr.themes.Base(
        primary_hue=colors.teal,
        neutral_hue=colors.stone,
        font=_FONTS,
        font_mono=_MONO,
        radius_size="lg",
        text_size="md",
    )
    return base.set(**_surface_tokens())


def _surface_tokens() -> dict[str, str]:
    tokens = {
        "body_background_fill": "var(--rj-page)",
        "body_text_color": "var(--rj-ink)",
        "body_text_color_subdued": "var(--rj-faint)",
        "background_fill_primary": "var(--rj-card)",
        "background_fill_secondary": "var(--rj-page)",
        "block_background_fill": "var(--rj-card)",
        "block_border_color": "var(--rj-line)",
        "block_label_text_color": "var(--rj-soft)",
        "block_title_text_color": "var(--rj-soft)",
        "border_color_primary": "var(--rj-line)",
        "input_background_fill": "var(--rj-card)",
        "input_border_color": "var(--rj-line-strong)",
        "button_primary_background_fill": "var(--rj-accent)",
        "button_primary_background_fill_hover": "var(--rj-accent-hover)",
        "button_primary_text_color": "var(--rj-on-accent)",
        "button_secondary_background_fill": "var(--rj-card)",
        "button_secondary_background_fill_hover": "var(--rj-sunken)",
        "button_secondary_text_color": "var(--rj-ink)",
        "button_secondary_border_color": "var(--rj-line-strong)",
        "input_border_width": "1px",
    }
    return tokens | {f"{name}_dark": value for name, value in tokens.items()} | {"button_border_width": "1px"}
