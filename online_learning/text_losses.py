"""What an update's text losses are made of: generated replies by PPO, operators' own words by their likelihood.

A loss is a function of places among its rows, so that whoever steps draws the minibatches. What stays the same over the
epochs (the policy at the start of the update, the base model) is scored once, when the loss is made.

Shapes: B rows of a minibatch, T written tokens (padded).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bot.conversation import Generated
from bot.policy.adapted import BASE
from bot.policy.causal import CausalPart
from online_learning.algorithms import ppo
from online_learning.algorithms.own_words import own_words
from online_learning.algorithms.types import LossInputs, LossOutputs
from online_learning.config import LearnerConfig
from online_learning.rated_rows import padded
from online_learning.text_passes import text_logprobs

TextLoss = Callable[[Sequence[int]], LossOutputs]
"""Of some rows, by their places."""


def replies_loss(
    writer: CausalPart,
    texts: Sequence[Generated],
    prox: Sequence[Tensor],
    acts: Callable[[Sequence[int]], LossInputs],
    adapter: str,
    config: LearnerConfig,
) -> TextLoss:
    """PPO over generated replies. `prox`: log-probabilities [T] of each at the start of the update; `acts`: what their rows
    earned, and the terms of their acts, without gradient."""

    def loss(batch: Sequence[int]) -> LossOutputs:
        rows = acts(batch)
        logprobs_B_T, mask_B_T = text_logprobs(writer, [texts[i] for i in batch], adapter, config)
        width, device = logprobs_B_T.shape[1], logprobs_B_T.device
        prox_B_T = padded([prox[i] for i in batch], width, fill=0.0)
        mu_B_T = padded([torch.tensor(texts[i].logprobs) for i in batch], width, fill=0.0)
        # The champion is the proximal policy, from which every update starts.
        inputs = replace(
            rows,
            token_logprobs_B_T=logprobs_B_T,
            token_mask_B_T=mask_B_T,
            token_mu_B_T=mu_B_T.to(device, non_blocking=True),
            token_prox_B_T=prox_B_T,
            token_champion_B_T=prox_B_T,
        )
        return ppo(inputs, config.text_loss)

    return loss


@torch.no_grad()
def unlearned(
    writer: CausalPart, words: Sequence[Generated], adapter: str, config: LearnerConfig
) -> tuple[list[Generated], int]:
    """Operators' words that are not known yet, and how many are."""
    found = [
        text
        for text in words
        if -float(text_logprobs(writer, [text], adapter, config)[0].mean()) > config.words_known_nll
    ]
    return found, len(words) - len(found)


def words_loss(writer: CausalPart, words: Sequence[Generated], adapter: str, config: LearnerConfig) -> TextLoss:
    """The likelihood of operators' words, by its weight."""
    with torch.no_grad():
        start = [text_logprobs(writer, [text], BASE, config)[0][0] for text in words]

    def loss(batch: Sequence[int]) -> LossOutputs:
        logprobs_B_T, mask_B_T = text_logprobs(writer, [words[i] for i in batch], adapter, config)
        start_B_T = padded([start[i] for i in batch], logprobs_B_T.shape[1], fill=0.0)
        out = own_words(logprobs_B_T, start_B_T, mask_B_T, config.text_loss.kl_start_coef)
        return LossOutputs(config.words_weight * out.loss, out.metrics)

    return loss
