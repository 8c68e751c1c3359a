"""Passes over words in bf16 and with checkpointing: the gradients of plain fp32, within what the precision allows."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bot.conversation import Generated
from bot.policy.adapted import lora_config
from bot.policy.causal import CausalPart
from bot.settings import LearnSettings, Settings
from online_learning.advantages import Credit
from online_learning.config import LearnerConfig
from online_learning.process import config_of, has_bf16
from online_learning.text_passes import give_back, passes, text_logprobs
from online_learning.update import CURRENT
from tests.learner_rig import QUICK, Home


@pytest.fixture
def texts(home: Home) -> list[Generated]:
    """Four replies of different lengths."""
    replies = [home.write("where is my card", "card_arrival", seed).generated for seed in range(4)]
    found = [reply for reply in replies if reply is not None]
    return [replace(x, token_ids=x.token_ids[: 5 + i], logprobs=x.logprobs[: 5 + i]) for i, x in enumerate(found)]


def adapted(home: Home) -> CausalPart:
    """The same adapter each time, away from its beginning, where half of all gradients are 0."""
    writer = CausalPart(Path(home.settings.causal_model))
    writer.model.create(CURRENT, lora_config(8, 16, invocation=writer.header_ids), trainable=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in writer.model.trainable(CURRENT):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return writer


def passed(home: Home, texts: list[Generated], **fields: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [B, T] and the gradient of their sum over the adapter, as one vector."""
    writer = adapted(home)
    logprobs_B_T, mask_B_T = text_logprobs(writer, texts, CURRENT, replace(QUICK, **fields))
    assert logprobs_B_T.dtype == torch.float32
    assert mask_B_T.sum(1).tolist() == [len(text.token_ids) for text in texts]
    gradients = torch.autograd.grad((logprobs_B_T * mask_B_T).sum(), writer.model.trainable(CURRENT))
    return logprobs_B_T.detach() * mask_B_T, torch.cat([gradient.flatten() for gradient in gradients])


def test_checkpointing_changes_no_gradient(home: Home, texts: list[Generated]) -> None:
    """To 1e-4 of its length, which is what other batch sizes cost in fp32."""
    plain, ours = passed(home, texts), passed(home, texts, text_checkpointing=True)
    torch.testing.assert_close(ours[0], plain[0], rtol=0, atol=5e-5)
    assert plain[1].norm() > 0
    assert (ours[1] - plain[1]).norm() < 1e-4 * plain[1].norm()


def kept_bytes(home: Home, texts: list[Generated], **fields: Any) -> int:
    """What a pass keeps for its gradient."""
    writer, kept = adapted(home), dict[int, int]()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        text_logprobs(writer, texts, CURRENT, replace(QUICK, **fields))
    return sum(kept.values())


def test_an_update_in_several_passes_is_that_of_one(home: Home) -> None:
    """Weights and metrics to 1e-6, with words that earned and words that cost; the control moved them by far more."""
    earned = [
        Credit(home.write("where is my card", "card_arrival", seed), 1.0 if seed % 2 else -1.0, 0.0)
        for seed in range(4)
    ]
    config = replace(QUICK, epochs=0, text_learning_rate=2e-4)
    learner = home.resumed(config=config).learner
    if learner.writer is None:
        learner.attach_writer(CausalPart(Path(home.settings.causal_model)))
    assert learner.writer is not None
    before = learner.snapshot()
    found = []
    for most in (10**6, 1):
        learner.restore(before)
        learner.config = replace(config, text_pass_tokens=most)
        start = torch.cat([p.detach().flatten() for p in learner.writer.model.trainable(CURRENT)])
        metrics = learner.update(earned, np.random.default_rng(0), lambda *_: None)
        moved = torch.cat([p.detach().flatten() for p in learner.writer.model.trainable(CURRENT)]) - start
        found.append((moved, metrics))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=1e-6)
    assert found[1][1] == pytest.approx(found[0][1], abs=1e-6)
    assert found[0][0].abs().max() > 1e-4


def test_no_more_is_kept_than_of_one_pass(home: Home, texts: list[Generated]) -> None:
    """Four replies one by one: what the last needs, and little of the others. The control keeps all of them."""
    assert kept_bytes(home, texts, text_pass_tokens=1) < 0.6 * kept_bytes(home, texts, text_pass_tokens=10**6)


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is freed is kept by glibc")
def test_what_was_freed_goes_back_to_the_system() -> None:
    """200 MB in small blocks behind one that stays: freed, they stay resident (the control) until they are given back."""
    blocks = [b"x" * (100_000 + i) for i in range(2000)]
    used = resident_mib()
    del blocks[:-1]
    kept = resident_mib()
    give_back()
    assert kept > used - 50
    assert resident_mib() < used - 150


def test_rows_go_together_while_they_fit_as_wide_as_the_widest() -> None:
    """One that is too long by itself goes alone."""
    assert passes([100, 100, 100, 200, 50, 900, 10], 300) == [[0, 1, 2], [3], [4], [5], [6]]
    assert passes([60, 80, 60], 240) == [[0, 1, 2]]
    assert passes([], 240) == []


@pytest.mark.parametrize("checkpointing", [False, True])
def test_bf16_keeps_the_gradients_direction(home: Home, texts: list[Generated], checkpointing: bool) -> None:
    """Cosine above .95: bf16 has 8 bits, and random weights make large logits. It differs, so it was in force (the control)."""
    plain = passed(home, texts)
    ours = passed(home, texts, text_dtype="bf16", text_checkpointing=checkpointing)
    torch.testing.assert_close(ours[0], plain[0], rtol=0.1, atol=0.05)
    assert torch.cosine_similarity(ours[1], plain[1], dim=0) > 0.95
    assert not torch.allclose(ours[1], plain[1], rtol=1e-4)


def test_what_bf16_passes_read_of_prompts_is_fp32(home: Home, texts: list[Generated]) -> None:
    """It is kept for rows that are only scored, which must re-score to the last digit."""
    writer = adapted(home)
    writer.remember(4096)
    text_logprobs(writer, texts, CURRENT, replace(QUICK, text_dtype="bf16"))
    with torch.no_grad():
        after = writer.token_logprobs(texts, [CURRENT] * len(texts))[0]
        writer.forget()
        fresh = writer.token_logprobs(texts, [CURRENT] * len(texts))[0]
    torch.testing.assert_close(after, fresh, rtol=0, atol=1e-5)


def test_an_update_in_bf16_with_checkpointing_still_teaches(home: Home) -> None:
    """It is published, and every row, its words too, re-scores in fp32."""
    replies = [home.write("where is my card", "card_arrival", seed) for seed in range(4)]
    for reply, thumb in zip(replies, (1, 1, -1, -1), strict=True):
        home.vote(reply, thumb)
    config = replace(QUICK, text_learning_rate=5e-3, text_dtype="bf16", text_checkpointing=True)
    home.resumed(config=config).step()
    update = home.store.updates()[-1]
    assert update.outcome == "published"
    assert update.metrics["refused"]["rescore"] == 0
    assert update.metrics["text_policy_loss"] != 0


def test_settings_name_precision_and_checkpointing(tmp_path: Path) -> None:
    """`auto` is bf16 exactly where it is not emulated; fp32 and everything kept by default."""

    def config(**learn: Any) -> LearnerConfig:
        return config_of(Settings(home=tmp_path, learn=LearnSettings(**learn)))

    assert (config().text_dtype, config().text_checkpointing) == ("fp32", False)
    assert config(gradient_checkpointing=True).text_checkpointing
    assert config(dtype="bf16").text_dtype == "bf16"
    assert config(dtype="auto").text_dtype == ("bf16" if has_bf16() else "fp32")
