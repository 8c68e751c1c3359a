"""A causal LM's words without the LM: rendered prompts to tokens, tokens to text, and which token may come next.

Whoever lets a causal model write goes through here, in our process or in a server's: the same prompt is the same tokens,
and the same text so far allows the same next tokens, so log-probabilities mean the same everywhere. No torch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bot.errors import ModelError
from bot.policy.grounding import GroundingMask, Mask

log = logging.getLogger(__name__)

MAX_PROMPT_TOKENS = 1024
KNOWN_ARG, WRITTEN_ARG = "rejoinder_known", "rejoinder_written"
"""How a request asks another process for the mask: the amounts that its sources hold, and how many tokens at the end of
its prompt are written text already."""


class Vocabulary:
    """The tokenizer of a model folder (or of a Hugging Face name) and what follows from it."""

    def __init__(self, folder: Path | str) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        if not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(f"{folder}: expected a tokenizer with a chat template, got none")
        config = AutoConfig.from_pretrained(folder)
        self.stop_ids = _stop_ids(self.tokenizer, _configured_ends(folder, config))
        texts = _token_texts(self.tokenizer, int(config.vocab_size))
        self.end_id = _end_id(self.tokenizer, self.stop_ids)
        """What ends a reply in the tokenizer's chat."""
        self._mask = GroundingMask(texts, self.tokenizer.all_special_ids, sorted(self.stop_ids))
        self._markers = sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True)
        self.header_ids = self._header_ids()
        """The tokens that open the assistant's turn."""

    def _header_ids(self) -> tuple[int, ...]:
        user = [{"role": "user", "content": "a"}]
        asked = self.tokenizer.apply_chat_template(user, tokenize=False)
        opened = self.tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
        return tuple(self.tokenizer(opened[len(asked) :], add_special_tokens=False)["input_ids"])

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """Tokens of a rendered prompt (`bot.render`). When it is too long its oldest turns are left out, then the beginning
        of the system text; what was asked last and the opened turn of the assistant stay. Each is noted in the log."""
        messages = [{"role": role, "content": self._literal(text)} for role, text in json.loads(prompt)]
        while True:
            rendered = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            ids = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
            if len(ids) <= MAX_PROMPT_TOKENS:
                return tuple(ids)
            if len(messages) <= 2:
                log.info("a prompt of %d tokens: its beginning is left out (at most %d)", len(ids), MAX_PROMPT_TOKENS)
                return tuple(ids[-MAX_PROMPT_TOKENS:])
            log.info("a prompt of %d tokens: its oldest turn is left out (at most %d)", len(ids), MAX_PROMPT_TOKENS)
            del messages[1]

    def reply_ids(self, prompt: str) -> tuple[int, ...]:
        """`prompt_ids` of a reply that is to be written. Raises ModelError for a question that does not fit by itself: its
        end alone is another question."""
        ids = self.prompt_ids(prompt)
        if len(ids) == MAX_PROMPT_TOKENS:
            _, asked = json.loads(prompt)[-1]
            num_asked = len(self.tokenizer(self._literal(asked), add_special_tokens=False)["input_ids"])
            most = MAX_PROMPT_TOKENS - len(self.header_ids)
            if num_asked > most:
                raise ModelError(f"question: expected at most {most} tokens, got {num_asked}")
        return ids

    def _literal(self, text: str) -> str:
        """Text in which the chat markers are only text: a user must not be able to speak as the system."""
        text = text.replace("<|", "< |").replace("|>", "| >")
        for marker in self._markers:
            text = text.replace(marker, f"{marker[0]} {marker[1:]}")
        return text

    def allowed(self, text_so_far: str, known_amounts: frozenset[str]) -> Mask:
        """Which tokens may follow (`GroundingMask.allowed`), one boolean per token of the vocabulary."""
        return self._mask.allowed(text_so_far, known_amounts)

    def text_of(self, token_ids: Sequence[int], before: str) -> str:
        """What written tokens say; `before` (the text without the last one) while a character is still incomplete."""
        whole = str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))
        return before if whole.endswith("\ufffd") else whole

    def spelled(self, text: str) -> tuple[int, ...]:
        """A whole reply's tokens, as if the model had written it and stopped."""
        return (*self.tokenizer(self._literal(text), add_special_tokens=False)["input_ids"], self.end_id)


class AllowedNext:
    """Which tokens may come next in one text while it grows."""

    def __init__(self, vocabulary: Vocabulary, known_amounts: frozenset[str]) -> None:
        self._vocabulary = vocabulary
        self._known = known_amounts
        self._num_read = 0
        self.text = ""
        """What the tokens say so far."""

    def after(self, token_ids: Sequence[int]) -> Mask:
        """One boolean per token of the vocabulary; `token_ids` are all that were written so far."""
        for step in range(self._num_read, len(token_ids)):
            self.text = self._vocabulary.text_of(token_ids[: step + 1], self.text)
        self._num_read = len(token_ids)
        return self._vocabulary.allowed(self.text, self._known)


def can_be_written(vocabulary: Vocabulary, token_ids: Sequence[int], known_amounts: frozenset[str]) -> bool:
    """Whether each token is one of those allowed after the ones before it: else a text has no log-probability."""
    allowed = AllowedNext(vocabulary, known_amounts)
    return all(allowed.after(token_ids[:step])[token] for step, token in enumerate(token_ids))


def _token_texts(tokenizer: Any, size: int) -> list[str]:
    """What each token adds to a text. Decoded behind a letter: some tokenizers drop a first token's space."""
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    skipped = len(tokenizer.decode(before))
    return [text[skipped:] for text in tokenizer.batch_decode([[*before, i] for i in range(size)])]


def _configured_ends(folder: Path | str, config: Any) -> Any:
    """The end tokens that generation is configured with: one id, several or None."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:  # Not every model has a generation config.
        return getattr(config, "eos_token_id", None)


def _end_id(tokenizer: Any, stop_ids: frozenset[int]) -> int:
    """ChatML's end of a turn where it is one of the ends, else the tokenizer's end of text."""
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return int(end if end in stop_ids else tokenizer.eos_token_id)


def _stop_ids(tokenizer: Any, configured: Any) -> frozenset[int]:
    ids = set(configured if isinstance(configured, list) else [configured])
    ids.add(tokenizer.eos_token_id)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    known = end is not None and end != tokenizer.unk_token_id
    return frozenset(int(i) for i in ids | ({end} if known else set()) if i is not None)
