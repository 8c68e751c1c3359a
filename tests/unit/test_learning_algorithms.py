"""What every algorithm over acts owes the learner: padding, weights, empty batches, exact gradients, named metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from online_learning.algorithms import ALGORITHMS, STEPS, LossInputs
from online_learning.algorithms.terms import ess_share, truncated_importance
from online_learning.config import LOSS_CONFIGS, ActTerms, LearnerConfig
from tests.loss_inputs import log_of, loss_inputs, of, policy_of, random_loss_inputs

OVER_ACTS = [name for name in ALGORITHMS if name != "ppo"]
HEADS = {"q1_B_A": log_of([1, 2], [3, 4]), "q2_B_A": log_of([2, 2], [1, 4]), "target_q_B_A": log_of([1, 2], [1, 4])}


def config_of(name: str, **overrides: Any) -> ActTerms:
    """The algorithm's config; `importance_cap` only where it has one."""
    known = LOSS_CONFIGS[name].__dataclass_fields__
    return LOSS_CONFIGS[name](**{key: value for key, value in overrides.items() if key in known})


def rows_of(batch: LossInputs, keep: slice) -> LossInputs:
    """Some of the rows."""
    given = {name: getattr(batch, name) for name in LossInputs.__dataclass_fields__}
    return LossInputs(**{name: value[keep] for name, value in given.items() if value is not None})


def test_every_algorithm_has_a_config_and_every_config_an_algorithm() -> None:
    """The names in the torch-free config module are those of the registry; a step stands beside a loss."""
    assert list(LOSS_CONFIGS) == list(ALGORITHMS)
    assert set(STEPS) <= set(ALGORITHMS)


def test_a_learner_is_refused_the_loss_of_another_algorithm() -> None:
    """Else the first update would fail, after a day of waiting for thumbs."""
    LearnerConfig(algorithm="kto", loss=config_of("kto"))
    with pytest.raises(ValueError, match="loss: expected KTOConfig for kto, got PPOConfig"):
        LearnerConfig(algorithm="kto")
    with pytest.raises(ValueError, match="algorithm: expected one of ppo"):
        LearnerConfig(algorithm="gpro")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", [name for name in OVER_ACTS if name != "kto"])
def test_gradient_equals_finite_differences(name: str, seed: int) -> None:
    """Autograd through the whole loss agrees with differences of it; the cap makes each importance weight a constant."""
    config = config_of(name, entropy_coef=0.1, kl_champion_coef=0.3, kl_start_coef=0.2, importance_cap=1e-3)
    logits, batch = random_loss_inputs(seed)
    trained = ("values_B", "q1_B_A", "q2_B_A", "v_B")

    def loss(logits: Tensor, *leaves: Tensor) -> Tensor:
        fields = dict(zip(trained, leaves, strict=True))
        logprobs = policy_of(logits, batch.legal_mask_B_A)
        return ALGORITHMS[name](replace(batch, act_logprobs_B_A=logprobs, **fields), config).loss

    leaves = [tensor.clone().requires_grad_() for tensor in (logits, *(getattr(batch, field) for field in trained))]
    assert torch.autograd.gradcheck(loss, leaves, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", OVER_ACTS)
def test_padding_never_reaches_the_loss(name: str) -> None:
    """An illegal act's -inf, and a Q or label of anything there, give the loss of the batch without it."""
    plain = loss_inputs(
        act_logprobs_B_A=log_of([0.6, 0.4], [0.3, 0.7]),
        v_B=of(0.1, 0.2),
        label_probs_B_A=log_of([1, 1], [1, 1]),
        **HEADS,
    )
    wide = {
        field: torch.cat([value, torch.full((2, 1), -torch.inf if "logprobs" in field else 7.0)], 1)
        for field in LossInputs.__dataclass_fields__
        if field.endswith("B_A") and field != "legal_mask_B_A" and (value := getattr(plain, field)) is not None
    }
    padded = replace(plain, **wide, legal_mask_B_A=torch.tensor([[True, True, False]] * 2))
    config = config_of(name, entropy_coef=0.3)
    assert ALGORITHMS[name](padded, config).loss.item() == pytest.approx(ALGORITHMS[name](plain, config).loss.item())


@pytest.mark.parametrize("name", OVER_ACTS)
def test_a_distrusted_row_teaches_nothing_and_leaves_the_others_as_loud(name: str) -> None:
    """Weight 0 gives no gradient, and what it would have said does not change what the others say."""
    config = config_of(name, kl_start_coef=0.0)
    logits, batch = random_loss_inputs()
    batch = replace(batch, weights_B=of(0.0, 1.0, 1.0, 1.0, 1.0, 1.0))
    lie = replace(batch, returns_B=batch.returns_B + of(9.0, 0, 0, 0, 0, 0), advantages_B=-batch.advantages_B)

    def gradient(batch: LossInputs) -> Tensor:
        leaf = logits.clone().requires_grad_()
        loss = ALGORITHMS[name](replace(batch, act_logprobs_B_A=policy_of(leaf, batch.legal_mask_B_A)), config).loss
        return torch.autograd.grad(loss, leaf)[0]

    assert not gradient(batch)[0].any()
    assert gradient(batch)[1:].any()
    assert torch.equal(gradient(replace(lie, advantages_B=batch.advantages_B)), gradient(batch))


@pytest.mark.parametrize("name", OVER_ACTS)
def test_a_batch_without_rows_costs_nothing(name: str) -> None:
    """All rows of an update may have been refused: loss 0, every metric finite, a backward pass that works."""
    logits, batch = random_loss_inputs()
    logprobs = policy_of(logits.requires_grad_(), batch.legal_mask_B_A)
    out = ALGORITHMS[name](rows_of(replace(batch, act_logprobs_B_A=logprobs), slice(0, 0)), config_of(name))
    out.loss.backward()
    assert out.loss.item() == 0.0
    assert all(torch.isfinite(value) for value in out.metrics.values())


@pytest.mark.parametrize("name", OVER_ACTS)
def test_extreme_policies_stay_finite_in_float32(name: str) -> None:
    """A policy that is sure, rightly or wrongly, of acts that the start had lost."""
    logits = torch.tensor([[-500.0, 0.0], [500.0, 0.0]], requires_grad=True)
    plain = loss_inputs(v_B=of(0.0, 0.0), **HEADS)
    names = [n for n in LossInputs.__dataclass_fields__ if getattr(plain, n) is not None]
    single = {n: getattr(plain, n).float() for n in names if getattr(plain, n).dtype == torch.float64}
    lost = torch.tensor([[-500.0, 0.0], [0.0, -500.0]])
    batch = replace(plain, **single | {"act_logprobs_B_A": logits.log_softmax(1), "start_logprobs_B_A": lost})
    out = ALGORITHMS[name](batch, config_of(name, entropy_coef=0.1))
    (grad,) = torch.autograd.grad(out.loss, logits)
    assert torch.isfinite(out.loss)
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("name", OVER_ACTS)
def test_every_algorithm_tells_how_far_it_moved(name: str) -> None:
    """The learner stops an update by `kl_prox`; logging must not keep a minibatch's activations alive."""
    _, batch = random_loss_inputs()
    metrics = ALGORITHMS[name](batch, config_of(name)).metrics
    assert {"loss", "kl_prox", "kl_start", "kl_champion", "entropy"} <= set(metrics)
    assert not any(value.requires_grad or value.dim() for value in metrics.values())


@pytest.mark.parametrize("name", OVER_ACTS)
def test_generated_text_is_refused_rather_than_ignored(name: str) -> None:
    """Its epochs would train nothing, silently."""
    tokens = log_of([0.5], [0.5])
    fields = {f"token_{kind}_B_T": tokens for kind in ("logprobs", "mu", "prox", "champion")}
    batch = loss_inputs(v_B=of(0, 0), token_mask_B_T=torch.ones(2, 1, dtype=torch.bool), **HEADS, **fields)
    with pytest.raises(AssertionError, match="generated text"):
        ALGORITHMS[name](batch, config_of(name))


@pytest.mark.parametrize("name", ["a2c", "reinforce", "trpo"])
def test_first_step_has_ratio_one_and_weighs_rows_alike(name: str) -> None:
    """Before the policy moves, every policy gradient is the plain one."""
    metrics = ALGORITHMS[name](loss_inputs(), config_of(name)).metrics
    expected = {"importance_mean": 1, "ess": 1, "kl_prox": 0, "kl_start": 0} | (
        {"ratio_mean": 1} if name == "trpo" else {}
    )
    assert {key: metrics[key].item() for key in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["ppo", "a2c", "trpo"])
def test_policy_gradients_agree_at_the_first_step(name: str) -> None:
    """pi = prox = mu: all three are -A (onehot - pi) / B, worked out from the softmax's derivative."""
    logits = log_of([0.5, 0.5], [0.2, 0.8]).requires_grad_()
    batch = loss_inputs(act_logprobs_B_A=logits.log_softmax(1), advantages_B=of(2.0, -1.0))
    (grad,) = torch.autograd.grad(ALGORITHMS[name](batch, config_of(name, kl_start_coef=0.0)).loss, logits)
    # row 0: -2 (.5, -.5) / 2; row 1: +1 (.8, -.8) / 2
    assert grad.tolist() == [pytest.approx([-0.5, 0.5]), pytest.approx([0.4, -0.4])]


def test_importance_is_truncated_and_effective_sample_size_is_kishs() -> None:
    """.5/.1 counts 2, .2/.4 counts .5; ESS of those two is 2.5^2 / 4.25 of 2 rows."""
    weight = truncated_importance(of(0.5, 0.2).log().requires_grad_(), of(0.1, 0.4).log(), 2.0, 20.0)
    assert weight.tolist() == pytest.approx([2.0, 0.5])
    assert not weight.requires_grad
    assert ess_share(weight).item() == pytest.approx(6.25 / 4.25 / 2)


def noisy_thumbs(rows: int = 240) -> LossInputs:
    """Four states of four acts, act = state is right; all acts tried alike, thumbs up at .9 if right and .2 if not."""
    rng = torch.Generator().manual_seed(0)
    state, chosen = torch.arange(rows) % 4, torch.arange(rows) // 4 % 4
    up = torch.rand(rows, generator=rng) < torch.where(state == chosen, 0.9, 0.2)
    uniform, returns = log_of(*[[0.25] * 4] * rows), up.double() * 2 - 1
    return LossInputs(
        act_logprobs_B_A=uniform, legal_mask_B_A=torch.ones(rows, 4, dtype=torch.bool), chosen_B=chosen,
        mu_logprob_B=uniform[:, 0], prox_logprobs_B_A=uniform, champion_logprobs_B_A=uniform, start_logprobs_B_A=uniform,
        advantages_B=returns, returns_B=returns, values_B=torch.zeros(rows).double(), weights_B=torch.ones(rows).double(),
    )  # fmt: skip


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_learns_from_noisy_thumbs(name: str) -> None:
    """From a coin toss (.25 right) each reaches a policy whose likeliest act is right in all four states."""
    thumbs, tables = noisy_thumbs(), [torch.zeros(4, 4).double().requires_grad_() for _ in range(3)]
    state, value = torch.arange(240) % 4, torch.zeros(4).double().requires_grad_()
    optimizer, config = torch.optim.Adam([*tables, value], lr=0.05), config_of(name, kl_start_coef=0.01)
    for _ in range(150):
        logits, q1, q2 = (table[state] for table in tables)
        heads = {"q1_B_A": q1, "q2_B_A": q2, "target_q_B_A": torch.minimum(q1, q2), "v_B": value[state]}
        batch = replace(thumbs, act_logprobs_B_A=logits.log_softmax(1), **(heads if name == "ilql" else {}))
        optimizer.zero_grad()
        ALGORITHMS[name](batch, config).loss.backward()
        optimizer.step()
    assert tables[0].argmax(1).tolist() == [0, 1, 2, 3]
    assert tables[0].softmax(1).diagonal().min().item() > 0.25


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("a2c", {"importance_cap": 0.0}),
        ("a2c", {"kl_start_coef": -1.0}),
        ("reinforce", {"baseline": "mean"}),
        ("trpo", {"max_kl": 0.0}),
        ("trpo", {"damping": 0.0}),
        ("trpo", {"backtrack": 1.0}),
        ("ilql", {"expectile": 1.0}),
        ("ilql", {"gamma": 1.1}),
        ("ilql", {"conservative_coef": float("nan")}),
        ("imitation", {"label_coef": -1.0}),
        ("kto", {"beta": 0.0}),
        ("likelihood", {"p_right": 1.0}),
        ("likelihood", {"p_wrong": 0.9}),
    ],
)
def test_configs_refuse_impossible_hyperparameters(name: str, bad: dict[str, Any]) -> None:
    """The error names the field."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        LOSS_CONFIGS[name](**bad)


def test_half_of_the_optional_fields_is_refused() -> None:
    """Q without its copies, or a reward without what follows it, would be a different algorithm."""
    with pytest.raises(AssertionError, match="Q fields come together"):
        loss_inputs(q1_B_A=HEADS["q1_B_A"])
    with pytest.raises(AssertionError, match="bootstrap fields come together"):
        loss_inputs(rewards_B=of(0.0, 0.0))
