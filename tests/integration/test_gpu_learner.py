"""The learner on a CUDA device: the CPU's update within what rounding changes, no wait in its inner loops, and a
checkpoint that goes both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bot.conversation import BASE_VERSION, Decision
from bot.policy.adapted import BASE
from bot.policy.causal import CausalPart
from online_learning.advantages import Credit
from online_learning.algorithms import ppo
from online_learning.checkpoint import LearnerState, load_checkpoint, save_checkpoint
from online_learning.config import LearnerConfig, recipe
from online_learning.hearing import as_heard
from online_learning.text_passes import generated_of, stored_or_scored
from online_learning.update import CURRENT, Learner
from tests.gpu_rig import CPU, CUDA, counted_waits, policy_on
from tests.learner_rig import QUICK, Home

pytestmark = pytest.mark.gpu

TAUGHT = [("my card please", "card_arrival", 1), ("my card please", "lost_card", -1), ("a new pin", "change_pin", 1)]
RECIPES: dict[str, LearnerConfig] = {
    "ppo": QUICK,
    "likelihood": replace(recipe("likelihood"), max_kl_prox=10.0),
    "all layers": replace(QUICK, layers="all"),
}
MOVED, ALIKE = 0.05, 0.01
"""Nats: an update moves the acts that were taught by more than the first, and two devices differ by less than the second."""
TEXT = replace(QUICK, epochs=0, text_learning_rate=5e-3)


def learner_on(device: torch.device, models: Path, config: LearnerConfig, *, writes: bool = False) -> Learner:
    """The same weights on each device."""
    torch.manual_seed(0)
    writer = CausalPart(models / "causal", device=device) if writes else None
    return Learner(policy_on(device, models / "encoder"), config, writer)


def taught(home: Home) -> list[Credit]:
    rows = [(home.say(question, article), thumb) for question, article, thumb in TAUGHT * 8]
    return [Credit(decision, float(thumb), float(thumb)) for decision, thumb in rows]


def written(home: Home) -> list[Credit]:
    """Four generated replies, the first two liked."""
    replies = [home.write("where is my card", "card_arrival", seed) for seed in range(4)]
    return [Credit(reply, thumb, 0.0) for reply, thumb in zip(replies, (1.0, 1.0, -1.0, -1.0), strict=True)]


def update(learner: Learner, earned: Sequence[Credit]) -> dict[str, float]:
    return learner.update(earned, np.random.default_rng(0), lambda *_: None, BASE_VERSION)


def chosen(learner: Learner, earned: Sequence[Credit], adapter: str = CURRENT) -> torch.Tensor:
    """Log-probability [N] of each row's act."""
    decisions = [credit.decision for credit in earned]
    scores = learner.score(decisions, adapter)
    return torch.stack([logprobs_A[d.chosen].cpu() for d, logprobs_A in zip(decisions, scores, strict=True)])


def words(learner: Learner, earned: Sequence[Credit], adapter: str = CURRENT) -> torch.Tensor:
    """Mean log-probability [N] of each row's words."""
    assert learner.writer is not None
    with torch.no_grad():
        found = [learner.writer.token_logprobs([generated_of(row.decision)], [adapter])[0].mean() for row in earned]
    return torch.stack(found).cpu()


def prox_of(learner: Learner, earned: Sequence[Credit]) -> list[torch.Tensor]:
    """Of words, before the first step."""
    assert learner.writer is not None
    return stored_or_scored(learner.writer, [row.decision for row in earned], "", CURRENT, learner.config)


@pytest.mark.parametrize("name", RECIPES)
def test_an_update_of_acts_is_that_of_a_cpu(home: Home, models: Path, name: str) -> None:
    """Liked acts become likelier, disliked ones less so, by the same amount on both devices."""
    earned, thumbs = taught(home), torch.tensor([float(thumb) for _, _, thumb in TAUGHT * 8])
    learners = {device: learner_on(device, models, RECIPES[name]) for device in (CPU, CUDA)}
    moved = {}
    for device, learner in learners.items():
        before = chosen(learner, earned)
        update(learner, earned)
        moved[device] = chosen(learner, earned) - before
    assert (thumbs * moved[CUDA]).mean() > MOVED
    assert (moved[CUDA] - moved[CPU]).abs().max() < ALIKE


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_update_of_words_is_that_of_a_cpu(home: Home, models: Path, dtype: Any, checkpointing: bool) -> None:
    """Liked words become likelier, disliked ones less so: by the same amount, in bf16 in the same direction."""
    earned, config = written(home), replace(TEXT, text_dtype=dtype, text_checkpointing=checkpointing)
    moved = {}
    for device in (CPU, CUDA):
        learner = learner_on(device, models, config if device == CUDA else TEXT, writes=True)
        metrics = update(learner, earned)
        assert metrics["text_policy_loss"] < 0
        moved[device] = words(learner, earned) - words(learner, earned, BASE)
    assert moved[CUDA][:2].min() > MOVED
    assert moved[CUDA][2:].max() < -MOVED
    assert torch.cosine_similarity(moved[CUDA], moved[CPU], dim=0) > 0.95
    assert dtype == "bf16" or (moved[CUDA] - moved[CPU]).abs().max() < ALIKE


@pytest.mark.parametrize(("before", "after"), [(CUDA, CPU), (CPU, CUDA)], ids=["from-cuda", "to-cuda"])
def test_a_checkpoint_goes_to_another_device(
    home: Home, models: Path, tmp_path: Path, before: torch.device, after: torch.device
) -> None:
    """With weights and momentum of both parts: the next update is the one that would have followed."""
    earned, config = [*taught(home), *written(home)], replace(QUICK, text_learning_rate=5e-3)
    first, second = (learner_on(device, models, config, writes=True) for device in (before, after))
    update(first, earned)
    save_checkpoint(tmp_path, "checkpoint-000001", first, LearnerState("v000001", ()), keep=3)
    for name, part in first.adapted.items():
        second.adapted[name].set_weights(CURRENT, {key: tensor.cpu() for key, tensor in part.weights(CURRENT).items()})
    assert load_checkpoint(tmp_path, "checkpoint-000001", second, "v000001") is not None
    assert second.value.linear.weight.device.type == after.type
    for learner in (first, second):
        update(learner, earned)
    assert (chosen(first, earned) - chosen(second, earned)).abs().max() < ALIKE
    assert (words(first, earned[-4:]) - words(second, earned[-4:])).abs().max() < ALIKE


def test_passes_over_acts_wait_for_nothing(home: Home, models: Path) -> None:
    """By two algorithms. The control: reading a metric is one wait."""
    for name in ("ppo", "likelihood"):
        learner, earned = learner_on(CUDA, models, RECIPES[name]), taught(home)
        update(learner, earned)
        rows, loss, _ = as_heard(learner.rows(earned), learner.config.loss)
        with counted_waits() as waits:
            for batch in ([0, 3, 5], [1, 2, 4]):
                metrics = learner._step_acts(partial(learner._act_inputs, rows.take(batch)), loss, len(rows))
        assert waits == []
        with counted_waits() as waits:
            float(metrics["loss"])
        assert len(waits) == 1


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_passes_over_words_wait_for_nothing(home: Home, models: Path, dtype: Any) -> None:
    """Whose prompts were read before, as in every epoch but the first."""
    earned = written(home)
    learner = learner_on(CUDA, models, replace(TEXT, text_dtype=dtype), writes=True)
    update(learner, earned)
    texts = [generated_of(row.decision) for row in earned]
    rows, prox = learner.rows(earned), prox_of(learner, earned)
    with torch.no_grad():
        acts = learner._act_inputs(rows)
    with counted_waits() as waits:
        for _ in range(2):
            inputs = learner._with_text(acts, texts, prox)
            learner._descend("text", ppo(inputs, learner.config.text_loss))
    assert waits == []


def test_what_a_cuda_learner_taught_rescores_on_a_cpu(home: Home, models: Path) -> None:
    """Invariant 1 across devices: acts of a published kind of weights, 1e-4 nats."""
    earned = taught(home)
    learner = learner_on(CUDA, models, QUICK)
    update(learner, earned)
    other = learner_on(CPU, models, QUICK)
    weights = learner.adapted["encoder"].weights(CURRENT)
    other.adapted["encoder"].set_weights(CURRENT, {key: tensor.cpu() for key, tensor in weights.items()})
    decisions: list[Decision] = [credit.decision for credit in earned]
    for ours, theirs in zip(learner.score(decisions, CURRENT), other.score(decisions, CURRENT), strict=True):
        assert (ours.cpu() - theirs).abs().max() < learner.config.rescore_tolerance
