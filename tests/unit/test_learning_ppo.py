"""PPO's loss: hand-computed pieces, symmetries, gradients, and the bounds that keep one row from ruling a batch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from online_learning.algorithms import ALGORITHMS, LossInputs, ppo
from online_learning.algorithms.ppo import clipped_surrogate, importance_weight
from online_learning.algorithms.types import entropy_over_acts, kl_over_acts
from online_learning.config import PPOConfig
from tests.loss_inputs import log_of, of
from tests.loss_inputs import loss_inputs as inputs

BARE = PPOConfig(clip_high=0.28, kl_champion_coef=0.0, kl_start_coef=0.0, value_coef=0.0)
"""Only the policy term."""


def inputs_in_float32() -> LossInputs:
    """The default batch in float32."""
    names = LossInputs.__dataclass_fields__
    batch = inputs()
    cast = {n: v.float() for n in names if (v := getattr(batch, n)) is not None and v.dtype == torch.float64}
    return replace(batch, **cast)


def text_inputs(**overrides: Any) -> LossInputs:
    """Row 0 wrote two tokens, row 1 none."""
    tokens = log_of([0.5, 0.25], [1.0, 1.0])
    fields: dict[str, Any] = {
        "token_logprobs_B_T": tokens.clone().requires_grad_(),
        "token_mask_B_T": torch.tensor([[True, True], [False, False]]),
        "token_mu_B_T": tokens,
        "token_prox_B_T": tokens,
        "token_champion_B_T": tokens,
    }
    return inputs(**(fields | overrides))


def test_loss_of_a_moved_policy_equals_the_hand_calculation() -> None:
    """Clip, dual clip and truncated importance weight on two rows worked out by hand."""
    batch = inputs(
        act_logprobs_B_A=log_of([0.9, 0.1], [0.1, 0.9]),
        mu_logprob_B=of(0.1, 0.4).log(),
        advantages_B=of(2.0, -1.0),
    )
    # row 0: r = .9/.5 = 1.8, A = 2: min(3.6, 1.28 * 2) = 2.56, weight min(.5/.1, 2) = 2 -> 5.12
    # row 1: r = .1/.2 = .5, A = -1: min(-.5, -.8) = -.8, weight .2/.4 = .5 -> -.4; mean -(5.12 - .4)/2 = -2.36
    out = ppo(batch, BARE)
    assert out.loss.item() == pytest.approx(-2.36)
    assert out.metrics["clip_fraction"].item() == 1.0
    assert out.metrics["ratio_mean"].item() == pytest.approx(1.15)
    # ESS of weights 2 and .5 over 2 rows: 2.5^2 / 4.25 / 2
    assert out.metrics["ess"].item() == pytest.approx(6.25 / 4.25 / 2)


def test_regularisers_and_value_loss_equal_the_hand_calculation() -> None:
    """KL, entropy and MSE enter with their coefficients and signs."""
    config = PPOConfig(kl_champion_coef=2.0, kl_start_coef=3.0, entropy_coef=0.5, value_coef=4.0)
    batch = inputs(
        champion_logprobs_B_A=log_of([0.25, 0.75], [0.2, 0.8]), advantages_B=of(0.0, 0.0), values_B=of(0.5, 0.0)
    )
    kl = (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)) / 2
    entropy = (math.log(2) - 0.2 * math.log(0.2) - 0.8 * math.log(0.8)) / 2
    value = 0.5 * (0.25 + 1.0) / 2
    out = ppo(batch, config)
    assert out.loss.item() == pytest.approx(2 * kl - 0.5 * entropy + 4 * value)
    assert out.metrics["kl_champion"].item() == pytest.approx(kl)
    assert out.metrics["kl_start"].item() == pytest.approx(0.0)


def test_first_step_has_ratio_one_and_clips_nothing() -> None:
    """Before the policy moves, the loss is the plain policy gradient."""
    metrics = ppo(text_inputs(), PPOConfig()).metrics
    for name, expected in {"ratio_mean": 1, "clip_fraction": 0, "approx_kl": 0, "kl_prox": 0, "kl_champion": 0}.items():
        assert metrics[name].item() == pytest.approx(expected, abs=1e-12)
    assert metrics["text_ratio_mean"].item() == 1.0
    assert metrics["text_clip_fraction"].item() == 0.0


def test_zero_advantage_gives_zero_policy_gradient() -> None:
    """A reply exactly as good as expected moves nothing, in acts or in text."""
    batch = text_inputs(advantages_B=of(0.0, 0.0), prox_logprobs_B_A=log_of([0.4, 0.6], [0.5, 0.5]))
    assert batch.token_logprobs_B_T is not None
    for grad in torch.autograd.grad(ppo(batch, BARE).loss, [batch.act_logprobs_B_A, batch.token_logprobs_B_T]):
        assert torch.count_nonzero(grad) == 0


@pytest.mark.parametrize(("act_logits", "pulls"), [((2.0, 0.0), False), ((0.0, 2.0), True)])
def test_a_good_act_stops_pulling_once_it_has_grown_enough(act_logits: tuple[float, float], *, pulls: bool) -> None:
    """A > 0: no gradient above 1 + clip_high, full gradient below."""
    logits = torch.tensor([act_logits, (0.0, 0.0)], dtype=torch.float64, requires_grad=True)
    batch = inputs(act_logprobs_B_A=logits.log_softmax(1), prox_logprobs_B_A=log_of([0.5, 0.5], [0.5, 0.5]))
    (grad,) = torch.autograd.grad(ppo(replace(batch, weights_B=of(1.0, 0.0)), BARE).loss, [logits])
    assert bool(grad[0].any()) == pulls


def random_inputs(seed: int) -> tuple[Tensor, Tensor, Tensor, LossInputs]:
    """Parameters (act logits, values, token logprobs) and a batch of 6 rows, 4 acts (one padded), 3 tokens."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    logits, values, tokens = draw(6, 4), draw(6), -draw(6, 3).abs()
    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[:3, 3] = False

    def policy(scores: Tensor) -> Tensor:
        return scores.masked_fill(~mask, -torch.inf).log_softmax(1)

    batch = LossInputs(
        act_logprobs_B_A=policy(logits), legal_mask_B_A=mask, chosen_B=torch.tensor([0, 1, 2, 3, 0, 1]),
        mu_logprob_B=policy(draw(6, 4))[torch.arange(6), torch.tensor([0, 1, 2, 3, 0, 1])],
        prox_logprobs_B_A=policy(logits + 0.3 * draw(6, 4)), champion_logprobs_B_A=policy(draw(6, 4)),
        start_logprobs_B_A=policy(draw(6, 4)), advantages_B=draw(6), returns_B=draw(6), values_B=values,
        weights_B=draw(6).abs(), prox_values_B=draw(6), token_logprobs_B_T=tokens,
        token_mask_B_T=torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0]] * 2, dtype=torch.bool),
        token_mu_B_T=tokens + 0.1 * draw(6, 3), token_prox_B_T=tokens + 0.1 * draw(6, 3),
        token_champion_B_T=tokens + draw(6, 3),
    )  # fmt: skip
    return logits, values, tokens, batch


@pytest.mark.parametrize("seed", range(3))
def test_gradient_equals_finite_differences(seed: int) -> None:
    """Autograd through the whole loss, padding at -inf included, agrees with differences of the loss itself."""
    config = PPOConfig(entropy_coef=0.1, value_clip=0.2)
    logits, values, tokens, batch = random_inputs(seed)

    def loss(logits: Tensor, values: Tensor, tokens: Tensor) -> Tensor:
        logprobs = logits.masked_fill(~batch.legal_mask_B_A, -torch.inf).log_softmax(1)
        return ppo(replace(batch, act_logprobs_B_A=logprobs, values_B=values, token_logprobs_B_T=tokens), config).loss

    leaves = [tensor.clone().requires_grad_() for tensor in (logits, values, tokens)]
    assert torch.autograd.gradcheck(loss, leaves, eps=1e-7, atol=1e-5)


def test_dual_clip_bounds_the_loss_of_a_thumb_down() -> None:
    """An act that has become 1,000 times likelier and is disliked costs at most dual_clip |A|."""
    ratio, advantage = of(1000.0), of(-1.0)
    assert clipped_surrogate(ratio, advantage, 0.2, 0.28, 3.0).item() == -3.0


def test_without_dual_clip_the_loss_of_a_thumb_down_is_unbounded() -> None:
    """The control: plain PPO takes the full ratio."""
    ratio, advantage = of(1000.0), of(-1.0)
    assert clipped_surrogate(ratio, advantage, 0.2, 0.28, math.inf).item() == -1000.0


def test_turning_dual_clip_off_keeps_a_zero_advantage_finite() -> None:
    """inf times zero would be NaN."""
    out = ppo(inputs(advantages_B=of(0.0, 0.0)), replace(BARE, dual_clip=math.inf))
    assert out.loss.item() == 0.0


def test_extreme_log_ratios_stay_finite() -> None:
    """A policy that has lost an act altogether gives finite loss and gradient in float32."""
    logits = torch.tensor([[-500.0, 0.0], [500.0, 0.0]], requires_grad=True)
    batch = replace(inputs_in_float32(), act_logprobs_B_A=logits.log_softmax(1))
    out = ppo(batch, PPOConfig(entropy_coef=0.1))
    (grad,) = torch.autograd.grad(out.loss, [logits])
    assert torch.isfinite(out.loss)
    assert torch.isfinite(grad).all()


def test_importance_weight_is_truncated_and_carries_no_gradient() -> None:
    """A replayed choice that today's policy makes five times as often counts twice, not five times."""
    prox = of(0.5, 0.2).log().requires_grad_()
    weight = importance_weight(prox, of(0.1, 0.4).log(), of(1.0, -1.0), PPOConfig())
    assert weight.tolist() == pytest.approx([2.0, 0.5])
    assert not weight.requires_grad


def test_importance_floor_lifts_only_good_rows() -> None:
    """Tapered weights: a lost good act is imitated in full, a lost bad one is left alone."""
    config = PPOConfig(positive_importance_floor=1.0)
    weight = importance_weight(of(0.1, 0.1).log(), of(0.4, 0.4).log(), of(1.0, -1.0), config)
    assert weight.tolist() == pytest.approx([1.0, 0.25])


def test_a_distrusted_row_does_not_make_the_others_louder() -> None:
    """The denominator counts rows before weights: weight 0 on one of two rows halves the loss of the other."""
    whole = ppo(inputs(advantages_B=of(1.0, 0.0)), BARE).loss
    weighted = ppo(inputs(advantages_B=of(1.0, 5.0), weights_B=of(1.0, 0.0)), BARE).loss
    assert weighted.item() == pytest.approx(whole.item()) == pytest.approx(-0.5)


def test_token_loss_and_kl_equal_the_hand_calculation() -> None:
    """Token mean over the two written tokens; row 1, without text, is not counted."""
    now = log_of([0.75, 0.25], [0.1, 0.1])
    batch = text_inputs(token_logprobs_B_T=now, weights_B=of(1.0, 1.0))
    # token 0: r = 1.5 -> 1.28; token 1: r = 1 -> 1; A = 1: -(1.28 + 1) / 2 = -1.14. k2: .5 ln(1.5)^2 / 2
    out = ppo(batch, replace(BARE, kl_champion_coef=0.4))
    assert out.metrics["text_policy_loss"].item() == pytest.approx(-1.14)
    acts = ppo(inputs(), BARE).loss.item()
    assert out.loss.item() == pytest.approx(acts - 1.14 + 0.4 * 0.5 * math.log(1.5) ** 2 / 2)
    # k3 = (1/1.5 - 1 + ln 1.5) / 2
    assert out.metrics["text_kl_champion"].item() == pytest.approx((1 / 1.5 - 1 + math.log(1.5)) / 2)


def test_text_outside_the_band_is_masked_and_still_counted() -> None:
    """Text the policy would no longer write teaches nothing; its tokens stay in the denominator."""
    batch = text_inputs(token_mu_B_T=log_of([0.1, 0.05], [1.0, 1.0]))
    out = ppo(batch, BARE)
    assert out.metrics["text_masked_fraction"].item() == 1.0
    assert out.metrics["text_policy_loss"].item() == 0.0
    control = ppo(batch, replace(BARE, text_band=(0.1, 10.0)))
    assert control.metrics["text_policy_loss"].item() == pytest.approx(-2.0)


def test_text_and_act_ratios_clip_apart() -> None:
    """An act that has not moved is not clipped because its words have."""
    metrics = ppo(text_inputs(token_logprobs_B_T=log_of([1.0, 1.0], [1.0, 1.0])), BARE).metrics
    assert metrics["clip_fraction"].item() == 0.0
    assert metrics["text_clip_fraction"].item() == 1.0


def test_padding_never_reaches_the_loss() -> None:
    """-inf at illegal acts gives the same loss, KL and entropy as the batch without the padding."""

    def padded(logprobs: Tensor) -> Tensor:
        return torch.cat([logprobs, torch.full((2, 1), -torch.inf, dtype=torch.float64)], 1)

    plain = inputs(act_logprobs_B_A=log_of([0.6, 0.4], [0.3, 0.7]))
    wide = replace(
        plain,
        **{n: padded(getattr(plain, n)) for n in LossInputs.__dataclass_fields__ if n.endswith("logprobs_B_A")},
        legal_mask_B_A=torch.tensor([[True, True, False]] * 2),
    )
    config = PPOConfig(entropy_coef=0.3)
    assert ppo(wide, config).loss.item() == pytest.approx(ppo(plain, config).loss.item())


def test_exact_kl_and_entropy_of_known_distributions() -> None:
    """KL(.5,.5 || .25,.75) and the entropy of a fair coin."""
    mask = torch.ones(1, 2, dtype=torch.bool)
    p, q = log_of([0.5, 0.5]), log_of([0.25, 0.75])
    assert kl_over_acts(p, q, mask).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert entropy_over_acts(p, mask).item() == pytest.approx(math.log(2))


def test_value_clip_takes_the_larger_error() -> None:
    """V moved from 0 to 1 towards its target 1; clipped to 0.2 its error is still 0.64."""
    batch = inputs(values_B=of(1.0, -1.0), prox_values_B=of(0.0, 0.0))
    config = replace(BARE, value_coef=1.0)
    assert ppo(batch, config).metrics["value_loss"].item() == 0.0
    assert ppo(batch, replace(config, value_clip=0.2)).metrics["value_loss"].item() == pytest.approx(0.32)


def test_metrics_carry_no_graph() -> None:
    """Logging must not keep a minibatch's activations alive."""
    assert not any(metric.requires_grad for metric in ALGORITHMS["ppo"](text_inputs(), PPOConfig()).metrics.values())


@pytest.mark.parametrize(
    "bad",
    [{"clip_low": 0.0}, {"dual_clip": 1.1}, {"value_coef": -1.0}, {"text_band": (1.1, 2.0)}, {"importance_cap": 0}],
)
def test_config_refuses_impossible_hyperparameters(bad: dict[str, Any]) -> None:
    """The error names the field."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        PPOConfig(**bad)


def test_inputs_refuse_a_wrong_shape_and_half_a_text() -> None:
    """Broadcasting would otherwise hide a transposed batch."""
    with pytest.raises(AssertionError, match="advantages_B"):
        inputs(advantages_B=of(1.0))
    with pytest.raises(AssertionError, match="come together"):
        inputs(token_logprobs_B_T=log_of([0.5], [0.5]))
