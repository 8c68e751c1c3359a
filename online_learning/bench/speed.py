"""`rejoinder bench speed`: what an update costs, beside what it is compared with, in one run.

    rejoinder bench speed --decisions 1000000 --repeats 5 --json

1. *encoder*: thumbs a second of whole updates (settle, draw, check, train, gate, publish, commit) on a real store, by the
   default recipe and by LoRA on all linear layers, taking turns;
2. *causal*: rows a second of one text update, the learner's and a plain implementation's, taking turns; their share of a
   matrix product's speed measured in between; peak memory, each in a process of its own;
3. *store*: what an update and its reads cost as the store grows.

Medians over repeats; what is compared took turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from bot.conversation import Decision
from bot.domain import load_domain
from bot.policy.causal import CausalPart
from bot.policy.download import find_or_fetch
from bot.policy.encoder import EncoderPart
from bot.policy.model import PolicyModel
from bot.settings import Settings
from online_learning.advantages import Credit
from online_learning.bench import speed_rows, speed_text
from online_learning.bench.product import questions_of, throw_away
from online_learning.bench.speed_store import Cost, TimedLoop, TimedStore, fill
from online_learning.config import DEEP, LearnerConfig
from online_learning.evaluate import Question
from online_learning.offline import OfflinePolicy
from online_learning.process import build_loop, config_of

SMALLEST = 1000
"""Decisions in the smallest store."""
SAME_WINDOW, SAME_WORK = 700, replace(LearnerConfig(), holdout_rows=100)
"""So few rows that the smallest store has as many to learn from and to judge by as the largest."""
PEAK_SIZE = 2048
_RESIDENT = re.compile(r"VmHWM:\s+(\d+) kB")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    num_decisions: int
    """In the largest store."""
    num_repeats: int
    num_copied: int = 1024
    """Different decisions that a filled store is made of."""
    num_stored: int = 4096
    """Decisions behind the update of the encoder part: more than its replay window."""
    num_texts: int = 16
    """Written replies of a timed text update; a real one has up to 48, and shares more of its prompts."""


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`--decisions` in the largest store, `--repeats` of each timing."""
    with throw_away(settings, tiny=args.tiny) as home:
        learn = replace(home.learn, settle_s=0.0, threads=home.learn.threads or os.cpu_count() or 1, holdout_share=0.15)
        questions = questions_of(args, load_domain(home.domain))
        report = run(replace(home, learn=learn), questions, Plan(args.decisions, args.repeats, num_texts=args.texts))
    print(json.dumps(report) if args.json else _summary(report))
    return 0


def run(settings: Settings, questions: Sequence[Question], plan: Plan) -> dict[str, Any]:
    """The whole report."""
    torch.set_num_threads(settings.learn.threads)
    torch.manual_seed(settings.seed or 0)
    domain, seed = load_domain(settings.domain), settings.seed or 0
    model = PolicyModel(EncoderPart(find_or_fetch("encoder", settings)))
    policy = OfflinePolicy(model, domain, settings)
    asked = speed_rows.distinct(questions, 100 * len(questions), seed)
    like = list(speed_rows.decisions(model, policy, asked[: plan.num_copied], seed))
    fresh = speed_rows.decisions(model, policy, asked[plan.num_copied :], seed, batch_size=32)
    report: dict[str, Any] = {"threads": settings.learn.threads}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "encoder": lambda: encoder_report(settings, like, fresh, plan),
        "store": lambda: store_report(settings, like, fresh, plan),
        "causal": lambda: causal_report(settings, model, like, asked, plan),
    }
    for name, measure in parts.items():
        report[name] = measure()
        print(f"{name}: {json.dumps(report[name])}", file=sys.stderr, flush=True)
    return report


# --- the encoder part -------------------------------------------------------------------------------------------------
def encoder_report(
    settings: Settings, like: Sequence[Decision], fresh: Iterator[Decision], plan: Plan
) -> dict[str, Any]:
    """Whole updates by the default recipe and by `layers: all`, each on a home of its own, in turns."""
    recipes = {"head": LearnerConfig(), "all": DEEP}
    with (
        timed_loop(settings, "head", recipes["head"], like, plan.num_stored) as head,
        timed_loop(settings, "all", recipes["all"], like, plan.num_stored) as every,
    ):
        loops, costs = {"head": head, "all": every}, dict[str, list[Cost]]({"head": [], "all": []})
        for _ in _progress("encoder", plan.num_repeats + 1):
            for name, loop in loops.items():
                costs[name].append(loop.update(fresh))
    num_thumbs = settings.learn.update_every
    # The first of each checked and embedded what was never seen before.
    found: dict[str, Any] = {name: _encoder_cost(costs[name][1:], num_thumbs, recipes[name]) for name in recipes}
    return found | {"speedup": _ratio(found["head"]["thumbs_per_second"], found["all"]["thumbs_per_second"])}


@contextmanager
def timed_loop(
    settings: Settings, name: str, config: LearnerConfig, like: Sequence[Decision], num_stored: int
) -> Iterator[TimedLoop]:
    """The loop of a home of its own, whose store holds so many decisions; 0: none yet."""
    settings = replace(settings, home=settings.home / name)
    if num_stored:
        fill(settings.database, like, 0, num_stored)
    with TimedStore(settings.database) as store:
        loop = build_loop(settings, store, config)
        loop.resume()
        yield TimedLoop(loop, store)
        loop.metrics_log.close()


def _encoder_cost(costs: Sequence[Cost], num_thumbs: int, config: LearnerConfig) -> dict[str, Any]:
    step_s = median(cost.step_s for cost in costs)
    return {
        "update_s": round(step_s, 3),
        "thumbs_per_second": round(num_thumbs / step_s, 2),
        "rows_replayed": config.rows_per_update,
        "epochs": config.epochs,
    }


# --- the causal part --------------------------------------------------------------------------------------------------
def causal_report(
    settings: Settings, model: PolicyModel, like: Sequence[Decision], asked: Sequence[Question], plan: Plan
) -> dict[str, Any]:
    """Text updates of the learner and of the plain implementation, in turns, with a matrix product between them."""
    config, writer = config_of(settings), CausalPart(find_or_fetch("causal", settings))
    rows = text_rows(settings, writer, like, asked[: plan.num_texts])
    updates = {
        "learner": speed_text.our_update(model, writer, rows, config),
        "plain": speed_text.plain_update(writer, rows, config),
    }
    taken: dict[str, list[float]] = {name: [] for name in updates}
    peaks: list[float] = []
    for _ in _progress("causal", plan.num_repeats):
        for name, update in updates.items():
            peaks.append(matmul_peak(model.encoder.device))
            taken[name].append(speed_text.seconds(update))
    weights = speed_text.Weights.of(writer)
    flops = {
        "learner": speed_text.our_flops(rows, weights, config, len(writer.header_ids)),
        "plain": speed_text.plain_flops(rows, weights, config),
    }
    memory = peak_memory(settings, rows)
    found: dict[str, Any] = {
        name: {
            "update_s": round(median(taken[name]), 2),
            "rows_per_second": round(len(rows) / median(taken[name]), 3),
            "tflop": round(flops[name] / 1e12, 3),
            "share_of_peak": round(flops[name] / median(taken[name]) / median(peaks), 3),
            "peak_mib": memory[name],
        }
        for name in updates
    }
    lengths = [(len(row.prompt_ids), len(row.token_ids)) for row in map(speed_text.written, rows)]
    return found | {
        "speedup": _ratio(median(taken["plain"]), median(taken["learner"])),
        "speedup_by_turn": [_ratio(a, b) for a, b in zip(taken["plain"], taken["learner"], strict=True)],
        "loaded_mib": memory["loaded"],
        "peak_gflops": round(median(peaks) / 1e9, 1),
        "rows": len(rows),
        "prompt_tokens": round(sum(prompt for prompt, _ in lengths) / len(rows), 1),
        "reply_tokens": round(sum(reply for _, reply in lengths) / len(rows), 1),
    }


def text_rows(
    settings: Settings, writer: CausalPart, like: Sequence[Decision], asked: Sequence[Question]
) -> list[Credit]:
    """Decisions with replies, two in three liked."""
    policy = settings.policy
    said = speed_rows.replies(
        writer, load_domain(settings.domain), asked, policy.text_temperature, policy.max_reply_tokens
    )
    written = [replace(decision, generated=reply) for decision, reply in zip(like, said, strict=False)]
    return [Credit(decision, 1.0 if i % 3 else -1.0, 0.0) for i, decision in enumerate(written)]


def matmul_peak(device: torch.device, size: int = PEAK_SIZE, num_products: int = 3) -> float:
    """FLOP/s of square float32 products: the best of a few."""
    left, right = torch.randn(2, size, size, device=device)
    found = []
    for _ in range(num_products):
        began = time.perf_counter()
        float((left @ right)[0, 0])  # reading a number waits for a device that runs on by itself
        found.append(2 * size**3 / (time.perf_counter() - began))
    return max(found)


def peak_memory(settings: Settings, rows: Sequence[Credit]) -> dict[str, int]:
    """MiB resident at most in a process that loads the models and makes one text update, by implementation."""
    found: dict[str, int] = {}
    for name in ("learner", "plain"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found["loaded"], found[name] = pool.apply(_resident, (name, settings, list(rows)))
    return found


def _resident(name: str, settings: Settings, rows: list[Credit]) -> tuple[int, int]:
    """In the child: (when loaded, after one update)."""
    torch.set_num_threads(settings.learn.threads)
    model = PolicyModel(EncoderPart(find_or_fetch("encoder", settings)))
    writer, config = CausalPart(find_or_fetch("causal", settings)), config_of(settings)
    loaded = _highest_mib()
    if name == "plain":
        speed_text.plain_update(writer, rows, config)()
    else:
        speed_text.our_update(model, writer, rows, config)()
    return loaded, _highest_mib()


def _highest_mib() -> int:
    """The kernel's high-water mark of this process. Not `ru_maxrss`: a child inherits its parent's."""
    found = _RESIDENT.search(Path("/proc/self/status").read_text())
    assert found, "expected VmHWM in /proc/self/status"
    return int(found.group(1)) // 1024


# --- the store --------------------------------------------------------------------------------------------------------
def store_report(settings: Settings, like: Sequence[Decision], fresh: Iterator[Decision], plan: Plan) -> dict[str, Any]:
    """The same update on a store that grows tenfold each time."""
    settings = replace(settings, learn=replace(settings.learn, window=SAME_WINDOW))
    sizes, first, found = list(_sizes(plan.num_decisions)), 0, []
    with timed_loop(settings, "store", SAME_WORK, like, 0) as timed:
        for size in _progress("store", sizes):
            fill(timed.loop.settings.database, like, first, size)
            first = size
            timed.update(fresh)  # checks and embeds what was never seen before
            costs = [timed.update(fresh) for _ in range(plan.num_repeats)]
            found.append({"decisions": size, **_store_cost(costs)})
    names = ("update_s", "reads_ms")
    return {"sizes": found} | {f"{name}_ratio": _ratio(found[-1][name], found[0][name]) for name in names}


def _sizes(largest: int) -> Iterator[int]:
    size = min(SMALLEST, largest)
    while size < largest:
        yield size
        size *= 10
    yield largest


def _store_cost(costs: Sequence[Cost]) -> dict[str, Any]:
    return {
        "update_s": round(median(cost.step_s for cost in costs), 3),
        "reads_ms": round(1000 * median(cost.reads_s for cost in costs), 1),
        "slowest_read": costs[-1].slowest_read,
    }


# --- telling ----------------------------------------------------------------------------------------------------------
def _ratio(first: float, second: float) -> float:
    return round(first / second, 2)


def _progress(what: str, turns: int | Sequence[int]) -> Iterator[int]:
    steps = range(turns) if isinstance(turns, int) else turns
    yield from tqdm(steps, desc=what, file=sys.stderr, disable=None)


def _summary(report: Mapping[str, Any]) -> str:
    encoder, causal, store = report["encoder"], report["causal"], report["store"]
    sizes = ", ".join(f"{row['decisions']:,}: {row['update_s']} s" for row in store["sizes"])
    return "\n".join(
        [
            f"encoder: {encoder['head']['thumbs_per_second']} thumbs a second, {encoder['speedup']} times all layers",
            f"causal: {causal['learner']['rows_per_second']} rows a second, {causal['speedup']} times the plain way",
            f"an update by stored decisions: {sizes}",
        ]
    )
