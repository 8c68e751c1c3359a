"""`rejoinder bench reward`: how well a model of the thumb foresees ratings that people gave.

    rejoinder bench reward --dataset F.jsonl --json

Five folds by the rows' id: three train, one calibrates, one is judged, each in turn, so that every row is judged by a model
that saw no row of its id. `new_contexts` splits by the context's text instead: in logs the same question comes under many
ids. Beside it a constant, the reply's length, the cosine, and what the other raters of the same reply would have said.

Rows are one of three shapes, told apart by their fields:

    {"id", "context": text or [texts], "reply", "up": 0..1 or a list of them}
    {"i", "faq_q", "faq_a", "resp", "acc": [1..5, ...]}            DSTC9 track 1, human evaluation
    {"conversation_id", "context": JSON, "generation": JSON, "reward": 0 | 1}        Taskmaster TM-4
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bot.errors import ConfigError
from bot.policy.download import find_or_fetch
from bot.policy.encoder import EncoderPart
from bot.settings import Settings
from online_learning.reward_model import (
    auc,
    auc_interval,
    brier,
    calibration_error,
    features,
    fit_logistic,
    fit_reward_model,
)
from online_learning.statistics import Floats, seeded

NUM_FOLDS = 5
MIN_ROWS = 50
UP = 0.75
"""A rating from which on a reply counts as liked: 4 of 1..5."""
MAX_MESSAGES = 3
"""Newest messages of a context that are embedded, each cut to MAX_CHARS: the encoder reads 128 tokens."""
MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class RatedReply:
    """A reply in its context with what people said of it."""

    id: str
    context: str
    reply: str
    ratings: tuple[float, ...]
    """0..1, one a rater."""
    source: str = ""
    """What is true of the matter, where the row tells."""

    @property
    def ups(self) -> float:
        """Share of raters who liked it."""
        return float(np.mean([rating >= UP for rating in self.ratings]))


@dataclass(frozen=True, slots=True)
class Judged:
    """Out-of-fold probabilities [B]: calibrated, before calibration, and from the reply's length alone."""

    calibrated: Floats
    raw: Floats
    length: Floats


def main(settings: Settings, args: argparse.Namespace) -> int:
    """Measure one file; prints one JSON object."""
    if args.dataset is None:
        raise ConfigError("bench reward: expected --dataset F.jsonl, got nothing")
    rows = load_rated(args.dataset)
    encoder = EncoderPart(find_or_fetch("encoder", settings))
    report = {"dataset": args.dataset.name} | measure(encoder, rows, settings.seed or 0)
    print(json.dumps(report) if args.json else _summary(report))
    return 0


# --- rows -------------------------------------------------------------------------------------------------------------
def load_rated(path: Path) -> list[RatedReply]:
    """Read rated replies. Raises ConfigError naming file and line, and when there are too few rows or one kind of vote."""
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [_read(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if len(rows) < MIN_ROWS or len({row.id for row in rows}) < NUM_FOLDS:
        raise ConfigError(f"{path}: expected {MIN_ROWS} rows of {NUM_FOLDS} ids or more, got {len(rows)}")
    if len({rating >= UP for row in rows for rating in row.ratings}) < 2:
        raise ConfigError(f"{path}: expected replies that were liked and others that were not, got one kind")
    return rows


def _read(line: str, where: str) -> RatedReply:
    try:
        row = json.loads(line)
        found = _rated(row)
        if not (found.reply and found.ratings and all(0 <= rating <= 1 for rating in found.ratings)):
            raise ValueError(line)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f'{where}: expected {{"id", "context", "reply", "up"}}, got {line[:60]!r}') from error
    return found


def _rated(row: Mapping[str, Any]) -> RatedReply:
    if "acc" in row:
        ratings = tuple((score - 1) / 4 for score in row["acc"])
        return RatedReply(str(row["i"]), row["faq_q"], row["resp"], ratings, row["faq_a"])
    if "generation" in row:
        context = [_message(message) for message in json.loads(row["context"])]
        reply = _message(json.loads(row["generation"]))
        return RatedReply(row["conversation_id"], _newest(context), reply, (float(row["reward"]),))
    context = row["context"] if isinstance(row["context"], list) else [row["context"]]
    ups = row["up"] if isinstance(row["up"], list) else [row["up"]]
    return RatedReply(str(row["id"]), _newest(context), row["reply"].strip(), tuple(map(float, ups)))


def _message(message: Mapping[str, Any]) -> str:
    """What was said, or the call or answer of an interface as it stands."""
    if "text" in message:
        return str(message["text"])
    return json.dumps({key: value for key, value in message.items() if key != "role"})


def _newest(texts: Sequence[str]) -> str:
    return " ".join(text[:MAX_CHARS] for text in texts[-MAX_MESSAGES:])


# --- figures ----------------------------------------------------------------------------------------------------------
def measure(encoder: EncoderPart, rows: Sequence[RatedReply], seed: int) -> dict[str, Any]:
    """AUC, calibration and baselines, out of fold."""
    started = time.perf_counter()
    vectors = _embedded(encoder, rows)
    pairs = [(row.context, row.reply) for row in rows]
    seen_B_F = features(vectors["context"], vectors["reply"], pairs)
    ids, contexts = [row.id for row in rows], [row.context for row in rows]
    by_id = out_of_fold(seen_B_F, rows, ids, seed)
    by_context = out_of_fold(seen_B_F, rows, contexts, seed)
    cosine = (vectors["context"] * vectors["reply"]).sum(1).double().numpy()
    return (
        _figures(by_id, rows, ids, seed)
        | {"new_contexts": _figures(by_context, rows, contexts, seed), "num_contexts": len(set(contexts))}
        | {"baselines": _baselines(by_id, rows, cosine), **_with_source(vectors, rows, seed)}
        | {"seconds": round(time.perf_counter() - started, 1)}
    )


def _embedded(encoder: EncoderPart, rows: Sequence[RatedReply]) -> dict[str, Tensor]:
    """Unit vectors [B, D] of contexts, replies and sources; each text is embedded once."""
    columns = {name: [getattr(row, name) for row in rows] for name in ("context", "reply", "source")}
    texts = list(dict.fromkeys(text for column in columns.values() for text in column))
    place = {text: i for i, text in enumerate(texts)}
    vectors = encoder.embed_texts(texts).cpu()
    return {name: vectors[[place[text] for text in column]] for name, column in columns.items()}


def _with_source(vectors: Mapping[str, Tensor], rows: Sequence[RatedReply], seed: int) -> dict[str, Any]:
    """The same where the model is told what is true: an upper mark, since a bot does not know the right article."""
    if not all(row.source for row in rows):
        return {}
    pairs = [(f"{row.context} {row.source}", row.reply) for row in rows]
    ids = [row.id for row in rows]
    judged = out_of_fold(features(vectors["source"], vectors["reply"], pairs), rows, ids, seed)
    return {"told_the_truth": _figures(judged, rows, ids, seed)}


def out_of_fold(features_B_F: Tensor, rows: Sequence[RatedReply], groups: Sequence[str], seed: int) -> Judged:
    """Each row's probabilities by models that saw no row of its group."""
    ups_B = torch.tensor([row.ups for row in rows])
    length_B_1 = torch.tensor([[float(len(row.reply.split()))] for row in rows]).log1p()
    fold_B = torch.tensor([zlib.crc32(f"{seed} {group}".encode()) % NUM_FOLDS for group in groups])
    found = torch.zeros(3, len(rows))
    for fold in range(NUM_FOLDS):
        test, held = fold_B == fold, fold_B == (fold + 1) % NUM_FOLDS
        train = ~(test | held)
        model = fit_reward_model((features_B_F[train], ups_B[train]), (features_B_F[held], ups_B[held]))
        short = fit_logistic(length_B_1[train], ups_B[train], penalty=1e-6)
        found[0, test] = model.probability(features_B_F[test])
        found[1, test] = torch.sigmoid(model.logistic.logits(features_B_F[test]))
        found[2, test] = torch.sigmoid(short.logits(length_B_1[test]))
    calibrated, raw, length = found.double().numpy()
    return Judged(calibrated, raw, length)


def _figures(judged: Judged, rows: Sequence[RatedReply], clusters: Sequence[str], seed: int) -> dict[str, Any]:
    ups, votes = _votes(rows)
    found = auc_interval(judged.calibrated, ups, seeded(seed, "reward"), clusters, votes_B=votes)
    return {
        "n": len(rows),
        "votes": int(votes.sum()),
        "up": round(float(np.average(ups, weights=votes)), 4),
        "auc": round(found.mean, 4),
        "ci": [round(found.lo, 4), round(found.hi, 4)],
        "ece": round(calibration_error(judged.calibrated, ups, votes), 4),
        "ece_uncalibrated": round(calibration_error(judged.raw, ups, votes), 4),
        "brier": round(brier(judged.calibrated, ups, votes), 4),
    }


def _baselines(judged: Judged, rows: Sequence[RatedReply], cosine: Floats) -> dict[str, Any]:
    ups, votes = _votes(rows)
    constant = np.full(len(rows), np.average(ups, weights=votes))
    found: dict[str, Any] = {
        "constant": {"auc": 0.5, "brier": round(brier(constant, ups, votes), 4)},
        "length": {
            "auc": round(auc(judged.length, ups, votes), 4),
            "brier": round(brier(judged.length, ups, votes), 4),
        },
        "cosine": {"auc": round(auc(cosine, ups, votes), 4)},
    }
    if all(len(row.ratings) > 1 for row in rows):
        found["other_raters"] = {"auc": round(_auc_of_peers(rows), 4)}
    return found


def _auc_of_peers(rows: Sequence[RatedReply]) -> float:
    """How well the mean rating of a reply's other raters foresees one rater's vote: what people themselves reach."""
    votes = [
        ((sum(row.ratings) - rating) / (len(row.ratings) - 1), float(rating >= UP))
        for row in rows
        for rating in row.ratings
    ]
    others, ups = zip(*votes, strict=True)
    return auc(np.round(others, 6), ups)


def _votes(rows: Sequence[RatedReply]) -> tuple[Floats, Floats]:
    """(share of ups, number of votes) a row."""
    return np.array([row.ups for row in rows]), np.array([float(len(row.ratings)) for row in rows])


def _summary(report: Mapping[str, Any]) -> str:
    low, high = report["ci"]
    fresh, bases = report["new_contexts"], report["baselines"]
    return (
        f"{report['dataset']}: AUC {report['auc']:.3f} [{low:.3f}, {high:.3f}] on {report['n']} replies, calibration error "
        f"{report['ece']:.3f}; contexts never seen: AUC {fresh['auc']:.3f}; length alone {bases['length']['auc']:.3f}"
    )
