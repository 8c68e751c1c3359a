"""`rejoinder bench peft`: ways of adapting the encoder's linear layers, on one stream of thumbs.

    rejoinder bench peft --kb K --online F --eval E --thumbs 512 --json

1. the fresh install answers the questions, drawing its acts; each reply gets an honest thumb;
2. every method starts anew and learns from the same rows, in the same order and batches, by the recipe for all layers;
3. each is judged on questions that nobody asked; differences are paired with LoRA's answers.

IA3 is measured here though no server offers it: PEFT hangs one kind of tuner into a model, and a home has LoRA versions.
Prefix tuning is not: see NOT_MEASURED.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import IA3Config, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from bot.conversation import Decision
from bot.domain import Domain, load_domain
from bot.errors import ConfigError
from bot.policy.adapted import BASE, AdaptedModel
from bot.policy.download import find_or_fetch
from bot.policy.encoder import EncoderPart
from bot.policy.model import ActRow, PolicyModel, draw
from bot.settings import Settings
from online_learning.advantages import Credit
from online_learning.config import DEEP, LearnerConfig
from online_learning.evaluate import Question, Scores, load_questions, mean_ci, scores_of, with_knowledge
from online_learning.offline import OfflinePolicy
from online_learning.statistics import paired_difference, seeded
from online_learning.update import CURRENT, Learner

THUMBS_PER_UPDATE = 32
LEARNING_RATES: Mapping[str, float] = {"lora": 3e-4, "rslora": 3e-4, "dora": 3e-4, "ia3": 3e-3}
"""IA3 has a hundredth of the parameters and takes larger steps (3e-3 in arXiv 2205.05638); the others differ in scale only."""
NOT_MEASURED: Mapping[str, str] = {
    "prefix": "PEFT gives every row of a batch the active adapter's prefix, whatever `adapter_names` says: versions cannot mix"
}


class IA3Model(AdaptedModel):
    """The base with IA3 in place of LoRA: learned factors of what a layer puts out, or takes in (arXiv 2205.05638)."""

    def create(self, name: str, _config: Any, *, trainable: bool = False) -> None:
        """Add the one adapter; it changes nothing yet (all factors are 1)."""
        inputs = sorted(layer for layer in self._linear if layer.endswith("output.dense") and "attention" not in layer)
        config = IA3Config(target_modules=sorted(self._linear), feedforward_modules=inputs)
        self._peft = get_peft_model(self._base, config, adapter_name=name).eval()
        self._lora_layers = [layer for layer in self._peft.modules() if isinstance(layer, BaseTunerLayer)]  # type: ignore[misc]
        for parameter in self.parameters(name).values():
            parameter.requires_grad_(trainable)

    def config(self, name: str) -> Any:
        """The adapter's config."""
        return self._need().peft_config[name]


class IA3Encoder(EncoderPart):
    """The encoder part with IA3."""

    def __init__(self, folder: Path, *, device: torch.device | None = None) -> None:
        super().__init__(folder, device=device)
        self.model = IA3Model(self._base)


@dataclass(frozen=True, slots=True)
class Logged:
    """What every method learns from and is judged by."""

    earned: tuple[Credit, ...]
    judged: Sequence[Question]
    judged_rows: Sequence[ActRow]


def main(settings: Settings, args: argparse.Namespace) -> int:
    """Measure every method; prints one JSON object."""
    online = args.online or args.dataset
    if online is None or args.eval is None:
        raise ConfigError("bench peft: expected --online F.jsonl and --eval F.jsonl, got one of them or none")
    domain = with_knowledge(load_domain(settings.domain), args.kb)
    asked, judged = (load_questions(path, list(domain.articles)) for path in (online, args.eval))
    thumbs = args.thumbs or len(asked)
    if len(asked) < thumbs:
        raise ConfigError(f"{online}: expected {thumbs} rows or more, got {len(asked)}")
    report = measure(settings, domain, asked[:thumbs], judged)
    print(json.dumps(report) if args.json else _table(report))
    return 0


def measure(
    settings: Settings, domain: Domain, asked: Sequence[Question], judged: Sequence[Question]
) -> dict[str, Any]:
    """Every method on the same rows."""
    torch.set_num_threads(settings.learn.threads or torch.get_num_threads())
    folder, seed = find_or_fetch("encoder", settings), settings.seed or 0
    model = PolicyModel(EncoderPart(folder))
    offline = OfflinePolicy(model, domain, settings)
    logged = log_stream(model, offline, asked, judged, seed)
    start = scores_of(judged, offline.outlooks(logged.judged_rows, BASE), BASE)
    found: dict[str, dict[str, Any]] = {}
    scores: dict[str, Scores] = {}
    for method in LEARNING_RATES:
        learner, update_s = learned(folder, method, logged, seed)
        outlooks = OfflinePolicy(learner.model, domain, settings).outlooks(logged.judged_rows, CURRENT)
        scores[method] = scores_of(judged, outlooks, method)
        found[method] = _figures(learner, scores[method], scores["lora"], seed) | {"update_s": round(update_s, 2)}
        print(f"{method}: {found[method]}", file=sys.stderr)
    return {
        "thumbs": len(logged.earned),
        "n": len(judged),
        "start": round(float(start.right.mean()), 4),
        "methods": found,
        "not_measured": dict(NOT_MEASURED),
    }


# --- the stream -------------------------------------------------------------------------------------------------------
@torch.no_grad()
def log_stream(
    model: PolicyModel, offline: OfflinePolicy, asked: Sequence[Question], judged: Sequence[Question], seed: int
) -> Logged:
    """What the fresh install answers, with honest thumbs, in a random order; and the questions that judge."""
    order = seeded(seed, "peft order").permutation(len(asked))
    questions = [asked[i] for i in order]
    rows = [_answers_only(row) for row in offline.rows([question.text for question in questions])]
    earned = [
        _rated(model, i, question, row, seed) for i, (question, row) in enumerate(zip(questions, rows, strict=True))
    ]
    judged_rows = [_answers_only(row) for row in offline.rows([question.text for question in judged])]
    return Logged(tuple(earned), judged, judged_rows)


def _answers_only(row: ActRow) -> ActRow:
    return replace(row, legal=tuple(act for act in row.legal if act.act.startswith("answer:")))


def _rated(model: PolicyModel, number: int, question: Question, row: ActRow, seed: int) -> Credit:
    """One reply of the fresh install with its thumb: 1 or -1 above the recipe's baseline."""
    logprobs_A = model.score([row], [BASE]).logprobs_B_A[0]
    chosen = draw(logprobs_A.double(), int(seeded(seed, f"peft {number}").integers(2**62)))
    decision = Decision(
        id=f"d{number}", conversation_id=f"c{number}", person_id=f"p{number}", turn=1, created_at=0.0,
        query=question.text, query_ids=row.query_ids, prompt="", legal=row.legal, logprobs=tuple(logprobs_A.tolist()),
        chosen=chosen, mode=int(logprobs_A.argmax()), value=0.0, version=BASE, parts=("encoder",),
        temperature=row.temperature, knowledge_revision="bench",
    )  # fmt: skip
    reward = 1.0 if decision.act == f"answer:{question.answer}" else -1.0
    return Credit(decision, reward - (DEEP.baseline or 0.0), reward)


# --- one method -------------------------------------------------------------------------------------------------------
def learned(folder: Path, method: str, logged: Logged, seed: int) -> tuple[Learner, float]:
    """A learner that has seen the whole stream, and the mean seconds of its updates."""
    torch.manual_seed(seed)
    learner = Learner(PolicyModel((IA3Encoder if method == "ia3" else EncoderPart)(folder)), recipe(method))
    rng, took_s = seeded(seed, "peft updates"), []
    for until in range(THUMBS_PER_UPDATE, len(logged.earned) + 1, THUMBS_PER_UPDATE):
        rows = _drawn(logged.earned, until, learner.config.rows_per_update, rng)
        began = time.perf_counter()
        learner.update(rows, rng, lambda *_: None)
        took_s.append(time.perf_counter() - began)
    return learner, float(np.mean(took_s))


def recipe(method: str) -> LearnerConfig:
    """The recipe for all linear layers, at the method's step size."""
    return replace(DEEP, peft=method if method != "ia3" else "lora", learning_rate=LEARNING_RATES[method])


def _drawn(earned: Sequence[Credit], until: int, count: int, rng: np.random.Generator) -> list[Credit]:
    """The fresh rows and a random share of the older."""
    older = rng.permutation(until - THUMBS_PER_UPDATE)[: count - THUMBS_PER_UPDATE]
    return [*(earned[i] for i in older), *earned[until - THUMBS_PER_UPDATE : until]]


def _figures(learner: Learner, scores: Scores, lora: Scores, seed: int) -> dict[str, Any]:
    found = paired_difference(scores.right, lora.right, seeded(seed, "peft"))
    weights = learner.model.encoder.model.weights(CURRENT).values()
    return {
        "accuracy": round(float(scores.right.mean()), 4),
        "ci": mean_ci(scores.right),
        "accuracy_served": round(float(scores.served.mean()), 4),
        "beside_lora": round(found.mean, 4),
        "diff_ci": [round(found.lo, 4), round(found.hi, 4)],
        "parameters": sum(tensor.numel() for tensor in weights),
        "adapter_mb": round(sum(tensor.numel() * tensor.element_size() for tensor in weights) / 2**20, 2),
        "learning_rate": learner.config.learning_rate,
    }


def _table(report: Mapping[str, Any]) -> str:
    lines = [f"{report['thumbs']} thumbs; the start is right {report['start']:.1%} of {report['n']} times"]
    for name, found in report["methods"].items():
        low, high = found["diff_ci"]
        lines.append(
            f"{name:>7}  {found['accuracy']:.1%}, beside LoRA {found['beside_lora']:+.1%} [{low:+.1%}, {high:+.1%}], "
            f"{found['update_s']:.1f} s an update, {found['adapter_mb']:.2f} MB"
        )
    return "\n".join(lines)
