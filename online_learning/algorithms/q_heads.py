"""The heads of `ilql`: two estimates of Q(state, act), their slowly following copies, and V(state).

They read embeddings and give no gradient to them: what the encoder learns, it learns from the policy's term.

Shapes: B rows, A acts (padded), D embedding dimension.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class QHead(nn.Module):
    """Q(s, a) = (U s) . (W a) + b . a + c . s + d: a bilinear form of low rank. Starts at 0 (W, b, c, d do)."""

    def __init__(self, width: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.state = nn.Linear(width, rank, bias=False)
        self.act = nn.Linear(width, rank, bias=False)
        self.act_bias = nn.Linear(width, 1)
        self.state_bias = nn.Linear(width, 1, bias=False)
        nn.init.kaiming_uniform_(self.state.weight, a=5**0.5, generator=generator)
        for linear in (self.act, self.act_bias, self.state_bias):
            nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.act_bias.bias)

    def forward(self, states_B_D: Tensor, acts_B_A_D: Tensor) -> Tensor:
        """[B, A]."""
        match_B_A = torch.einsum("br,bar->ba", self.state(states_B_D), self.act(acts_B_A_D))
        bias_B_A: Tensor = self.act_bias(acts_B_A_D).squeeze(-1) + self.state_bias(states_B_D)
        return match_B_A + bias_B_A


class QHeads(nn.Module):
    """Everything that `ilql` needs beside the policy. The copies take no gradient; `follow` moves them.

    New heads are always the same ones: U has a random stream of its own, so processes that learn together agree on it.
    """

    def __init__(self, width: int, rank: int = 32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.online = nn.ModuleList(QHead(width, rank, generator) for _ in range(2))
        self.target = copy.deepcopy(self.online).requires_grad_(requires_grad=False)
        self.v = nn.Linear(width, 1)
        nn.init.zeros_(self.v.weight)
        nn.init.zeros_(self.v.bias)

    def forward(self, states_B_D: Tensor, acts_B_A_D: Tensor) -> Mapping[str, Tensor]:
        """The fields `q1_B_A, q2_B_A, target_q_B_A, v_B` of `LossInputs`."""
        states_B_D, acts_B_A_D = states_B_D.detach(), acts_B_A_D.detach()
        q1_B_A, q2_B_A = (head(states_B_D, acts_B_A_D) for head in self.online)
        copies_B_A = [head(states_B_D, acts_B_A_D) for head in self.target]
        return {
            "q1_B_A": q1_B_A,
            "q2_B_A": q2_B_A,
            "target_q_B_A": torch.minimum(*copies_B_A).detach(),
            "v_B": self.v(states_B_D).squeeze(-1),
        }

    @torch.no_grad()
    def follow(self, rate: float = 0.05) -> None:
        """Move the copies this share of the way towards the estimates (Polyak averaging). Once an optimiser step."""
        for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
            slow.lerp_(fast, rate)
