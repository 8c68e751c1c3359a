"""The composition root of the serving process: builds every part once, connects them, runs the server.

Parts never know this module. The pages are loaded by name, since `bot` must not import `ui`.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from bot.actions.executor import Actions
from bot.domain import Domain, load_domain
from bot.feedback.store import Store
from bot.identity import Identity, IdSource, holdout_key, home_secret, operator_key
from bot.knowledge.index import KnowledgeIndex
from bot.knowledge.library import Library, with_live_articles
from bot.knowledge.retrieval import Retriever
from bot.metrics import EngineCounts
from bot.policy.adapters import AdapterStore
from bot.policy.asking import NUM_RECENT, Asker
from bot.policy.download import find, find_or_fetch
from bot.policy.engine import Engine
from bot.policy.scripted import HashedWords, ScriptedPolicy
from bot.policy.types import Embedder, Policy
from bot.policy.vllm import VllmPolicy
from bot.policy.vllm_adapters import RemoteAdapters
from bot.policy.vllm_server import VllmServer
from bot.policy.vocabulary import Vocabulary
from bot.rollout import Rollout
from bot.service import AppParts, DrainingServer, create_app, exit_cleanly_on_sigterm, uvicorn_config
from bot.session import Session
from bot.settings import Settings
from bot.teaching import Teacher
from bot.tracing import tracing

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """The parts of a running server that others may ask for."""

    parts: AppParts
    session: Session
    policy: Policy
    retriever: Retriever


@dataclass(frozen=True, slots=True)
class Backend:
    """What decides and writes, and what embeds: by `engine.backend`."""

    policy: Policy
    embedder: Embedder
    words: Sequence[str] | None
    """Those that the embedder knows; None: questions are taken as they are typed."""
    counts: Callable[[], EngineCounts] = dict
    """What it counts by itself (`bot.metrics`)."""


def build_engine(settings: Settings, adapters: AdapterStore) -> Engine:
    """The models of the settings behind one engine; the causal one is loaded when first needed.

    Only one thread of the server computes with helpers (`bot.policy.threads`): who writes, or where nothing can be written, who
    chooses.
    """
    import torch

    from bot.policy.causal import CausalPart
    from bot.policy.encoder import EncoderPart
    from bot.policy.model import PolicyModel
    from bot.policy.threads import use_threads
    from bot.policy.voice import WriterOptions

    threads = settings.policy.threads or torch.get_num_threads()
    use_threads(1)
    encoder = EncoderPart(find_or_fetch("encoder", settings), reuse=settings.engine.reuse)

    def load_causal() -> CausalPart:
        return CausalPart(find_or_fetch("causal", settings))

    causal = load_causal() if "causal" in settings.policy.parts else None
    if causal is not None:
        causal.keep_prompts(settings.engine.prefix_tokens if settings.engine.reuse else 0)
    # Nothing is fetched while a customer waits: `up` fetches; without the model there are no generated replies.
    is_here = causal is not None or find("causal", settings) is not None
    model = PolicyModel(encoder, causal, alpha=settings.policy.causal_alpha)
    writing = WriterOptions(
        dtype=settings.engine.dtype,
        num_slots=settings.engine.replies_at_once,
        step_tokens=settings.engine.step_tokens,
        prefix_tokens=settings.engine.prefix_tokens,
        max_reply_tokens=settings.policy.max_reply_tokens,
        num_threads=threads,
    )
    return Engine(
        model,
        adapters,
        temperature=settings.policy.temperature,
        load_causal=load_causal if is_here else None,
        max_batch=settings.engine.max_batch,
        writing=writing,
        act_threads=1 if is_here and causal is None else threads,
    )


def build_asker(settings: Settings, store: Store) -> Asker:
    """Remembers the newest stored replies."""
    replies = store.newest_replies(NUM_RECENT)
    decisions = store.decisions(reply.decision_id for reply in replies)
    past = [(decisions[reply.decision_id], reply.ask_rating) for reply in replies]
    return Asker(settings.learn.ask_share, past)


@asynccontextmanager
async def serving(settings: Settings, engine: Engine | None = None) -> AsyncIterator[Serving]:
    """Open the home, load the models, follow the champion; everything is closed again at the end."""
    async with AsyncExitStack() as stack:
        span = stack.enter_context(tracing(settings.otel_endpoint))
        domain = with_live_articles(load_domain(settings.domain, settings.own_articles))
        store = stack.enter_context(Store(settings.database))
        adapters = AdapterStore(settings.adapters, home_secret(settings.home))
        backend = await _open_backend(settings, adapters, engine, stack)
        index = KnowledgeIndex(settings.home / "knowledge.db")
        stack.callback(index.close)
        retriever = Retriever(domain, index, backend.embedder, backend.words if settings.policy.mend else None)
        await retriever.build()
        secret = home_secret(settings.home)
        rollout = Rollout(backend.policy, adapters, store, settings.rollout, secret)
        ids = IdSource(settings.seed, epoch=sum(store.counts().values()))
        session = Session(
            settings=settings,
            domain=domain,
            store=store,
            policy=backend.policy,
            knowledge=retriever,
            actions=Actions(settings.home),
            ids=ids,
            asker=build_asker(settings, store),
            holdout_key=holdout_key(settings.home, settings.seed),
            version_for=rollout.version_for,
            span=span,
        )
        stack.push_async_callback(_stopped, asyncio.create_task(rollout.run()))
        identity = Identity(secret, operator_key(settings.home))
        teacher = Teacher(
            settings=settings, domain=domain, store=store, policy=backend.policy, knowledge=retriever, ids=ids
        )
        await teacher.load_cases()
        library = Library(domain, settings.own_articles / domain.name, retriever)
        parts = AppParts(
            settings,
            store,
            session,
            backend.policy,
            adapters,
            domain,
            identity,
            ids,
            teacher,
            engine_counts=backend.counts,
            span=span,
            library=library,
        )
        yield Serving(parts, session, backend.policy, retriever)


async def _open_backend(
    settings: Settings, adapters: AdapterStore, engine: Engine | None, stack: AsyncExitStack
) -> Backend:
    """Built, started and followed; the stack closes it."""
    if settings.engine.backend == "scripted":
        return Backend(ScriptedPolicy(), HashedWords(), None)
    engine = engine or build_engine(settings, adapters)
    stack.push_async_callback(engine.close)
    await engine.start()
    policy: Policy = engine
    if settings.engine.backend == "vllm":
        remote = build_remote(settings, adapters, engine)
        stack.push_async_callback(remote.close)
        _beside(stack, remote.follow())
        policy = remote
    _beside(stack, engine.follow_champion())
    return Backend(policy, engine, engine.words, engine.counts)


def _beside(stack: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """Run until the stack is closed."""
    stack.callback(asyncio.create_task(work).cancel)


def build_remote(settings: Settings, adapters: AdapterStore, acts: Policy) -> VllmPolicy:
    """Words by the vLLM server of the settings. Its model's tokenizer must be here; the weights are not loaded."""
    from bot.policy.adapted import fingerprint

    folder = find_or_fetch("causal", settings)
    return VllmPolicy(
        acts,
        VllmServer(settings.engine.vllm_url, settings.engine.vllm_key),
        RemoteAdapters(adapters, f"{folder.name}:{fingerprint(folder)}", settings.engine.vllm_adapters),
        Vocabulary(folder),
        max_new=settings.policy.max_reply_tokens,
        tolerance=settings.engine.vllm_tolerance,
    )


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def run_server(settings: Settings) -> int:
    """`rejoinder serve`: until SIGTERM or Ctrl-C. Returns the exit code."""
    quiet_logging()
    exit_cleanly_on_sigterm()
    try:
        asyncio.run(_serve(settings))
    finally:
        # All is closed. Looking through everything that was ever imported takes a busy machine seconds, and who stops us has
        # only so much patience.
        gc.freeze()
    return 0


def quiet_logging() -> None:
    """Our own lines at INFO; libraries only when something is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("bot", "ui", "online_learning"):
        logging.getLogger(name).setLevel(logging.INFO)


async def _serve(settings: Settings) -> None:
    started = time.perf_counter()
    # Waiting writes share one commit, so the more may wait at once the better; the default pool is 6 on two cores.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32, "io"))
    async with serving(settings) as built:
        app = create_app(built.parts)
        mount_pages(app, built.parts.domain)
        server = DrainingServer(uvicorn_config(app, settings), app)
        log.info("ready to listen after %.1f s", time.perf_counter() - started)
        await server.serve()


def mount_pages(app: FastAPI, domain: Domain) -> None:
    """Chat, operator and studio pages over the app's own routes."""
    pages = importlib.import_module("ui.app")
    pages.mount(
        app,
        assistant=domain.assistant,
        ai_notice=domain.ai_notice,
        human_offer=domain.human_offer,
    )
