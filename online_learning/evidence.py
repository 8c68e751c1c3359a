"""What the gate is shown: held-out choices under three policies, distances, and whether stored rows re-score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bot.conversation import BASE_VERSION, TEXT_ROUNDING, Decision, Generated
from bot.errors import AdapterError, NotFound
from bot.feedback.desk_records import Judged
from bot.feedback.store import Rated, Store
from bot.policy.adapted import BASE
from bot.policy.adapters import AdapterStore
from bot.policy.weights import read_version
from online_learning.batch import logged_choices
from online_learning.gate import Evidence, HeldOut, TestResults
from online_learning.preferences import Places, Preference, Source, margins, preference
from online_learning.reach import mean_kl
from online_learning.statistics import Floats
from online_learning.update import CURRENT, Learner

RESCORE = "rescore"
"""Adapter name under which an older version is loaded to re-score its rows."""


def rescore(
    learner: Learner,
    adapters: AdapterStore,
    decisions: Sequence[Decision],
    current_version: str,
    text_slack: float = 0.0,
) -> dict[str, float]:
    """Largest |stored - recomputed| log-probability of each row under the row's own version, in nats (invariant 1), less
    what the arithmetic of written words alone may change.

    Of generated text only what is beyond `text_slack` counts. Infinite where the version is gone or cannot be trusted, or no
    causal model is loaded for generated text.
    """
    errors: dict[str, float] = {}
    by_version: defaultdict[str, list[Decision]] = defaultdict(list)
    for decision in decisions:
        by_version[decision.version].append(decision)
    for version, rows in by_version.items():
        try:
            with _loaded(learner, adapters, version, current_version) as adapter:
                found = _errors(learner, rows, adapter, text_slack)
                errors |= {row.id: error for row, error in zip(rows, found, strict=True)}
        except (AdapterError, NotFound):
            errors |= {row.id: float("inf") for row in rows}
    return errors


@contextmanager
def _loaded(learner: Learner, adapters: AdapterStore, version: str, current_version: str) -> Iterator[str]:
    """The adapter name to score a version's rows with."""
    if version in (BASE_VERSION, current_version):
        yield BASE if version == BASE_VERSION else CURRENT
        return
    files = read_version(adapters, version)
    parts = {"encoder": (files.encoder, files.encoder_config), "causal": (files.causal, files.causal_config)}
    loaded = []
    try:
        for name, (weights, config) in parts.items():
            if name in learner.adapted and weights is not None and config is not None:
                learner.adapted[name].load(RESCORE, config, weights)
                loaded.append(name)
        if files.cases is not None:
            learner.model.cases[RESCORE] = files.cases.to(learner.model.encoder.device)
        yield RESCORE
    finally:
        learner.model.cases.pop(RESCORE, None)
        for name in loaded:
            learner.adapted[name].delete(RESCORE)


def _errors(learner: Learner, rows: Sequence[Decision], adapter: str, text_slack: float) -> list[float]:
    acts = [
        _largest_gap(torch.tensor(row.logprobs), logprobs_A.cpu())
        for row, logprobs_A in zip(rows, learner.score(rows, adapter), strict=True)
    ]
    texts = _text_errors(learner, {row.id: row.generated for row in rows if row.generated is not None}, adapter)
    return [max(error, texts.get(row.id, 0.0) - text_slack) for error, row in zip(acts, rows, strict=True)]


@torch.no_grad()
def _text_errors(learner: Learner, written: Mapping[str, Generated], adapter: str) -> dict[str, float]:
    """By decision id; a few texts of like length at a time."""
    writer, size = learner.writer, learner.config.text_batch_size
    if writer is None:
        return dict.fromkeys(written, float("inf"))
    name = adapter if adapter in writer.model.names else BASE
    order, errors = sorted(written, key=lambda key: len(written[key].token_ids)), dict[str, float]()
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        logprobs_B_T = writer.token_logprobs([written[key] for key in batch], [name] * len(batch))[0].cpu()
        for key, logprobs_T in zip(batch, logprobs_B_T, strict=True):
            stored_T = torch.tensor(written[key].logprobs)
            gap = _largest_gap(stored_T, logprobs_T[: len(stored_T)])
            errors[key] = max(0.0, gap - TEXT_ROUNDING[written[key].dtype])
    return errors


def _largest_gap(stored: Tensor, recomputed: Tensor, floor: float = -20.0) -> float:
    """Where both say "never" (below exp(floor)) their difference means nothing."""
    gap = (stored.double().clamp(min=floor) - recomputed.double().clamp(min=floor)).abs().max()
    return float(gap) if bool(torch.isfinite(gap)) else float("inf")


def held_out(
    rows: Sequence[Rated], candidate: Sequence[Tensor], champion: Sequence[Tensor], start: Sequence[Tensor]
) -> HeldOut | None:
    """The gate's rows under the three policies; None without rows."""
    if not rows:
        return None
    logs = logged_choices(rows)
    width = logs.behaviour_B_A.shape[1]
    return HeldOut(logs, _table(candidate, width), _table(champion, width), _table(start, width))


def _table(rows: Sequence[Tensor], width: int) -> Floats:
    probabilities_B_A = np.zeros((len(rows), width))
    for i, logprobs_A in enumerate(rows):
        probabilities_B_A[i, : len(logprobs_A)] = logprobs_A.double().exp().cpu().numpy()
    return probabilities_B_A


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Operators' verdicts on stored questions, newest first, and how the champion stood to them before the update."""

    decisions: Sequence[Decision] = ()
    places: Sequence[Places] = ()
    sources: Sequence[Source] = ()
    champion: Sequence[float] = ()
    """Margins."""


def hear_verdicts(
    learner: Learner, store: Store, since: float, rescoring: Callable[[Sequence[Decision]], Sequence[Decision]]
) -> Verdicts:
    """The verdicts since then (epoch s), of each author the newest on a question and pair of acts, scored under the champion
    (CURRENT before the update). `rescoring`: those of some decisions that re-score; the others are passed over."""
    judged: dict[tuple[str, Source], Judged] = {}
    for found in store.desk.judged(since):
        source = Source(frozenset((found.better, found.worse)), found.author)
        judged.setdefault((found.decision_id, source), found)
    stored = store.decisions(found.decision_id for found in judged.values())
    sound = {decision.id: decision for decision in rescoring(list(stored.values()))}
    decisions, places, sources = [], [], []
    for (decision_id, source), found in judged.items():
        acts = [act.act for act in sound[decision_id].legal] if decision_id in sound else []
        if source.topic <= set(acts):
            decisions.append(sound[decision_id])
            places.append(Places(acts.index(found.better), acts.index(found.worse)))
            sources.append(source)
    return Verdicts(decisions, places, sources, _margins(learner.score(decisions, CURRENT), places))


def _margins(scores: Sequence[Tensor], places: Sequence[Places]) -> list[float]:
    return margins([logprobs_A.double().cpu().numpy() for logprobs_A in scores], places)


def _preferences(learner: Learner, verdicts: Verdicts) -> dict[str, Preference]:
    """The candidate (CURRENT) against champion and start; empty without verdicts."""
    if not verdicts.decisions:
        return {}
    candidate = np.array(_margins(learner.score(verdicts.decisions, CURRENT), verdicts.places))
    start = np.array(_margins(learner.start_scores(verdicts.decisions), verdicts.places))
    return {
        "champion": preference(candidate, np.array(verdicts.champion), verdicts.sources),
        "start": preference(candidate, start, verdicts.sources),
    }


def collect_evidence(
    learner: Learner,
    rows: Sequence[Rated],
    recent: Sequence[Decision],
    champion_scores: Mapping[str, Sequence[Tensor]],
    tests: tuple[TestResults, TestResults],
    must_pass: frozenset[str],
    rescore_error: float,
    verdicts: Verdicts,
) -> Evidence:
    """Score the candidate (CURRENT) and put it beside what was scored before the update.

    `champion_scores`: `held_out` and `recent` -> log-probabilities under the champion; `tests`: candidate's, champion's.
    """
    decisions = [row.decision for row in rows]
    on_recent = learner.score(recent, CURRENT, leave_out_own=True)
    return Evidence(
        held_out=held_out(
            rows, learner.score(decisions, CURRENT), champion_scores["held_out"], learner.start_scores(decisions)
        ),
        candidate_tests=tests[0],
        champion_tests=tests[1],
        must_pass=must_pass,
        kl_start=mean_kl(on_recent, learner.start_scores(recent)),
        kl_champion=mean_kl(on_recent, champion_scores["recent"]),
        weights_finite=learner.is_finite(),
        rescore_error=rescore_error,
        verdicts=_preferences(learner, verdicts),
    )
