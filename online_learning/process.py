"""The learner as a process: its parts built and connected, one a home, at a low priority.

What it does all day is `online_learning.loop`.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from bot.domain import Domain
from bot.errors import ConfigError, StoreError
from bot.feedback.rules import load_rules
from bot.feedback.store import Store
from bot.identity import home_secret
from bot.policy.adapters import AdapterStore
from bot.policy.causal import CausalPart
from bot.policy.download import find_or_fetch
from bot.policy.encoder import EncoderPart
from bot.policy.model import PolicyModel
from bot.settings import Settings
from online_learning.articles import ArticlesOnDisk
from online_learning.config import LearnerConfig, LikelihoodConfig, recipe
from online_learning.loop import Loop, Watch, nobody
from online_learning.offline import ConversationTests, OfflinePolicy
from online_learning.perturb import augmented
from online_learning.update import Learner

log = logging.getLogger(__name__)

LEARNER_NICENESS = 10
"""Replies come before updates wherever both want a core."""


@contextmanager
def only_learner(home: Path) -> Iterator[None]:
    """Two learners on one home would learn the same rewards twice. Raises ConfigError when there is one already."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "learner.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"learn: expected no other learner on {home}, got one that is running") from error
        yield


def config_of(settings: Settings) -> LearnerConfig:
    """The recipe that the settings name."""
    learn, engine = settings.learn, settings.engine
    config = recipe(learn.algorithm, learn.layers)
    loss = config.loss
    return replace(
        config,
        loss=replace(loss, by_person=learn.by_person) if isinstance(loss, LikelihoodConfig) else loss,
        peft=learn.peft,
        words_weight=learn.words_weight,
        text_dtype="bf16" if learn.dtype == "bf16" or (learn.dtype == "auto" and has_bf16()) else "fp32",
        text_checkpointing=learn.gradient_checkpointing,
        text_adapts_prompt=learn.text_adapts_prompt,
        text_slack=engine.vllm_tolerance if engine.backend == "vllm" else 0.0,
    )


def has_bf16() -> bool:
    """Whether bf16 is more than emulated here."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def build_loop(
    settings: Settings,
    store: Store,
    config: LearnerConfig | None = None,
    domain: Domain | None = None,
    watch: Watch = nobody,
) -> Loop:
    """Models, domain and rules of the settings, connected; `domain` in place of the one that the settings name."""
    torch.set_num_threads(settings.learn.threads or max(1, (os.cpu_count() or 2) - 1))
    torch.manual_seed(settings.seed or 0)
    config = config or config_of(settings)
    reread: Callable[[], bool] = bool
    if domain is None:
        articles = ArticlesOnDisk(settings)
        domain, reread = articles.domain, articles.reread

    def load_writer() -> CausalPart:
        return CausalPart(find_or_fetch("causal", settings))

    causal = load_writer() if "causal" in settings.policy.parts else None
    model = PolicyModel(EncoderPart(find_or_fetch("encoder", settings)), causal, alpha=settings.policy.causal_alpha)
    share = settings.learn.augment
    settings.learner.mkdir(parents=True, exist_ok=True)
    try:
        offline = OfflinePolicy(model, domain, settings, settings.learner / "knowledge.db")
    except StoreError as error:
        log.warning("%s; keeping it in memory", error)
        offline = OfflinePolicy(model, domain, settings)
    return Loop(
        settings,
        store,
        AdapterStore(settings.adapters, home_secret(settings.home)),
        domain,
        load_rules(domain.rewards_path),
        Learner(model, config, causal),
        ConversationTests(offline, domain, reread),
        load_writer=load_writer,
        watch=watch,
        augment=partial(augmented, read=offline.read, share=share, seed=settings.seed or 0) if share else list,
    )


def main(settings: Settings, _: argparse.Namespace) -> int:
    """`rejoinder learn`: until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("online_learning").setLevel(logging.INFO)
    with suppress(OSError):  # a sandbox may forbid it; learning matters more than manners
        os.nice(LEARNER_NICENESS)
    with only_learner(settings.home), Store(settings.database) as store:
        loop = build_loop(settings, store)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.stop.set())
        loop.resume()
        log.info("learning from %s; serving version %s", settings.home, loop.adapters.champion().version)
        loop.run()
        loop.metrics_log.close()
    return 0
