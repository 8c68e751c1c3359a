"""Cases: rated answers as evidence beside the weights (kernel regression, Nadaraya-Watson with a prior).

A case says: to this question, this act earned that reward. A version carries the cases it was published with, as it
carries its weights: one pointer moves both, one rollback undoes both, and a row re-scores under its version.

    logit(act) += weight / temperature * sum_i k_i (r_i - r) / (1 + sum_i k_i)      over cases i of that act
    k_i = exp((cos(question, question_i) - 1) / WIDTH)

`r` is the mean reward, from a prior of 0. Questions are compared by the base encoder, so evidence does not drift with
the weights. Shapes: N cases, B rows, A legal acts, V acts that have cases, D embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

WIDTH = 0.1
"""A case's weight falls to 1/e where the cosine is this much below 1."""
MEAN_PRIOR = 10.0
"""Rewards of 0 in the mean: the first few must not explain themselves away."""
SAME = 1 - 1e-5
"""Cosine from which a question is the case's own, when a row must not be its own evidence."""


@dataclass(frozen=True, slots=True)
class Cases:
    """What a version remembers. Immutable."""

    weight: float
    """Cosine that unanimous evidence is worth."""
    states_N_D: Tensor
    """Base embeddings of the questions, rounded to float16."""
    rewards_N: Tensor
    act_N: Tensor
    """int64: index into `acts`."""
    acts: tuple[str, ...]
    decisions: tuple[str, ...]
    """Ids of the decisions they come from: who is to be forgotten can be found."""

    def evidence(self, states_B_D: Tensor, legal: Sequence[Sequence[str]], *, leave_out_own: bool) -> Tensor:
        """Evidence [B, A] in -1..1 for each row's legal acts, padded with 0; `leave_out_own` skips cases of the same
        question."""
        cosine_B_N = states_B_D @ self.states_N_D.T
        kernel_B_N = ((cosine_B_N - 1) / WIDTH).exp()
        if leave_out_own:
            kernel_B_N = kernel_B_N.masked_fill(cosine_B_N > SAME, 0.0)
        mean = self.rewards_N.sum() / (len(self.rewards_N) + MEAN_PRIOR)
        empty_B_V = torch.zeros(len(legal), len(self.acts) + 1, device=states_B_D.device)
        sums_B_V = empty_B_V.index_add(1, self.act_N, kernel_B_N * (self.rewards_N - mean))
        counts_B_V = empty_B_V.index_add(1, self.act_N, kernel_B_N)
        evidence_B_V = sums_B_V / (1 + counts_B_V)  # Its last column is 0: acts without a case.
        return evidence_B_V.gather(1, self._places(legal).to(states_B_D.device))

    def to(self, device: torch.device) -> Cases:
        """The same on a device."""
        states, rewards, act = (t.to(device) for t in (self.states_N_D, self.rewards_N, self.act_N))
        return Cases(self.weight, states, rewards, act, self.acts, self.decisions)

    def _places(self, legal: Sequence[Sequence[str]]) -> Tensor:
        known, none = {act: i for i, act in enumerate(self.acts)}, len(self.acts)
        width = max(len(acts) for acts in legal)
        return torch.tensor([[*(known.get(a, none) for a in acts), *[none] * (width - len(acts))] for acts in legal])


def make_cases(
    weight: float, states_N_D: Tensor, acts: Sequence[str], rewards: Sequence[float], decisions: Sequence[str]
) -> Cases:
    """Cases of rated decisions; rewards are clipped to -1..1."""
    names = tuple(sorted(set(acts)))
    place = {name: i for i, name in enumerate(names)}
    device = states_N_D.device
    return Cases(
        weight,
        states_N_D.half().float(),
        torch.tensor(rewards, device=device, dtype=torch.float32).clamp(-1, 1),
        torch.tensor([place[act] for act in acts], device=device),
        names,
        tuple(decisions),
    )


def save_cases(path: Path, cases: Cases) -> None:
    """One safetensors file."""
    tensors = {"states": cases.states_N_D.half(), "rewards": cases.rewards_N, "act": cases.act_N}
    said = {"weight": cases.weight, "acts": cases.acts, "decisions": cases.decisions}
    save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, path, metadata={"cases": json.dumps(said)})


def load_cases(path: Path) -> Cases:
    """The inverse of `save_cases`."""
    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["cases"])
        states, rewards, act = (file.get_tensor(name) for name in ("states", "rewards", "act"))
    return Cases(said["weight"], states.float(), rewards, act, tuple(said["acts"]), tuple(said["decisions"]))
