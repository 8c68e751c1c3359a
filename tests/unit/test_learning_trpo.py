"""TRPO: its algebra against dense matrices, its step inside the trust region, and how the learner calls it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bot.conversation import LegalAct
from bot.policy.adapted import lora_config
from bot.policy.model import ActRow
from online_learning.algorithms import ALGORITHMS, STEPS, LossInputs
from online_learning.algorithms.terms import act_regulariser, mean_over_rows
from online_learning.algorithms.trpo import conjugate_gradient, fisher_product, flat_gradient, trpo, trpo_step
from online_learning.algorithms.types import gather_chosen, kl_over_acts
from online_learning.config import TRPOConfig
from tests.loss_inputs import loss_inputs, of, policy_of, random_loss_inputs
from tests.tiny_models import tiny_policy

CONFIG = TRPOConfig(max_kl=0.01, kl_start_coef=0.0, damping=1e-3, cg_iterations=30)


class Adapted(nn.Module):
    """Six states of four acts under a frozen linear map and a LoRA of rank 2; like a new adapter's, `up` starts at 0."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.states_B_D = torch.randn(6, 5, generator=rng, dtype=torch.float64)
        self.frozen = torch.randn(5, 4, generator=rng, dtype=torch.float64)
        self.down = nn.Parameter(torch.randn(5, 2, generator=rng, dtype=torch.float64))
        self.up = nn.Parameter(torch.zeros(2, 4, dtype=torch.float64))
        self.values = nn.Parameter(torch.zeros(6, dtype=torch.float64))
        _, self.rows = random_loss_inputs(seed)
        start = policy_of(self.states_B_D @ self.frozen, self.rows.legal_mask_B_A)
        same = {f"{name}_logprobs_B_A": start for name in ("prox", "champion", "start")}
        self.rows = replace(self.rows, mu_logprob_B=gather_chosen(start, self.rows.chosen_B), **same)

    def inputs(self) -> LossInputs:
        """The rows at the present weights."""
        logits = self.states_B_D @ (self.frozen + self.down @ self.up)
        logprobs = policy_of(logits, self.rows.legal_mask_B_A)
        return replace(self.rows, act_logprobs_B_A=logprobs, values_B=self.values)

    @property
    def policy(self) -> list[Tensor]:
        """What a step may move."""
        return [self.down, self.up]


def spread(model: Adapted) -> Adapted:
    """The same with an adapter that already says something, so that both matrices have a gradient."""
    with torch.no_grad():
        model.up.copy_(torch.randn(2, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64))
    return model


def surrogate(inputs: LossInputs) -> Tensor:
    """mean(w r A), worked out apart from the code under test (mu is prox, so no weight is truncated)."""
    chosen = (torch.arange(6), inputs.chosen_B)
    ratio = (inputs.act_logprobs_B_A[chosen] - inputs.prox_logprobs_B_A[chosen]).exp()
    return (inputs.weights_B * ratio * inputs.advantages_B).mean()


def slow_kl(before: LossInputs, after: LossInputs) -> float:
    """mean over rows of sum_a p ln(p / q), by plain loops."""
    total = 0.0
    for p_row, q_row, legal in zip(
        before.act_logprobs_B_A.tolist(), after.act_logprobs_B_A.tolist(), before.legal_mask_B_A.tolist(), strict=True
    ):
        total += sum(math.exp(p) * (p - q) for p, q, is_legal in zip(p_row, q_row, legal, strict=True) if is_legal)
    return total / 6


def dense_fisher(model: Adapted) -> Tensor:
    """mean over rows of sum_a pi(a) grad log pi(a) grad log pi(a)', one gradient at a time."""
    logprobs, fisher = model.inputs().act_logprobs_B_A, torch.zeros(18, 18, dtype=torch.float64)
    for row in range(6):
        for act in torch.nonzero(model.rows.legal_mask_B_A[row]).flatten().tolist():
            slope = flat_gradient(logprobs[row, act], model.policy, retain_graph=True)
            fisher += logprobs[row, act].exp().detach() * torch.outer(slope, slope) / 6
    return fisher


def product_at(model: Adapted, damping: float) -> Callable[[Tensor], Tensor]:
    inputs = model.inputs()
    kl = kl_over_acts(inputs.act_logprobs_B_A.detach(), inputs.act_logprobs_B_A, inputs.legal_mask_B_A)
    return fisher_product(mean_over_rows(kl), model.policy, damping)


def test_conjugate_gradient_solves_a_dense_system() -> None:
    """A random positive definite matrix of 12 dimensions, against a direct solver."""
    rng = torch.Generator().manual_seed(0)
    root, target = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((12, 12), (12,)))
    matrix = root @ root.T + torch.eye(12)
    found, residual = conjugate_gradient(lambda v: matrix @ v, target, iterations=40, tolerance=1e-24)
    assert found.tolist() == pytest.approx(torch.linalg.solve(matrix, target).tolist(), abs=1e-8)
    assert residual.item() < 1e-10


def test_conjugate_gradient_is_exact_after_as_many_steps_as_eigenvalues() -> None:
    """Eigenvalues 1 and 4: after one step something is left, after two nothing."""
    diagonal, target = of(1.0, 4.0, 4.0, 1.0), of(1.0, 1.0, -2.0, 3.0)
    left = [conjugate_gradient(lambda v: diagonal * v, target, n, 0.0)[1].item() for n in (1, 2)]
    assert left[0] > 0.1
    assert left[1] < 1e-12


def test_fisher_product_equals_the_matrix_made_gradient_by_gradient() -> None:
    """The Hessian of KL(here || here) is the Fisher matrix; illegal acts take no part."""
    model = spread(Adapted())
    fisher, product = dense_fisher(model), product_at(model, damping=0.5)
    for seed in range(3):
        vector = torch.randn(18, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert product(vector).tolist() == pytest.approx((fisher @ vector + 0.5 * vector).tolist())


def test_the_step_equals_the_dense_natural_step() -> None:
    """x = -(F + damping)^-1 g, scaled to sqrt(2 max_kl / x (F + damping) x)."""
    model, config = spread(Adapted()), replace(CONFIG, damping=0.1, max_kl=1e-4)
    before = torch.cat([p.detach().flatten() for p in model.policy])
    gradient = flat_gradient(-surrogate(model.inputs()), model.policy)
    damped = dense_fisher(model) + 0.1 * torch.eye(18)
    direction = torch.linalg.solve(damped, -gradient)
    expected = before + direction * (2e-4 / (direction @ damped @ direction)).sqrt()
    metrics = trpo_step(model.inputs, model.policy, config)
    assert metrics["step_share"].item() == 1.0
    assert torch.cat([p.detach().flatten() for p in model.policy]).tolist() == pytest.approx(
        expected.tolist(), abs=1e-4
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_kl", [1e-3, 0.05, 1.0])
def test_a_step_stays_in_the_trust_region_and_improves(seed: int, max_kl: float) -> None:
    """From a new adapter, whose Fisher matrix is singular; both measured apart from the code under test."""
    model = Adapted(seed)
    before = model.inputs()
    metrics = trpo_step(model.inputs, model.policy, replace(CONFIG, max_kl=max_kl))
    after = model.inputs()
    assert 0 < slow_kl(before, after) <= max_kl
    assert slow_kl(before, after) == pytest.approx(metrics["trust_kl"].item())
    assert (surrogate(after) - surrogate(before)).item() == pytest.approx(metrics["gain"].item())
    assert metrics["gain"].item() > 0.1 * (metrics["step_share"] * metrics["promised"]).item() > 0


def test_a_small_region_is_used_to_the_full() -> None:
    """Where the quadratic model holds, the first step is kept and ends near the region's edge."""
    model = spread(Adapted())
    metrics = trpo_step(model.inputs, model.policy, replace(CONFIG, max_kl=1e-5, damping=1e-6))
    assert metrics["step_share"].item() == 1.0
    assert 0.9e-5 < metrics["trust_kl"].item() <= 1e-5


def test_steps_in_a_row_reach_the_best_policy() -> None:
    """Where act 0 is good in all states and all else is bad, twenty steps make it nearly certain."""
    model = Adapted()
    chosen = torch.arange(6) % 3
    model.rows = replace(
        model.rows, chosen_B=chosen, advantages_B=torch.where(chosen == 0, 1.0, -1.0).double(), weights_B=torch.ones(6).double(),
        mu_logprob_B=gather_chosen(model.rows.prox_logprobs_B_A, chosen),
    )  # fmt: skip
    first = surrogate(model.inputs()).item()
    gains = [trpo_step(model.inputs, model.policy, replace(CONFIG, max_kl=0.05))["gain"].item() for _ in range(20)]
    assert all(gain >= 0 for gain in gains)
    assert surrogate(model.inputs()).item() > first + 0.5


def test_a_step_that_cannot_be_kept_is_undone_to_the_last_bit() -> None:
    """The world turns round between the gradient and the search: no share of the step gains, nothing moves."""
    model, calls = spread(Adapted()), []
    before = [p.clone() for p in model.policy]

    def inputs_fn() -> LossInputs:
        calls.append(None)
        inputs = model.inputs()
        return inputs if len(calls) == 1 else replace(inputs, advantages_B=-inputs.advantages_B - 100)

    metrics = trpo_step(inputs_fn, model.policy, replace(CONFIG, max_backtracks=3))
    assert metrics["step_share"].item() == metrics["trust_kl"].item() == metrics["gain"].item() == 0.0
    assert len(calls) == 1 + 4
    assert all(torch.equal(p, q) for p, q in zip(before, model.policy, strict=True))


def test_a_step_that_is_not_a_number_is_undone() -> None:
    """NaN is neither a gain nor inside the region."""
    model, calls = spread(Adapted()), []
    before = [p.clone() for p in model.policy]

    def inputs_fn() -> LossInputs:
        calls.append(None)
        return (
            model.inputs()
            if len(calls) == 1
            else replace(model.inputs(), weights_B=torch.full((6,), math.nan).double())
        )

    assert trpo_step(inputs_fn, model.policy, CONFIG)["step_share"].item() == 0.0
    assert all(torch.equal(p, q) for p, q in zip(before, model.policy, strict=True))


def test_without_backtracking_a_long_step_leaves_the_region() -> None:
    """The control: at a radius of 1 nat the quadratic model is wrong, and the full step is refused."""
    shares = []
    for seed in range(4):
        model = spread(Adapted(seed))
        shares.append(
            trpo_step(model.inputs, model.policy, replace(CONFIG, max_kl=1.0, max_backtracks=0))["step_share"].item()
        )
    assert 0.0 in shares


def test_zero_advantage_moves_nothing() -> None:
    """Not even by rounding: the direction is exactly 0."""
    model = spread(Adapted())
    model.rows = replace(model.rows, advantages_B=torch.zeros(6).double())
    before = [p.clone() for p in model.policy]
    assert trpo_step(model.inputs, model.policy, CONFIG)["step_share"].item() == 0.0
    assert all(torch.equal(p, q) for p, q in zip(before, model.policy, strict=True))


class Attending(Adapted):
    """The states pass through fused attention, as in the encoder."""

    def inputs(self) -> LossInputs:
        """As above, in float32: fused attention has no other."""
        states = self.states_B_D.float()[None, None]
        mixed = nn.functional.scaled_dot_product_attention(
            states @ self.down.float() @ self.down.float().T, states, states
        )
        logits = (mixed[0, 0].double() + self.states_B_D) @ (self.frozen + self.down @ self.up)
        return replace(self.rows, act_logprobs_B_A=policy_of(logits, self.rows.legal_mask_B_A), values_B=self.values)


def test_the_step_goes_through_fused_attention() -> None:
    """Transformers use it, and its second derivative does not exist."""
    model = Attending()
    assert trpo_step(model.inputs, model.policy, replace(CONFIG, max_kl=1e-3))["step_share"].item() > 0


def test_fused_attention_alone_has_no_second_derivative() -> None:
    """The control: when this passes one day, the step no longer has to ask for plain attention."""
    with pytest.raises(RuntimeError, match="derivative"):
        product_at(Attending(), 0.1)(torch.ones(18, dtype=torch.float64))


def test_the_step_moves_a_real_encoders_adapter(tmp_path: Path) -> None:
    """Transformers, PEFT and fp32: a new adapter and its policy, inside the region and better by the same measure."""
    model = tiny_policy(tmp_path)
    model.encoder.model.create("current", lora_config(4, 8), trainable=True)
    legal = tuple(LegalAct(f"answer:{name}", (name,)) for name in ("lost card", "top up", "transfer"))
    rows = [ActRow(model.encoder.tokenize(text), legal, 0.2) for text in ("my card", "money", "lost it", "where is it")]
    start = model.score(rows, ["current"] * 4).logprobs_B_A.detach()
    mu = start[:, 0]

    def inputs_fn() -> LossInputs:
        scored = model.score(rows, ["current"] * 4)
        same = {f"{name}_logprobs_B_A": start for name in ("prox", "champion", "start")}
        zeros, ones = torch.zeros(4), torch.ones(4)
        return LossInputs(
            act_logprobs_B_A=scored.logprobs_B_A, legal_mask_B_A=scored.mask_B_A, chosen_B=torch.zeros(4).long(),
            mu_logprob_B=mu, advantages_B=ones, returns_B=ones, values_B=zeros, weights_B=ones, **same,
        )  # fmt: skip

    metrics = trpo_step(inputs_fn, model.encoder.model.trainable("current"), TRPOConfig(max_kl=0.01))
    after = inputs_fn().act_logprobs_B_A
    assert 0 < kl_over_acts(start, after, torch.ones(4, 3, dtype=torch.bool)).mean().item() <= 0.01
    assert metrics["trust_kl"].item() > 0.002
    assert (after[:, 0].exp() - mu.exp()).mean().item() > 0


def test_the_loss_equals_the_hand_calculation() -> None:
    """Unclipped: r = .9/.5 = 1.8 at A = 2 with weight min(.5/.1, 2); r = .5 at A = -1 with weight .2/.4."""
    now = of(0.9, 0.1, 0.1, 0.9).log().view(2, 2)
    batch = loss_inputs(
        act_logprobs_B_A=now, mu_logprob_B=of(0.1, 0.4).log(), advantages_B=of(2.0, -1.0), values_B=of(0.5, 0.0)
    )
    out = trpo(batch, TRPOConfig(kl_start_coef=0.3, value_coef=3.0))
    regulariser = act_regulariser(batch, TRPOConfig(kl_start_coef=0.3))[0].item()
    # -(2 * 1.8 * 2 - .5 * .5 * 1) / 2; value .5 (.25 + 1) / 2
    assert out.loss.item() == pytest.approx(-(7.2 - 0.25) / 2 + 3 * 0.3125 + regulariser)


def test_the_learners_five_lines_move_policy_and_value_apart() -> None:
    """As the module says: the step moves the adapter, the optimiser only the value head."""
    model, config = Adapted(), replace(CONFIG, value_coef=1.0)
    optimizer = torch.optim.AdamW([{"params": model.policy}, {"params": [model.values]}], lr=0.1, weight_decay=0.1)
    own_step = STEPS["trpo"]
    moved = own_step(model.inputs, model.policy, config)
    after_step = [p.clone() for p in model.policy]
    ALGORITHMS["trpo"](model.inputs(), config).loss.backward(inputs=[model.values])
    optimizer.step()
    assert moved["step_share"].item() > 0
    assert all(torch.equal(p, q) for p, q in zip(after_step, model.policy, strict=True))
    assert torch.equal(model.values.sign(), model.rows.returns_B.sign())
