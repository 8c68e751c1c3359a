"""The one renderer: a conversation's state as the text that models read. For serving and for learning alike.

`query_text` is what the encoder embeds; `choice_prompt` and `reply_prompt` are what the causal LM reads, as JSON of chat
messages (the tokenizer's own chat template turns them into tokens, once, and rows keep the token ids).
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from bot.conversation import Act, ActKind, State, Turn

MAX_TURNS = 6
"""Newest turns that the prompt of a reply shows."""
CHOICE_TURNS = 12
"""Turns that the prompt of a choice shows at most."""
CHOICE_HOP = 6
"""Of these, so many of the oldest leave at once: prompts of the turns between begin alike, and what was read of one is
read already for the next."""
MAX_TURN_CHARS = 600
"""Longer turns are cut in prompts: one pasted page must not push the question out of the context. The question of a reply
that is to be written is not."""
_CHAT_ROLES = {"user": "user", "bot": "assistant", "operator": "assistant"}


def query_text(state: State) -> str:
    """What the user asks now. After a clarifying question, their words before it still count."""
    said = [turn for turn in state.turns if turn.role == "user"]
    if not said:
        return ""
    if len(said) > 1 and _last_bot_kind(state) is ActKind.CLARIFY:
        return f"{said[-2].text} {said[-1].text}"
    return said[-1].text


def choice_prompt(state: State, persona: str) -> str:
    """Prompt under which the causal part scores act texts as the assistant's next words."""
    task = "Name the topic that the customer's last message is about."
    num_left_out = -(-max(0, len(state.turns) - CHOICE_TURNS) // CHOICE_HOP) * CHOICE_HOP
    return _chat(f"{persona} {task}", state.turns[num_left_out:])


def reply_prompt(state: State, persona: str, sources: tuple[str, ...]) -> str:
    """Prompt for a generated reply that must rest on `sources` alone."""
    facts = "\n".join(f"- {source}" for source in sources)
    task = "Answer the customer's last message in your own words, kindly and briefly, using only these facts:"
    return _chat(f"{persona} {task}\n{facts}", state.turns[-MAX_TURNS:], num_whole=1)


def _chat(system: str, turns: Sequence[Turn], num_whole: int = 0) -> str:
    """The newest `num_whole` turns as they were said."""
    last_cut = len(turns) - num_whole
    said = [
        (_CHAT_ROLES[turn.role], turn.text[: MAX_TURN_CHARS if i < last_cut else None]) for i, turn in enumerate(turns)
    ]
    return json.dumps([("system", system), *said], ensure_ascii=False)


def _last_bot_kind(state: State) -> ActKind | None:
    acts = [turn.act for turn in state.turns if turn.role == "bot" and turn.act]
    return Act.parse(acts[-1]).kind if acts else None
