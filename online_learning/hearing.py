"""What an update's own thumbs say of how people err, before they teach."""

from __future__ import annotations

from dataclasses import replace

from online_learning.algorithms.likelihood import calibrated_noise
from online_learning.config import ActTerms, LearnerConfig, LikelihoodConfig
from online_learning.rated_rows import RatedRows
from online_learning.raters import estimate_raters

LEAST_RIDGE = 1 / 3
"""Share of the ridge that stays however well people press. Chosen on bankdesk `warmstart`, as `ridge_errors` and `ridge_rows` were."""


def ridge_share(loss: ActTerms, num_rows: int, config: LearnerConfig) -> float:
    """How much of the head's prior is in force with so many rows of raters who err like these."""
    if not isinstance(loss, LikelihoodConfig) or not config.ridge_errors:
        return 1.0
    errs, few = (1 - loss.p_right) / config.ridge_errors, config.ridge_rows / num_rows
    return min(1.0, max(LEAST_RIDGE, errs, few))


def as_heard(rows: RatedRows, loss: ActTerms) -> tuple[RatedRows, ActTerms, dict[str, float]]:
    """The rows, each by the trust in its person; the loss with the estimated rates; and metrics.

    All stays as it is for algorithms that model no thumb, and while there are too few of them. What an operator says is
    certain, and tells nothing of the others.
    """
    if not isinstance(loss, LikelihoodConfig) or not 0 < loss.estimate_from_rows <= len(rows):
        return rows, loss, {}
    places_K = (~rows.certain_N & (rows.returns_N != 0)).nonzero().squeeze(1)
    if len(places_K) < loss.estimate_from_rows:
        return rows, loss, {}
    some = rows.take(places_K.tolist())
    beliefs_K_A = some.mu_logprobs_N_A * (some.prepared.temperature_B_1 / loss.belief_temperature)
    thumbs = beliefs_K_A, some.prepared.mask_B_A, some.chosen_N, some.returns_N > 0
    if not loss.by_person:
        p_right, p_wrong = calibrated_noise(*thumbs)
        return rows, replace(loss, p_right=p_right, p_wrong=p_wrong), {}
    raters = estimate_raters(*thumbs, some.person_N, some.weights_N)
    weights_N = rows.weights_N.index_put((places_K,), some.weights_N * (1 - raters.careless_N))
    told = replace(loss, p_right=raters.p_right, p_wrong=raters.p_wrong)
    return replace(rows, weights_N=weights_N), told, {"careless": raters.careless}
