"""Imitation: labels where there are some, liked choices elsewhere, and nothing of what was disliked."""

from __future__ import annotations

import math

import pytest
import torch

from online_learning.algorithms.imitation import imitation
from online_learning.config import ImitationConfig
from tests.loss_inputs import log_of, loss_inputs, of

BARE = ImitationConfig(kl_start_coef=0.0)
NOBODY_SAID = [0.0, 0.0]


def test_only_liked_choices_are_imitated() -> None:
    """Row 0 was liked, row 1 was not: -log .5 over two rows."""
    batch = loss_inputs()
    out = imitation(batch, BARE)
    assert out.loss.item() == pytest.approx(-math.log(0.5) / 2)
    assert out.metrics["imitated"].item() == 0.5
    (grad,) = torch.autograd.grad(out.loss, batch.act_logprobs_B_A)
    assert grad.tolist() == [[-0.5, 0.0], [0.0, 0.0]]


def test_a_label_replaces_the_thumb_of_its_row() -> None:
    """Row 0 was liked but an operator says act 1; row 1's reply was wrong and act 1 is right."""
    batch = loss_inputs(label_probs_B_A=torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64))
    out = imitation(batch, ImitationConfig(kl_start_coef=0.0, label_coef=2.0))
    assert out.loss.item() == pytest.approx(-2 * (math.log(0.5) + math.log(0.8)) / 2)
    assert (out.metrics["labelled"].item(), out.metrics["imitated"].item()) == (1.0, 0.0)


def test_labelled_and_imitated_rows_share_a_batch() -> None:
    """Row 0 is imitated, row 1 has two acts that are equally right; trust weighs both."""
    labels = torch.tensor([NOBODY_SAID, [0.5, 0.5]], dtype=torch.float64)
    out = imitation(loss_inputs(label_probs_B_A=labels, weights_B=of(0.5, 1.0)), BARE)
    assert out.metrics["imitation_loss"].item() == pytest.approx(-0.5 * math.log(0.5) / 2)
    assert out.metrics["label_loss"].item() == pytest.approx(-0.5 * (math.log(0.2) + math.log(0.8)) / 2)


def test_without_labels_wanted_a_labelled_row_counts_as_any_other() -> None:
    """Pure filtered imitation, for the ladder."""
    labels = torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    config = ImitationConfig(kl_start_coef=0.0, label_coef=0.0)
    assert imitation(loss_inputs(label_probs_B_A=labels), config).loss.item() == pytest.approx(-math.log(0.5) / 2)


def test_the_threshold_says_what_is_liked() -> None:
    """A return at the threshold is not above it."""
    assert (
        imitation(loss_inputs(returns_B=of(0.5, 0.6)), ImitationConfig(threshold=0.5)).metrics["imitated"].item() == 0.5
    )


def test_a_label_on_an_illegal_act_is_not_learned() -> None:
    """Its log-probability is -inf: the loss would be infinite."""
    batch = loss_inputs(
        act_logprobs_B_A=log_of([1.0, 0.0], [0.2, 0.8]),
        legal_mask_B_A=torch.tensor([[True, False], [True, True]]),
        label_probs_B_A=torch.tensor([[0.0, 1.0], NOBODY_SAID], dtype=torch.float64),
    )
    assert imitation(batch, BARE).metrics["label_loss"].item() == 0.0


def test_it_follows_how_often_an_act_was_liked_not_how_reliably() -> None:
    """Its known weakness, kept in sight: act 1 was liked 6 of 20 times, act 0 all of 4 times; act 1 wins, .6 to .4."""
    logits = log_of([0.4, 0.6]).requires_grad_()
    chosen = torch.tensor([0] * 4 + [1] * 20)
    returns = of(*[1.0] * 10, *[-1.0] * 14)
    batch = loss_inputs(
        act_logprobs_B_A=logits.log_softmax(1).expand(24, -1), legal_mask_B_A=torch.ones(24, 2, dtype=torch.bool),
        chosen_B=chosen, returns_B=returns, weights_B=torch.ones(24).double(),
        **dict.fromkeys(("mu_logprob_B", "advantages_B", "values_B"), returns),
        **{f"{name}_logprobs_B_A": log_of(*[[0.5, 0.5]] * 24) for name in ("prox", "champion", "start")},
    )  # fmt: skip
    (grad,) = torch.autograd.grad(imitation(batch, BARE).loss, logits)
    assert grad.abs().max().item() < 1e-12
