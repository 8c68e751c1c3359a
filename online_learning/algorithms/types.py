"""What goes into a learning algorithm and what comes out: tensors in, one scalar and its metrics out.

Owns the two records every algorithm shares, so that a new one is a new file and nothing else. Knows no model,
optimiser, store or device.

Shapes: `B` decisions of a minibatch, `A` legal acts (padded), `T` generated tokens (padded).
Log-probabilities are natural logarithms, normalised over the legal acts (or the vocabulary, for tokens).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

_TOGETHER = {
    "token": ("token_logprobs_B_T", "token_mask_B_T", "token_mu_B_T", "token_prox_B_T", "token_champion_B_T"),
    "Q": ("q1_B_A", "q2_B_A", "target_q_B_A", "v_B"),
    "bootstrap": ("rewards_B", "next_v_B"),
}
"""Optional fields of which all are given or none."""


@dataclass(frozen=True, slots=True)
class LossInputs:
    """One minibatch of decisions under four policies: current (gradient), behaviour, proximal, champion, and the start.

    Padded acts may hold anything, -inf included: only places where `legal_mask_B_A` is True are read.
    """

    act_logprobs_B_A: Tensor
    """log pi(a | s), the policy being trained; requires grad."""
    legal_mask_B_A: Tensor
    """bool: True for a legal act, False for padding."""
    chosen_B: Tensor
    """int64: index of the act that was taken."""
    mu_logprob_B: Tensor
    """log mu(chosen | s) as stored when it was served: the behaviour policy."""
    prox_logprobs_B_A: Tensor
    """The policy as it was at the start of this update; the clip is around this one."""
    champion_logprobs_B_A: Tensor
    """The policy now serving."""
    start_logprobs_B_A: Tensor
    """A fresh install's policy."""
    advantages_B: Tensor
    returns_B: Tensor
    """What `values_B` should have said."""
    values_B: Tensor
    """V(s) by the value head; requires grad."""
    weights_B: Tensor
    """Weight of a row (trust, 0..1). Scales its policy and value terms, never its KL or entropy."""
    temperatures_B: Tensor | None = None
    """The temperature that `act_logprobs_B_A` are at. None: that at which the policy is as sure as it should be."""
    certain_B: Tensor | None = None
    """bool: True where the return comes from one who knows, not from a rater who may err. None: nobody does."""
    prox_values_B: Tensor | None = None
    """V(s) at the start of this update; needed only when the value loss is clipped."""
    token_logprobs_B_T: Tensor | None = None
    """log pi of each generated token under the sampled distribution; requires grad. None: nothing was generated."""
    token_mask_B_T: Tensor | None = None
    """bool: True for a token the policy wrote; a row without generated text is all False."""
    token_mu_B_T: Tensor | None = None
    token_prox_B_T: Tensor | None = None
    token_champion_B_T: Tensor | None = None
    label_probs_B_A: Tensor | None = None
    """How probable it is that each act is the right one, by an operator's correction; a row of zeros: nobody said."""
    q1_B_A: Tensor | None = None
    """Two estimates Q(s, a) of the return after each act; require grad."""
    q2_B_A: Tensor | None = None
    target_q_B_A: Tensor | None = None
    """The smaller of the two slowly following copies; no gradient."""
    v_B: Tensor | None = None
    """V(s) of Q-learning, an expectile of Q; requires grad. `values_B` is another number: the baseline's."""
    rewards_B: Tensor | None = None
    """Earned at this decision itself. None: `returns_B` is all that a decision earns, nothing follows it."""
    next_v_B: Tensor | None = None
    """V(s') of the conversation's next decision, 0 after its last; no gradient. Comes with `rewards_B`."""

    def __post_init__(self) -> None:
        num_rows, num_acts = self.act_logprobs_B_A.shape
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            expected = {"A": (num_rows, num_acts), "T": (num_rows, value.shape[-1])}.get(field.name[-1], (num_rows,))
            assert value.shape == expected, f"{field.name}: expected {expected}, got {tuple(value.shape)}"
        for kind, together in _TOGETHER.items():
            given = [name for name in together if getattr(self, name) is not None]
            assert len(given) in (0, len(together)), f"{kind} fields come together, got only {given}"
        assert self.legal_mask_B_A.dtype == torch.bool, "legal_mask_B_A: expected bool"


@dataclass(frozen=True, slots=True)
class LossOutputs:
    """A scalar to minimise and what to log about it."""

    loss: Tensor
    metrics: Mapping[str, Tensor]
    """Detached scalars, still on the device: reading one is the caller's host sync."""


def added(parts: Sequence[LossOutputs]) -> LossOutputs:
    """One loss of several; what they report stands side by side."""
    metrics = {name: value for part in parts for name, value in part.metrics.items()}
    return LossOutputs(torch.stack([part.loss for part in parts]).sum(), metrics)


def gather_chosen(values_B_A: Tensor, chosen_B: Tensor) -> Tensor:
    """The column of the chosen act: [B]."""
    return values_B_A.gather(1, chosen_B[:, None]).squeeze(1)


def fill_illegal(logprobs_B_A: Tensor, legal_mask_B_A: Tensor) -> Tensor:
    """Log-probabilities with 0 where an act is padding, so that -inf never meets a product (0 * inf is NaN)."""
    return logprobs_B_A.masked_fill(~legal_mask_B_A, 0.0)


def kl_over_acts(logp_B_A: Tensor, logq_B_A: Tensor, legal_mask_B_A: Tensor, max_log_ratio: float = 20.0) -> Tensor:
    """Exact KL(p || q) in nats over the legal acts: sum_a p(a) (log p(a) - log q(a)); [B].

    Exact because all legal acts are scored: its gradient needs no k1/k2/k3 estimator.
    """
    logp_B_A = fill_illegal(logp_B_A, legal_mask_B_A)
    log_ratio_B_A = (logp_B_A - fill_illegal(logq_B_A, legal_mask_B_A)).clamp(-max_log_ratio, max_log_ratio)
    return (logp_B_A.exp() * legal_mask_B_A * log_ratio_B_A).sum(1)


def entropy_over_acts(logp_B_A: Tensor, legal_mask_B_A: Tensor) -> Tensor:
    """Exact entropy in nats over the legal acts; [B]."""
    logp_B_A = fill_illegal(logp_B_A, legal_mask_B_A)
    return -(logp_B_A.exp() * legal_mask_B_A * logp_B_A).sum(1)
