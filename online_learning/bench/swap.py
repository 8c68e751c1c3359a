"""`rejoinder bench swap-service`: new versions while replies are being written; every reply whole, in order, by one version.

The versions differ in random LoRA weights of both parts, sealed and probed as the learner does it. Afterwards every
stored reply is scored again under the version it names: words of two versions could not both fit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
import websockets
from tqdm import tqdm

from bot.conversation import BASE_VERSION, Decision
from bot.domain import Domain, load_domain
from bot.feedback.store import ConversationFilter, Store
from bot.identity import home_secret
from bot.policy.adapters import AdapterStore
from bot.policy.causal import CausalPart
from bot.policy.download import find_or_fetch
from bot.policy.encoder import EncoderPart
from bot.policy.model import PolicyModel
from bot.settings import Settings
from online_learning.bench.product import options_of, percentiles, questions_of, supervised, throw_away
from online_learning.config import LearnerConfig
from online_learning.evaluate import Question
from online_learning.evidence import rescore
from online_learning.publish import publish
from online_learning.update import CURRENT, Learner

PERTURBATION = 0.02
"""Standard deviation of the random weights: enough to change what is said."""
SPOKEN_TIMEOUT_S = 300.0
"""For a new version to begin its first reply. The next swap waits for it, so that every version is heard while the
replies of older ones go on."""
NEAR_SWAP_S = 1.0
"""Gaps between two pieces of text that begin this soon after a swap count as the swap's."""
RESCORE_TOLERANCE = 1e-3
"""Beyond what the arithmetic of the written words may change."""
MAX_RESCORED = 100


@dataclass
class Stream:
    """One reply as a browser sees it."""

    message_id: str = ""
    versions: set[str] = field(default_factory=set)
    indexes: list[int] = field(default_factory=list)
    text: str = ""
    arrived: list[float] = field(default_factory=list)
    final: dict[str, Any] | None = None

    @property
    def is_in_order(self) -> bool:
        """Pieces counted from 0, each once; nothing after the whole message."""
        return self.indexes == list(range(len(self.indexes)))

    @property
    def is_mixed(self) -> bool:
        """More than one version in the pieces and the message."""
        return len(self.versions) != 1


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`--swaps N --streams M`; exit 1 when a reply was dropped, mixed or out of order."""
    with throw_away(settings, tiny=args.tiny) as home:
        questions = questions_of(args, load_domain(settings.domain))
        report = run(home, questions, args.swaps, args.streams, options_of(args))
    print(json.dumps(report))
    return int(bool(report["dropped"] or report["mixed"] or report["out_of_order"]))


def run(
    settings: Settings, questions: Sequence[Question], num_swaps: int, num_streams: int, options: Mapping[str, str]
) -> dict[str, Any]:
    """Swap `num_swaps` times under `num_streams` streams in an empty home; the report."""
    domain = load_domain(settings.domain)
    adapters = AdapterStore(settings.adapters, home_secret(settings.home))
    learner = learner_of(settings)
    versions = [random_version(adapters, learner, domain, settings, seed) for seed in range(num_swaps)]
    with supervised(settings, options, learn=False):
        streams, swaps = asyncio.run(_swap_under_streams(settings, adapters, questions, versions, num_streams))
    told = [stream for stream in streams if stream.final is not None]
    written = [stream for stream in told if len(stream.indexes) > 1]
    errors = _rescored(settings, learner, adapters, {str(s.final["id"]) for s in written if s.final})
    near, far = _gaps(streams, [at for at, _ in swaps])
    return {
        "swaps": len(swaps),
        "streams": num_streams,
        "replies": len(streams),
        "written": len(written),
        "versions_heard": len({version for stream in told for version in stream.versions}),
        "dropped": len(streams) - len(told),
        "mixed": sum(stream.is_mixed for stream in told) + sum(error > RESCORE_TOLERANCE for error in errors),
        "out_of_order": sum(not stream.is_in_order for stream in told),
        "rescored": len(errors),
        "rescore_error": max(errors, default=0.0),
        "swap_s": percentiles([took for _, took in swaps]),
        "gap_ms": percentiles(far, 1000, (50, 99)),
        "gap_ms_at_swap": percentiles(near, 1000, (50, 99)),
        "added_ms_p99": _added(near, far),
    }


def _added(near: Sequence[float], far: Sequence[float]) -> float | None:
    at_swap, otherwise = percentiles(near, 1000, (99,))["p99"], percentiles(far, 1000, (99,))["p99"]
    return None if at_swap is None or otherwise is None else round(at_swap - otherwise, 2)


# --- versions ---------------------------------------------------------------------------------------------------------
def learner_of(settings: Settings) -> Learner:
    """A learner with both models of the settings."""
    model = PolicyModel(EncoderPart(Path(find_or_fetch("encoder", settings))))
    return Learner(model, LearnerConfig(), CausalPart(find_or_fetch("causal", settings)))


def random_version(adapters: AdapterStore, learner: Learner, domain: Domain, settings: Settings, seed: int) -> str:
    """Publish a version of random weights, probed as any other."""
    generator = torch.Generator().manual_seed(seed)
    for part in learner.adapted.values():
        weights = part.weights(CURRENT)
        noise = {
            name: PERTURBATION * torch.randn(tensor.shape, generator=generator) for name, tensor in weights.items()
        }
        part.set_weights(CURRENT, {name: noise[name].to(tensor) for name, tensor in weights.items()})
    return publish(
        adapters,
        learner,
        domain,
        temperature=settings.policy.temperature,
        parent=BASE_VERSION,
        rules_hash="",
        lineage={"seed": seed},
        gate={},
    )


def _rescored(settings: Settings, learner: Learner, adapters: AdapterStore, message_ids: set[str]) -> list[float]:
    """How far the stored replies are from what their version would have said, in nats."""
    with Store(settings.database, readonly=True) as store:
        found = [decision for decision in _written(store, message_ids) if decision.generated is not None]
    spread = found[:: max(1, len(found) // MAX_RESCORED)]
    return list(rescore(learner, adapters, spread, "").values())


def _written(store: Store, message_ids: set[str]) -> list[Decision]:
    chats = [row.conversation.id for row in store.list_conversations(ConversationFilter(limit=1_000_000))]
    messages = [message for chat in chats for message in store.messages(chat) if message.id in message_ids]
    return list(store.decisions(message.decision_id for message in messages).values())


# --- streams ----------------------------------------------------------------------------------------------------------
async def _swap_under_streams(
    settings: Settings, adapters: AdapterStore, questions: Sequence[Question], versions: Sequence[str], num_streams: int
) -> tuple[list[Stream], list[tuple[float, float]]]:
    """All replies, and (when, seconds until new replies come from it) of each swap."""
    over, warm = asyncio.Event(), asyncio.Semaphore(0)
    heard: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
    streaming = [
        asyncio.create_task(_stream(settings.port, questions[i::num_streams] or questions, over, warm, heard))
        for i in range(num_streams)
    ]
    for _ in range(num_streams):  # every stream has had a whole reply: the models are loaded
        await warm.acquire()
    swaps = []
    async with _Watcher(settings.port) as watcher:
        for version in tqdm(versions, unit="swap", file=sys.stderr, disable=None):
            promoted_at = time.monotonic()
            await asyncio.to_thread(adapters.set_champion, version, "benchmark", "bench")
            await watcher.hear(version)
            swaps.append((promoted_at, time.monotonic() - promoted_at))
            async with asyncio.timeout(SPOKEN_TIMEOUT_S):
                await heard[version].wait()
    over.set()
    return [stream for streams in await asyncio.gather(*streaming) for stream in streams], swaps


async def _stream(
    port: int,
    questions: Sequence[Question],
    over: asyncio.Event,
    warm: asyncio.Semaphore,
    heard: Mapping[str, asyncio.Event],
) -> list[Stream]:
    """One person who asks on and on for generated replies, in conversations of five turns. Sets `heard[version]` as it
    goes: the swaps are paced by it."""
    found: list[Stream] = []
    while not over.is_set():
        async with websockets.connect(_url(port), compression=None, max_size=1 << 22) as socket:
            await socket.send(json.dumps({"type": "hello", "protocol": 1, "reply": "generated"}))
            for turn in range(5):
                asked = questions[(len(found) + turn) % len(questions)]
                await socket.send(json.dumps({"type": "message", "client_id": f"q{turn}", "text": asked.text}))
                found.append(await _hear_reply(socket, heard))
                if turn == 0 and len(found) == 1:
                    warm.release()
                if over.is_set() or found[-1].final is None or found[-1].final["act"] == "handoff":
                    break
    return found


async def _hear_reply(socket: websockets.ClientConnection, heard: Mapping[str, asyncio.Event]) -> Stream:
    stream = Stream()
    try:
        async with asyncio.timeout(300):
            async for raw in socket:
                frame = json.loads(raw)
                if frame["type"] == "delta":
                    stream.message_id = stream.message_id or frame["message_id"]
                    stream.versions.add(frame["version"])
                    heard[frame["version"]].set()
                    stream.indexes.append(frame["index"] if frame["message_id"] == stream.message_id else -1)
                    stream.text += frame["text"]
                    stream.arrived.append(time.monotonic())
                elif frame["type"] == "message" and frame["message"]["id"] == stream.message_id:
                    stream.versions.add(frame["message"]["version"])
                    stream.final = frame["message"]
                    return stream
                elif frame["type"] == "error":
                    return stream
    except (TimeoutError, websockets.WebSocketException):
        pass
    return stream


class _Watcher:
    """A page that only listens for versions."""

    def __init__(self, port: int) -> None:
        self._connecting = websockets.connect(_url(port), compression=None)

    async def __aenter__(self) -> Self:
        self._socket = await self._connecting.__aenter__()
        await self._socket.send(json.dumps({"type": "hello", "protocol": 1}))
        self._version = json.loads(await self._socket.recv())["version"]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._socket.close()

    async def hear(self, version: str) -> None:
        """Wait until new replies come from `version`. Raises TimeoutError."""
        async with asyncio.timeout(120):
            while self._version != version:
                frame = json.loads(await self._socket.recv())
                self._version = frame["version"] if frame["type"] == "version" else self._version


def _url(port: int) -> str:
    return f"ws://127.0.0.1:{port}/ws/chat"


def _gaps(streams: Sequence[Stream], swaps: Sequence[float]) -> tuple[list[float], list[float]]:
    """Seconds between neighbouring pieces: those with a swap in or shortly before them, and the others."""
    near: list[float] = []
    far: list[float] = []
    for stream in streams:
        for before, after in pairwise(stream.arrived):
            is_near = any(before - NEAR_SWAP_S <= at <= after for at in swaps)
            (near if is_near else far).append(after - before)
    return near, far
