"""P(thumb up | context, reply) from the frozen encoder's embeddings: logistic regression, calibrated on rows of its own.

No new language model: what it sees are two unit vectors, how they differ, and a few counts over the words. Fitted in
seconds (convex, L-BFGS), so that it may be fitted again at every update. Ratings are shares of 0 to 1; several raters of
one reply are one row whose label is their mean vote.

Shapes: B rows, D embedding width, F features. Float64 where sums are long.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import log1p

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from online_learning.statistics import Floats, Interval, percentile_interval

PENALTIES = (0.01, 0.1, 1.0)
"""Ridge penalties on standardised features that are tried; the calibration rows choose."""
NUM_BINS = 15
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+")
_DENIALS = frozenset({"no", "not", "cannot", "sorry", "unfortunately", "don", "doesn", "isn", "aren"})


# --- features ---------------------------------------------------------------------------------------------------------
def word_features(context: str, reply: str) -> tuple[float, ...]:
    """What embeddings show badly: lengths, shared words, numbers the reply brings in, questions, denials."""
    asked, said = _WORD.findall(context.lower()), _WORD.findall(reply.lower())
    shared = len(set(asked) & set(said))
    known, used = set(_NUMBER.findall(context)), set(_NUMBER.findall(reply))
    return (
        log1p(len(said)),
        log1p(len(reply)),
        log1p(len(asked)),
        shared / max(len(set(said)), 1),
        shared / max(len(set(asked)), 1),
        len(set(said)) / max(len(said), 1),
        float(len(used - known)),
        float(len(used & known)),
        float("?" in reply),
        float(bool(_DENIALS & set(said))),
    )


def features(context_B_D: Tensor, reply_B_D: Tensor, texts: Sequence[tuple[str, str]]) -> Tensor:
    """[B, 4 D + 11]: both vectors, their product, their distance by dimension, their cosine, the word features."""
    product_B_D = context_B_D * reply_B_D
    counted = torch.tensor([word_features(*pair) for pair in texts], device=context_B_D.device)
    distance_B_D, cosine_B_1 = (context_B_D - reply_B_D).abs(), product_B_D.sum(1, keepdim=True)
    return torch.cat([context_B_D, reply_B_D, product_B_D, distance_B_D, cosine_B_1, counted], 1)


# --- the model --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Logistic:
    """A linear model of the log-odds on standardised features."""

    mean_F: Tensor
    scale_F: Tensor
    weights_F: Tensor
    bias: Tensor

    def logits(self, features_B_F: Tensor) -> Tensor:
        """Log-odds [B]."""
        return ((features_B_F - self.mean_F) / self.scale_F) @ self.weights_F + self.bias


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A logistic model with its Platt scaling (Platt 1999): p = sigmoid(slope * logit + shift)."""

    logistic: Logistic
    slope: float
    shift: float
    penalty: float

    def probability(self, features_B_F: Tensor) -> Tensor:
        """P(up) [B], calibrated."""
        return torch.sigmoid(self.slope * self.logistic.logits(features_B_F) + self.shift)


def fit_logistic(features_B_F: Tensor, ups_B: Tensor, penalty: float, max_steps: int = 60) -> Logistic:
    """Ridge logistic regression; `ups_B` are shares of votes, 0 to 1. A feature that never varies gets no weight."""
    scale_F, mean_F = torch.std_mean(features_B_F, dim=0, correction=0)
    scale_F = torch.where(scale_F < 1e-6, torch.inf, scale_F)
    standard_B_F = (features_B_F - mean_F) / scale_F
    weights = torch.zeros(features_B_F.shape[1] + 1, device=features_B_F.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=max_steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits_B = standard_B_F @ weights[:-1] + weights[-1]
        total = binary_cross_entropy_with_logits(logits_B, ups_B) + penalty * (weights[:-1] ** 2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = weights.detach()
    return Logistic(mean_F, scale_F, found[:-1], found[-1])


def fit_platt(logits_B: Tensor, ups_B: Tensor) -> tuple[float, float]:
    """Slope and shift that make the logits' probabilities true on these rows."""
    found = fit_logistic(logits_B.unsqueeze(1), ups_B, penalty=1e-6)
    slope = float(found.weights_F[0] / found.scale_F[0])
    return slope, float(found.bias) - slope * float(found.mean_F[0])


def fit_reward_model(
    train: tuple[Tensor, Tensor], calibration: tuple[Tensor, Tensor], penalties: Sequence[float] = PENALTIES
) -> RewardModel:
    """Fit on `train` = (features_B_F, ups_B); the penalty and the scaling come from the `calibration` rows."""
    fitted = {penalty: fit_logistic(*train, penalty) for penalty in penalties}
    held_B_F, ups_B = calibration

    def held_loss(penalty: float) -> float:
        return float(binary_cross_entropy_with_logits(fitted[penalty].logits(held_B_F), ups_B))

    best = min(penalties, key=held_loss)
    slope, shift = fit_platt(fitted[best].logits(held_B_F), ups_B)
    return RewardModel(fitted[best], slope, shift, best)


# --- how good it is ---------------------------------------------------------------------------------------------------
def auc(scores_B: ArrayLike, ups_B: ArrayLike, weights_B: ArrayLike | None = None) -> float:
    """P(score of an up > score of a down), ties half (Mann-Whitney). `ups_B`: share of up votes; nan without both."""
    scores, ups = np.asarray(scores_B, np.float64), np.asarray(ups_B, np.float64)
    weights = np.ones_like(ups) if weights_B is None else np.asarray(weights_B, np.float64)
    return _auc_of_groups(np.unique(scores, return_inverse=True)[1], ups * weights, (1 - ups) * weights)


def _auc_of_groups(group_B: ArrayLike, ups_B: Floats, downs_B: Floats) -> float:
    """From the rank of each row's score, equal scores sharing one."""
    groups = np.asarray(group_B)
    ups_G, downs_G = np.bincount(groups, ups_B), np.bincount(groups, downs_B)
    pairs = ups_G.sum() * downs_G.sum()
    below_G = np.cumsum(downs_G) - downs_G
    return float((ups_G * (below_G + downs_G / 2)).sum() / pairs) if pairs > 0 else float("nan")


def auc_interval(
    scores_B: ArrayLike,
    ups_B: ArrayLike,
    rng: np.random.Generator,
    clusters_B: ArrayLike,
    *,
    votes_B: ArrayLike | None = None,
    num_resamples: int = 500,
) -> Interval:
    """The AUC with its 95 % interval over resampled clusters. `votes_B`: raters a row, its weight (default 1)."""
    ups = np.asarray(ups_B, np.float64)
    votes = np.ones_like(ups) if votes_B is None else np.asarray(votes_B, np.float64)
    _, cluster_B = np.unique(np.asarray(clusters_B), return_inverse=True)
    _, group_B = np.unique(np.asarray(scores_B, np.float64), return_inverse=True)
    num_clusters = int(cluster_B.max()) + 1
    draws_R_K = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=num_resamples)
    drawn = [_auc_of_groups(group_B, ups * votes * k[cluster_B], (1 - ups) * votes * k[cluster_B]) for k in draws_R_K]
    mean = _auc_of_groups(group_B, ups * votes, (1 - ups) * votes)
    known = np.array([value for value in drawn if not np.isnan(value)])
    return percentile_interval(mean, known, num_clusters if len(known) else 0, 0.95)


def calibration_error(
    probabilities_B: ArrayLike, ups_B: ArrayLike, weights_B: ArrayLike | None = None, num_bins: int = NUM_BINS
) -> float:
    """Expected calibration error (arXiv 1706.04599): |mean P - share of ups| in bins of equal width, weighted by rows."""
    probabilities, ups = np.asarray(probabilities_B, np.float64), np.asarray(ups_B, np.float64)
    weights = np.ones_like(ups) if weights_B is None else np.asarray(weights_B, np.float64)
    bin_B = np.minimum((probabilities * num_bins).astype(np.int64), num_bins - 1)
    gaps_G = np.bincount(bin_B, weights * (probabilities - ups))
    return float(np.abs(gaps_G).sum() / weights.sum())


def brier(probabilities_B: ArrayLike, ups_B: ArrayLike, weights_B: ArrayLike | None = None) -> float:
    """Mean of (P - vote)^2 over single votes; `ups_B`: share of ups among a row's votes."""
    p, ups = np.asarray(probabilities_B, np.float64), np.asarray(ups_B, np.float64)
    weights = np.ones_like(ups) if weights_B is None else np.asarray(weights_B, np.float64)
    return float(np.average(ups * (1 - p) ** 2 + (1 - ups) * p**2, weights=weights))
