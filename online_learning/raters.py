"""Who presses thumbs, and how well: people who look at the answer, and people who press at random. Ours. Pure.

Everybody belongs to one of two kinds, whoever of them looks errs alike:

    P(up | s, a, careful)  = p_wrong + (p_right - p_wrong) b(a | s)     as in `algorithms.likelihood`
    P(up | s, a, careless) = 1/2

Expectation maximisation (Dawid and Skene 1979 with two kinds of observers) finds the two rates, the share of careless
people and, person by person, how probable it is that they are one. A row then teaches by the probability that its person
is careful. One thumb says little of whoever pressed it: most of what is found is about people who press often.

Shapes: N rows, P people, A legal acts (padded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from online_learning.algorithms.likelihood import POWERS, SLIP, tempered
from online_learning.algorithms.types import gather_chosen

GUESS_ROWS = 9.0
"""The rates are guessed as firmly as by so many thumbs on right acts, and on wrong ones."""
GUESS_RIGHT, GUESS_WRONG = 0.95, 0.1
GUESS_PEOPLE = 10.0
"""As many people, one of them careless, are supposed before anybody is heard."""


@dataclass(frozen=True, slots=True)
class Raters:
    """What the thumbs say of those who pressed them."""

    p_right: float
    p_wrong: float
    """P(up) of careful people, by whether the act was right."""
    careless: float
    """Share of people who press at random."""
    careless_N: Tensor
    """How probable it is that each row's person is one of them."""


def estimate_raters(
    beliefs_N_A: Tensor,
    mask_N_A: Tensor,
    chosen_N: Tensor,
    up_N: Tensor,
    person_N: Tensor,
    weights_N: Tensor,
    powers: Sequence[float] = POWERS,
    rounds: int = 60,
) -> Raters:
    """The likeliest raters. As in `calibrated_noise`, beliefs may turn out surer or less sure than stated.

    `beliefs_N_A`: log-probabilities before the row's thumb was heard; `up_N`: bool; `person_N`: int64, people numbered from
    0; `weights_N`: a row told twice counts half each time.
    """
    assert len(up_N), "estimate_raters: expected rows, got none"
    up_N, weights_N = up_N.double(), weights_N.double()
    found = []
    for power in powers:
        right_N = tempered(beliefs_N_A, mask_N_A, torch.full_like(beliefs_N_A[:, 0], power))
        b_N = gather_chosen(right_N, chosen_N).double().clamp(0.005, 0.995)
        found.append(_fitted(b_N, up_N, person_N, weights_N, rounds))
    return max(found, key=lambda one: one[0])[1]


def _fitted(b_N: Tensor, up_N: Tensor, person_N: Tensor, weights_N: Tensor, rounds: int) -> tuple[float, Raters]:
    """The maximum for given beliefs [N] in the shown act, with its log-likelihood."""
    num_people = int(person_N.max()) + 1
    total_P = torch.zeros(num_people, dtype=torch.float64, device=b_N.device)
    random_P = total_P.index_add(0, person_N, weights_N) * torch.tensor(0.5).log().item()
    p_right, p_wrong, share = GUESS_RIGHT, GUESS_WRONG, 1 / GUESS_PEOPLE
    log_likelihood, careless_P = 0.0, total_P
    for _ in range(rounds):
        p_up_N = p_wrong + (p_right - p_wrong) * b_N
        log_N = torch.where(up_N > 0, p_up_N, 1 - p_up_N).log()
        careful_P = total_P.index_add(0, person_N, weights_N * log_N) + torch.tensor(1 - share).log()
        both_P = torch.stack([careful_P, random_P + torch.tensor(share).log()])
        careless_P, log_likelihood = both_P.softmax(0)[1], float(both_P.logsumexp(0).sum())
        share = (float(careless_P.sum()) + 1) / (num_people + GUESS_PEOPLE)
        counts_N = weights_N * (1 - careless_P[person_N])
        right_N = b_N * torch.where(up_N > 0, p_right / p_up_N, (1 - p_right) / (1 - p_up_N))
        p_right = _rate(counts_N * right_N, up_N, GUESS_RIGHT)
        p_wrong = _rate(counts_N * (1 - right_N), up_N, GUESS_WRONG)
    # As in `calibrated_noise`: thumbs that say the contrary come to say next to nothing.
    p_right = min(max(p_right, 2 * SLIP), 1 - 1e-4)
    p_wrong = min(max(p_wrong, 1e-4), p_right - SLIP)
    return log_likelihood, Raters(p_right, p_wrong, share, careless_P[person_N].float())


def _rate(counts_N: Tensor, up_N: Tensor, guess: float) -> float:
    """Share of ups among counted rows, with the guess as GUESS_ROWS more."""
    return float(((counts_N * up_N).sum() + guess * GUESS_ROWS) / (counts_N.sum() + GUESS_ROWS))
