"""Implicit Q-learning: losses by hand, a chain whose Q* is known, and the heads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from online_learning.algorithms import LossInputs
from online_learning.algorithms.ilql import bellman_target, expectile_loss, ilql, improved_policy, log_excess
from online_learning.algorithms.q_heads import QHeads
from online_learning.config import ILQLConfig
from tests.loss_inputs import log_of, loss_inputs, of

GAMMA = 0.9
LEFT, RIGHT = 0, 1


def q_inputs(**overrides: Any) -> LossInputs:
    """Two rows of two acts with small round Qs."""
    table = {"q1_B_A": [[1, 2], [0, 1]], "q2_B_A": [[2, 0], [1, 1]], "target_q_B_A": [[1.5, 0], [-1, 1]]}
    fields: dict[str, Any] = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in table.items()}
    return loss_inputs(**fields | {"v_B": of(1.0, 0.0)} | overrides)


def test_each_term_equals_the_hand_calculation() -> None:
    """Act 0 taken in both rows, returns 1 and -1, trust 1 and .5."""
    out = ilql(q_inputs(weights_B=of(1.0, 0.5)), ILQLConfig(expectile=0.7))
    # Q: row 0 (1-1)^2 + (2-1)^2 = 1; row 1 (0+1)^2 + (1+1)^2 = 5
    assert out.metrics["q_loss"].item() == pytest.approx(0.5 * (1 + 0.5 * 5) / 2)
    # V: row 0 u = 1.5 - 1 above: .7 * .25; row 1 u = -1 - 0 below: .3 * 1
    assert out.metrics["v_loss"].item() == pytest.approx((0.7 * 0.25 + 0.5 * 0.3) / 2)
    # logsumexp Q - Q(0): row 0 ln(e + e^2) - 1, ln(e^2 + 1) - 2; row 1 ln(1 + e), ln 2
    excess = [math.log(1 + math.e) + math.log(1 + math.exp(-2)), math.log(1 + math.e) + math.log(2)]
    assert out.metrics["conservative"].item() == pytest.approx((excess[0] + 0.5 * excess[1]) / 2)


def test_the_loss_is_the_sum_of_its_terms() -> None:
    """Each with its coefficient."""
    config = ILQLConfig(value_coef=2.0, conservative_coef=3.0, policy_coef=5.0, kl_start_coef=0.0)
    out = ilql(q_inputs(), config)
    terms = {"q_loss": 1, "v_loss": 2, "conservative": 3, "policy_loss": 5}
    assert out.loss.item() == pytest.approx(sum(coef * out.metrics[name].item() for name, coef in terms.items()))


def test_the_policy_is_taught_the_start_tilted_by_q() -> None:
    """pi* = (.5 e^3, .5 e^0) normalised for beta 2 and Q (1.5, 0); its KL to the present policy is the loss."""
    batch = q_inputs(weights_B=of(1.0, 0.0))
    wanted = math.exp(3) / (math.exp(3) + 1)
    assert improved_policy(batch.start_logprobs_B_A, batch.target_q_B_A, batch.legal_mask_B_A, 2.0)[
        0
    ].exp().tolist() == (pytest.approx([wanted, 1 - wanted]))
    kl = wanted * math.log(wanted / 0.5) + (1 - wanted) * math.log((1 - wanted) / 0.5)
    out = ilql(batch, ILQLConfig(beta=2.0))
    assert out.metrics["policy_loss"].item() == pytest.approx(kl / 2)
    # d KL(p || softmax) / d log pi = -p
    (grad,) = torch.autograd.grad(out.loss, batch.act_logprobs_B_A)
    assert grad[0].tolist() == pytest.approx([-wanted / 2, -(1 - wanted) / 2])


def test_q_that_is_the_same_for_all_acts_gives_zero_policy_gradient() -> None:
    """No act is better than another: in the logits nothing moves."""
    logits = log_of([0.5, 0.5], [0.2, 0.8]).requires_grad_()
    batch = q_inputs(act_logprobs_B_A=logits.log_softmax(1), target_q_B_A=torch.full((2, 2), 3.0, dtype=torch.float64))
    (grad,) = torch.autograd.grad(ilql(batch, ILQLConfig()).loss, logits)
    assert grad.abs().max().item() < 1e-12


def test_expectile_loss_weighs_the_two_sides() -> None:
    """.7 above, .3 below."""
    assert expectile_loss(of(2.0, -2.0), 0.7).tolist() == pytest.approx([2.8, 1.2])


def test_conservative_term_reads_legal_acts_only() -> None:
    """A padded act's Q of 100 would rule the sum; alone among the legal, an act has nothing to exceed."""
    q = torch.tensor([[1.0, 100.0]], dtype=torch.float64)
    chosen = torch.tensor([0])
    assert log_excess(q, chosen, torch.tensor([[True, False]])).item() == 0.0
    assert log_excess(q, chosen, torch.tensor([[True, True]])).item() == pytest.approx(99.0)


def test_the_target_bootstraps_where_it_can() -> None:
    """reward + gamma V(next), without gradient; the return alone where no next state is given."""
    later = of(2.0, 0.0).requires_grad_()
    target = bellman_target(q_inputs(rewards_B=of(0.5, -1.0), next_v_B=later), 0.9)
    assert target.tolist() == pytest.approx([2.3, -1.0])
    assert not target.requires_grad
    assert bellman_target(q_inputs(), 0.9).tolist() == [1.0, -1.0]


# --- five states in a row: left and right; a step right from the last earns 1 and ends -----------------------------------
def chain() -> list[tuple[int, int, float, int | None]]:
    """(state, act, reward, next state) of every act in every state; left of the first state is the first."""
    moves = []
    for state in range(5):
        moves.append((state, LEFT, 0.0, max(state - 1, 0)))
        moves.append((state, RIGHT, 1.0, None) if state == 4 else (state, RIGHT, 0.0, state + 1))
    return moves


def known_q(state: int, act: int) -> float:
    """Q*: right earns 1 after 4 - state more steps; left costs a step back and then the way from there."""
    if act == RIGHT:
        return GAMMA ** (4 - state)
    return GAMMA * GAMMA ** (4 - max(state - 1, 0))


def slow_expectile_q(expectile: float) -> dict[tuple[int, int], float]:
    """The fixed point by plain value iteration; of two values, lo and hi, seen equally often the expectile is
    expectile * hi + (1 - expectile) * lo, since expectile (hi - v) = (1 - expectile) (v - lo)."""
    q = dict.fromkeys(((state, act) for state in range(5) for act in (LEFT, RIGHT)), 0.0)
    for _ in range(400):
        pairs = [sorted((q[state, LEFT], q[state, RIGHT])) for state in range(5)]
        v = [expectile * high + (1 - expectile) * low for low, high in pairs]
        q = {(s, a): reward + (0.0 if later is None else GAMMA * v[later]) for s, a, reward, later in chain()}
    return q


def learned_q(config: ILQLConfig, steps: int = 600) -> tuple[Tensor, Tensor]:
    """(Q [5, 2], policy [5, 2]) by descending the loss on tables, all moves in one batch, copies following closely."""
    tables = [torch.zeros(5, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    v = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    logits = torch.zeros(5, 2, dtype=torch.float64, requires_grad=True)
    copies = [table.detach().clone() for table in tables]
    states = torch.tensor([move[0] for move in chain()])
    later = torch.tensor([0 if move[3] is None else move[3] for move in chain()])
    goes_on = of(*(float(move[3] is not None) for move in chain()))
    fixed = {
        "legal_mask_B_A": torch.ones(10, 2, dtype=torch.bool), "chosen_B": torch.tensor([m[1] for m in chain()]),
        "rewards_B": of(*(move[2] for move in chain())), "weights_B": torch.ones(10, dtype=torch.float64),
        **dict.fromkeys(("mu_logprob_B", "advantages_B", "returns_B", "values_B"), torch.zeros(10, dtype=torch.float64)),
        **{f"{name}_logprobs_B_A": log_of(*[[0.5, 0.5]] * 10) for name in ("prox", "champion", "start")},
    }  # fmt: skip
    # one unit of Q or V error moves by half of itself a step (10 rows, each entry in one); of V by up to all
    groups = [{"params": tables, "lr": 5.0}, {"params": [v], "lr": 4.0}, {"params": [logits], "lr": 2.0}]
    optimizer = torch.optim.SGD(groups)
    for _ in range(steps):
        batch = LossInputs(
            act_logprobs_B_A=logits.log_softmax(1)[states], q1_B_A=tables[0][states], q2_B_A=tables[1][states],
            target_q_B_A=torch.minimum(*copies)[states], v_B=v[states], next_v_B=v[later].detach() * goes_on, **fixed,
        )  # fmt: skip
        optimizer.zero_grad()
        ilql(batch, config).loss.backward()
        optimizer.step()
        copies = [table.detach().clone() for table in tables]
    return copies[0], logits.softmax(1).detach()


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_the_chain_converges_to_the_fixed_point_of_its_expectile(expectile: float) -> None:
    """Against value iteration in plain Python, without the conservative term."""
    q, _ = learned_q(ILQLConfig(gamma=GAMMA, expectile=expectile, conservative_coef=0.0))
    slow = slow_expectile_q(expectile)
    assert q.flatten().tolist() == pytest.approx([slow[s, a] for s in range(5) for a in (LEFT, RIGHT)], abs=1e-4)


def test_a_high_expectile_finds_the_best_policys_q() -> None:
    """From data of a coin-tossing policy, Q within .02 of Q*, and a policy that goes right everywhere."""
    q, policy = learned_q(ILQLConfig(gamma=GAMMA, expectile=0.995, conservative_coef=0.0, beta=50.0), steps=2500)
    known = [known_q(s, a) for s in range(5) for a in (LEFT, RIGHT)]
    assert q.flatten().tolist() == pytest.approx(known, abs=0.02)
    assert policy[:, RIGHT].min().item() > 0.9


def test_an_expectile_of_a_half_finds_the_coin_tossers_q_instead() -> None:
    """The control: the mean over what the data do is far below Q*."""
    assert known_q(0, RIGHT) - slow_expectile_q(0.5)[0, RIGHT] > 0.3


def test_the_conservative_term_lowers_what_was_not_tried() -> None:
    """An act that nobody takes keeps Q 0 without it and sinks below with it, while the taken act stays near its return."""
    q = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        batch = q_inputs(q1_B_A=q, q2_B_A=q, returns_B=of(1.0, 1.0), v_B=of(0, 0))
        (grad,) = torch.autograd.grad(ilql(batch, ILQLConfig(conservative_coef=0.1)).loss, q)
        q = (q - 0.5 * grad).detach().requires_grad_()
    assert q[:, 1].max().item() < -0.5
    assert q[:, 0].tolist() == pytest.approx([1.0, 1.0], abs=0.05)


# --- heads ----------------------------------------------------------------------------------------------------------------
def embeddings() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(4, 6, generator=rng).requires_grad_(), torch.randn(4, 3, 6, generator=rng).requires_grad_()


def test_heads_start_at_zero_and_fill_the_loss_inputs() -> None:
    """So that the first policy learned is the start's."""
    fields = QHeads(6)(*embeddings())
    assert {name: tuple(value.shape) for name, value in fields.items()} == {
        "q1_B_A": (4, 3), "q2_B_A": (4, 3), "target_q_B_A": (4, 3), "v_B": (4,),
    }  # fmt: skip
    assert not any(value.any() for value in fields.values())


def test_new_heads_are_always_the_same() -> None:
    """Processes that learn together agree on them, whatever their random streams; and both estimates differ."""
    first = QHeads(6)
    torch.manual_seed(7)
    second = QHeads(6)
    assert all(torch.equal(x, second.state_dict()[name]) for name, x in first.state_dict().items())
    assert not torch.equal(first.online[0].state.weight, first.online[1].state.weight)


def test_heads_learn_without_teaching_the_encoder() -> None:
    """Gradients reach both estimates and V, not the embeddings and not the copies."""
    heads, (states, acts) = QHeads(6), embeddings()
    fields = heads(states, acts)
    (fields["q1_B_A"] + 2 * fields["q2_B_A"] + fields["v_B"][:, None]).sum().backward()
    assert states.grad is None
    assert acts.grad is None
    assert all(head.act.weight.grad.any() for head in heads.online)
    assert heads.v.weight.grad.any()
    assert not any(p.requires_grad for p in heads.target.parameters())
    assert not fields["target_q_B_A"].requires_grad


def test_copies_follow_slowly_and_the_smaller_is_the_target() -> None:
    """A tenth of the way each time, so .19 of 1 and of 2 after two; both acts' target is the first's."""
    heads = QHeads(6)
    with torch.no_grad():
        for bias, head in zip((1.0, 2.0), heads.online, strict=True):
            head.act_bias.bias.fill_(bias)
    heads.follow(0.1)
    heads.follow(0.1)
    assert [head.act_bias.bias.item() for head in heads.target] == pytest.approx([0.19, 0.38])
    assert heads(*embeddings())["target_q_B_A"].flatten().tolist() == pytest.approx([0.19] * 12)


def test_heads_can_tell_acts_apart_by_state() -> None:
    """A bilinear form fits a table in which the best act depends on the state; biases alone could not."""
    torch.manual_seed(0)
    heads, states = QHeads(2, rank=2), torch.eye(2)
    acts = torch.eye(2).expand(2, 2, 2)
    wanted = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    optimizer = torch.optim.Adam(heads.online.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.mse_loss(heads(states, acts)["q1_B_A"], wanted).backward()
        optimizer.step()
    assert heads(states, acts)["q1_B_A"].flatten().tolist() == pytest.approx(wanted.flatten().tolist(), abs=0.05)


def test_ilql_without_its_heads_is_refused() -> None:
    """It would have nothing to learn from."""
    with pytest.raises(AssertionError, match="expected Q fields"):
        ilql(loss_inputs(), ILQLConfig())
