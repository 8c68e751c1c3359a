"""An update's rows as tensors: all that its passes over acts need, laid out once.

Shapes: N rows of the update, B of a minibatch, A legal acts (padded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bot.conversation import is_operator
from bot.policy.model import Prepared
from online_learning.advantages import Credit


@dataclass(frozen=True, slots=True)
class RatedRows:
    """Decisions with what they earned, and what their acts were worth to the other policies before the first step."""

    prepared: Prepared
    chosen_N: Tensor
    mu_logprobs_N_A: Tensor
    """The behaviour policy's, as stored."""
    prox_logprobs_N_A: Tensor
    start_logprobs_N_A: Tensor
    advantages_N: Tensor
    returns_N: Tensor
    weights_N: Tensor
    certain_N: Tensor
    """bool: an operator said so."""
    person_N: Tensor
    """int64: the update's people, numbered from 0."""

    def __len__(self) -> int:
        return len(self.chosen_N)

    def take(self, places: Sequence[int]) -> RatedRows:
        """Some of the rows, in that order."""
        places_B = torch.tensor(places, dtype=torch.long).to(self.chosen_N.device, non_blocking=True)
        return RatedRows(
            self.prepared.take(places),
            self.chosen_N[places_B],
            self.mu_logprobs_N_A[places_B],
            self.prox_logprobs_N_A[places_B],
            self.start_logprobs_N_A[places_B],
            self.advantages_N[places_B],
            self.returns_N[places_B],
            self.weights_N[places_B],
            self.certain_N[places_B],
            self.person_N[places_B],
        )


def rated_rows(
    prepared: Prepared, earned: Sequence[Credit], prox: Sequence[Tensor], start: Sequence[Tensor]
) -> RatedRows:
    """`prox` and `start`: log-probabilities [A] of each row's legal acts."""
    decisions, device = [credit.decision for credit in earned], prepared.place_B_A.device
    number = {person: i for i, person in enumerate(dict.fromkeys(decision.person_id for decision in decisions))}
    width = prepared.place_B_A.shape[1]
    return RatedRows(
        prepared,
        torch.tensor([decision.chosen for decision in decisions], device=device),
        padded([torch.tensor(decision.logprobs) for decision in decisions], width).to(device),
        padded(prox, width),
        padded(start, width),
        torch.tensor([credit.advantage for credit in earned], device=device, dtype=torch.float32),
        torch.tensor([credit.value_target for credit in earned], device=device, dtype=torch.float32),
        torch.tensor([credit.weight for credit in earned], device=device, dtype=torch.float32),
        torch.tensor([is_operator(decision.person_id) for decision in decisions], device=device),
        torch.tensor([number[decision.person_id] for decision in decisions], device=device),
    )


def padded(rows: Sequence[Tensor], width: int, fill: float = -torch.inf) -> Tensor:
    """Rows of different lengths as one tensor; what is padded is never read (it is outside the mask)."""
    return torch.stack([nn.functional.pad(row, (0, width - len(row)), value=fill) for row in rows])
