"""How a generated reply is asked for: one place for the product and for what measures it, so that both decode alike."""

from __future__ import annotations

import math

from bot.policy.types import TextRequest
from bot.settings_sections import PolicySettings

SENTENCE_SHARE = 0.75
"""Of the longest reply: from here on a generated one ends with its sentence."""


def reply_request(
    settings: PolicySettings,
    prompt: str,
    sources: tuple[str, ...],
    seed: int,
    chat: str = "",
    deadline_s: float | None = None,
) -> TextRequest:
    """A reply to a rendered prompt (`bot.render.reply_prompt`), grounded in `sources`, as the settings have it written."""
    return TextRequest(
        prompt,
        sources,
        seed,
        settings.max_reply_tokens,
        settings.text_temperature,
        chat,
        settings.stop,
        deadline_s,
        math.ceil(SENTENCE_SHARE * settings.max_reply_tokens),
    )
