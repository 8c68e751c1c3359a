"""Cases as evidence: hand-computed, the same from disk, versioned with the weights, and never a row's own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from bot.conversation import LegalAct
from bot.policy.adapted import BASE, lora_config
from bot.policy.cases import Cases, load_cases, make_cases, save_cases
from bot.policy.model import ActRow
from tests.tiny_models import TEMPERATURE, tiny_policy

NEAR = math.exp((0.8 - 1) / 0.1)
"""Kernel weight at a cosine of 0.8."""


def cases(**overrides: object) -> Cases:
    """Two questions at right angles: x was liked on the first, y disliked on the first and liked on the second."""
    fields: dict[str, object] = {
        "weight": 0.3,
        "states_N_D": torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
        "acts": ["x", "y", "y"],
        "rewards": [1.0, -1.0, 1.0],
        "decisions": ["d1", "d2", "d3"],
    } | overrides
    return make_cases(**fields)  # type: ignore[arg-type]


def test_evidence_is_the_kernel_weighted_reward_above_the_mean() -> None:
    """Mean 1 / (3 + 10); at cosine 0.8 from the first and 0.6 from the second; an act without cases draws none."""
    mean, far = 1 / 13, math.exp((0.6 - 1) / 0.1)
    found = cases().evidence(torch.tensor([[0.8, 0.6]]), [["y", "x", "z"]], leave_out_own=False)[0].tolist()
    y = (NEAR * (-1 - mean) + far * (1 - mean)) / (1 + NEAR + far)
    assert found == pytest.approx([y, NEAR * (1 - mean) / (1 + NEAR), 0.0], abs=1e-6)


def test_a_row_that_taught_is_not_its_own_evidence() -> None:
    """Asked exactly as in a case, only what others said counts; without leaving out, its own thumb does (the control)."""
    asked = torch.tensor([[0.0, 1.0]])
    own = cases().evidence(asked, [["y"]], leave_out_own=False).item()
    others = cases().evidence(asked, [["y"]], leave_out_own=True).item()
    assert own > 0.4
    assert abs(others) < 1e-3


def test_rewards_are_clipped_and_cases_come_back_from_disk_equal(tmp_path: Path) -> None:
    """Weight, acts and the decisions they come from included: who is to be forgotten can be found."""
    made = cases(rewards=[7.0, -9.0, 0.5])
    assert made.rewards_N.tolist() == [1.0, -1.0, 0.5]
    save_cases(tmp_path / "cases.safetensors", made)
    back = load_cases(tmp_path / "cases.safetensors")
    assert (back.weight, back.acts, back.decisions) == (0.3, ("x", "y"), ("d1", "d2", "d3"))
    assert torch.equal(back.states_N_D, made.states_N_D)
    assert torch.equal(back.act_N, made.act_N)


@torch.no_grad()
def test_a_version_s_cases_speak_for_that_version_alone(tmp_path: Path) -> None:
    """In one batch: the adapter with cases prefers what was liked on the same question, its neighbours do not."""
    model = tiny_policy(tmp_path)
    legal = (LegalAct("answer:x", ("lost card",)), LegalAct("answer:y", ("new card",)), LegalAct("handoff", (), -0.5))
    row = ActRow(model.encoder.tokenize("where is my card?"), legal, TEMPERATURE)
    for name in ("with", "without"):
        model.encoder.model.create(name, lora_config(4, 8))
    plain = model.score([row], ["with"]).logprobs_B_A[0]
    state_1_D = model.encoder.pool([row.query_ids])
    model.cases["with"] = make_cases(0.3, state_1_D, ["answer:y"], [1.0], ["d1"])
    scored = model.score([row] * 3, ["with", "without", BASE]).logprobs_B_A
    assert float(scored[0, 1] - scored[0, 0]) == pytest.approx(
        float(plain[1] - plain[0]) + 0.3 / TEMPERATURE * (10 / 11) / 2, abs=5e-3
    )
    assert torch.allclose(scored[1], plain, atol=1e-5)
    assert torch.allclose(scored[2], plain, atol=1e-5)
