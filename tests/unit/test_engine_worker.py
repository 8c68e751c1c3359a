"""The thread that writes replies may die: those it was writing end in one error, and the next reply is written."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from torch import Tensor

from bot.conversation import Generated
from bot.errors import ModelError
from bot.policy.adapted import BASE, lora_config
from bot.policy.decoder import Decoder
from bot.policy.pieces import Piece
from bot.policy.types import TextRequest
from bot.policy.voice import Voice, WriterOptions
from tests.tiny_models import factors_of, load_tiny_causal, random_adapter

WRITE = TextRequest('[["system", "Help."], ["user", "hello"]]', ("In 5 days.",), seed=7, max_tokens=16)
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Mortal:
    """A voice whose writer's thread dies in the pass after `passes_left` more."""

    def __init__(self, folder: Path) -> None:
        self.voice = Voice(load_tiny_causal(folder), WriterOptions(num_slots=2, max_reply_tokens=16))
        self.passes_left = 1_000_000
        assert self.voice._held is not None
        self.decoder: Decoder = self.voice._held.decoder
        self._run, self.decoder.run = self.decoder.run, self.run  # type: ignore[method-assign]

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        self.passes_left -= 1
        if not self.passes_left:
            raise SystemExit
        return self._run(pieces)

    async def write(self, adapter: str = BASE) -> Generated:
        """A whole reply; the thread of the fallback is never needed."""
        async with aclosing(self.voice.write(WRITE, adapter, None)) as pieces:  # type: ignore[arg-type]
            last = [piece async for piece in pieces][-1].generated
        assert last is not None
        return last


async def test_a_thread_that_dies_in_the_middle_of_a_reply_is_replaced(tmp_path: Path) -> None:
    """One error for that reply; asked again it says the same, word for word, as if nothing had been. The control, a writer
    by itself that stays dead, is in test_writer."""
    mortal = Mortal(tmp_path)
    whole = await mortal.write()
    mortal.passes_left = 5
    with pytest.raises(ModelError, match="closed"):
        await mortal.write()
    assert (await mortal.write()).token_ids == whole.token_ids
    assert mortal.voice.counts()["writer_replies"] == 1  # the new one's
    mortal.voice.close()
    with pytest.raises(ModelError, match="closed"):
        await mortal.write()


async def test_versions_outlive_the_thread_and_can_be_freed_after_it(tmp_path: Path) -> None:
    """Its adapter writes on, and leaves memory when it is dropped, also where nothing was written in between."""
    mortal = Mortal(tmp_path)
    model = mortal.voice.causal.model
    for version, seed in (("v000001", 1), ("v000002", 2)):
        model.load(version, lora_config(4, 8), random_adapter(model, seed))
        mortal.decoder.add(version, mortal.decoder.prepare(factors_of(model, version, mortal.decoder)))
    whole = await mortal.write("v000001")
    mortal.passes_left = 3
    with pytest.raises(ModelError):
        await mortal.write("v000001")
    mortal.voice.drop_version("v000002")
    assert "v000002" not in mortal.decoder.versions
    assert (await mortal.write("v000001")).token_ids == whole.token_ids
    mortal.voice.close()
