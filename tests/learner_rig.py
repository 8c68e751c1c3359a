"""A learner's home on tiny models: real store, real adapters, real loop; what the server would do is done by hand here.

`rig.say(...)` stores a reply as the service would, with log-probabilities of the version it names; `rig.vote(...)` is a
thumb on it. A new `rig.loop()` is a new learner process: nothing is shared but the folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bot.conversation import BASE_VERSION, Decision, Signal, SignalKind, is_holdout
from bot.domain import Domain, load_domain
from bot.feedback.rules import load_rules
from bot.feedback.store import Store
from bot.policy.adapted import BASE
from bot.policy.adapters import AdapterStore
from bot.policy.causal import CausalPart
from bot.policy.encoder import EncoderPart
from bot.policy.engine import Engine
from bot.policy.model import ActRow, PolicyModel
from bot.policy.types import TextRequest
from bot.policy.weights import read_version
from bot.settings import Settings, load_settings
from online_learning.bench.tiny import texts_of, tiny_causal, tiny_encoder
from online_learning.config import LearnerConfig, PPOConfig
from online_learning.gate import Thresholds
from online_learning.loop import Loop
from online_learning.offline import ConversationTests, OfflinePolicy
from online_learning.update import Learner
from tests.builders import make_conversation, make_decision, make_message
from tests.domain_folder import write_domain

SECRET = b"s" * 32
ARTICLES = {
    "lost_card": ("Lost card", ["I lost my card", "my card is gone"]),
    "card_arrival": ("Card arrival", ["where is my card", "when will my card come"]),
    "change_pin": ("Change PIN", ["how do I change my pin", "a new pin please"]),
    "exchange_rate": ("Exchange rate", ["what is the exchange rate", "rate for euros"]),
    "close_account": ("Close account", ["close my account", "I want to leave the bank"]),
}
REWARDS = """version: 1
rules:
  thumb: {up: 0.5, down: -0.5}
  outcome: {solved: 1.0, not_solved: -1.0}
"""
TESTS = """tests:
  - name: hours are told
    must_pass: true
    steps:
      - user: When are you open?
        act: answer:opening_hours
"""
QUICK = LearnerConfig(
    epochs=4,
    learning_rate=1e-3,
    batch_size=8,
    max_kl_prox=10.0,
    baseline=-0.5,
    reward_scale=2.0,
    text_epochs=2,
    loss=PPOConfig(kl_start_coef=0.05),
)
"""A learner that moves far enough in one update of a few thumbs to be seen."""
LENIENT = Thresholds(max_kl_champion=50.0, max_kl_start=50.0)
"""A gate that does not mind how far it moves: what is tested is elsewhere."""
STRICT = replace(LENIENT, max_rescore_error=-1.0)
"""A gate that lets nothing through, however near."""


def write_bank(folder: Path) -> Path:
    """Six articles that share words, one conversation test, thumbs and outcomes."""
    write_domain(folder, rewards=REWARDS, tests=TESTS)
    for name, (title, questions) in ARTICLES.items():
        lines = "\n".join(f"  - {question}" for question in questions)
        body = f"---\ntitle: {title}\nquestions:\n{lines}\n---\nHere is what to do about it: {title.lower()}.\n"
        (folder / "articles" / f"{name}.md").write_text(body)
    return folder


@dataclass
class Home:
    """Folders that every process of a test shares, and a way to talk to the bot in them."""

    settings: Settings
    store: Store
    adapters: AdapterStore
    domain: Domain
    _ids: Iterator[int] = field(default_factory=count)
    _served: dict[str, Any] = field(default_factory=dict)

    # --- the learner --------------------------------------------------------------------------------------------------
    def loop(self, **overrides: Any) -> Loop:
        """A learner as a new process has it; `resume()` is the caller's. `make`: the class of what learns."""
        torch.manual_seed(0)
        config, make = overrides.pop("config", QUICK), overrides.pop("make", Learner)
        model = PolicyModel(EncoderPart(Path(self.settings.model)))
        parts: dict[str, Any] = {
            "settings": self.settings,
            "store": self.store,
            "adapters": self.adapters,
            "domain": self.domain,
            "rules": load_rules(self.domain.rewards_path),
            "learner": make(model, config),
            "tests": ConversationTests(OfflinePolicy(model, self.domain, self.settings), self.domain),
            "load_writer": lambda: CausalPart(Path(self.settings.causal_model)),
            "thresholds": LENIENT,
        }
        return Loop(**parts | overrides)

    def resumed(self, **overrides: Any) -> Loop:
        """A learner that has found its place."""
        loop = self.loop(**overrides)
        loop.resume()
        return loop

    # --- the server ---------------------------------------------------------------------------------------------------
    def say(self, question: str, article: str = "", **overrides: Any) -> Decision:
        """Store a reply in a conversation of its own: `article` (else the mode) chosen under `version`; `text` as shown."""
        version, number = overrides.get("version", BASE_VERSION), next(self._ids)
        shown = {"text": overrides.pop("text")} if "text" in overrides else {}
        row, logprobs = self.outlook(question, version)
        acts = [act.act for act in row.legal]
        mode = int(np.argmax(logprobs))
        chosen = acts.index(f"answer:{article}") if article else mode
        fields = {
            "id": f"d{number}",
            "conversation_id": self.conversation_id(holdout=overrides.pop("holdout", False)),
            "person_id": f"p{number}",
            "turn": 1,
            "created_at": time.time(),
            "query": question,
            "query_ids": row.query_ids,
            "legal": row.legal,
            "logprobs": tuple(logprobs),
            "chosen": chosen,
            "mode": mode,
            "version": version,
            "temperature": row.temperature,
        } | overrides
        fields["holdout"] = is_holdout(fields["conversation_id"], SECRET)
        return self.keep(make_decision(**fields), **shown)

    def keep(self, decision: Decision, **shown: str) -> Decision:
        """Store a decision with its conversation and reply; `shown` is of the reply's message."""
        chat = make_conversation(id=decision.conversation_id, person_id=decision.person_id)
        self.store.add_conversation(chat)
        reply = make_message(
            id=f"m-{decision.id}",
            conversation_id=chat.id,
            role="bot",
            decision_id=decision.id,
            act=decision.act,
            **shown,
        )
        self.store.add_reply(reply, decision)
        return decision

    def write(self, question: str, article: str, seed: int = 0, **overrides: Any) -> Decision:
        """Store a generated reply of the base version."""
        writer = self._writer()
        request = TextRequest('[["user", "hello"]]', (self.domain.articles[article].answer,), seed, max_tokens=8)
        generated = [piece.generated for piece in writer.write(request, BASE)][-1]
        return self.say(question, article, generated=generated, **overrides)

    def vote(self, decision: Decision, value: float, **overrides: Any) -> Signal:
        """A thumb by the person of the reply."""
        fields = {
            "key": f"k{next(self._ids)}",
            "conversation_id": decision.conversation_id,
            "kind": SignalKind.THUMB,
            "value": value,
            "author": decision.person_id,
            "created_at": time.time(),
            "decision_id": decision.id,
        }
        return self.store.add_signal(Signal(**fields | overrides))

    def teach(self, pairs: Sequence[tuple[str, str, int]], **overrides: Any) -> list[Decision]:
        """(question, article shown, thumb) for each."""
        found = []
        for question, article, thumb in pairs:
            found.append(self.say(question, article, **overrides))
            self.vote(found[-1], thumb)
        return found

    def conversation_id(self, *, holdout: bool = False) -> str:
        """An id that falls to the learner, or to the gate."""
        return next(name for n in self._ids if is_holdout(name := f"c{n}", SECRET) is holdout)

    # --- what a version thinks ----------------------------------------------------------------------------------------
    def outlook(self, question: str, version: str = BASE_VERSION) -> tuple[ActRow, list[float]]:
        """The row of a question and its log-probabilities, by a model that the learner does not share."""
        offline = self._offline()
        row = offline.rows([question])[0]
        return row, list(offline.outlooks([row], self._adapter(version))[0].logprobs)

    def probability(self, question: str, article: str, version: str) -> float:
        """Of showing an article."""
        row, logprobs = self.outlook(question, version)
        return float(np.exp(logprobs[[act.act for act in row.legal].index(f"answer:{article}")]))

    def engine(self) -> Engine:
        """The server's side."""
        model = PolicyModel(EncoderPart(Path(self.settings.model)))
        return Engine(model, self.adapters, temperature=self.settings.policy.temperature)

    def _offline(self) -> OfflinePolicy:
        if "offline" not in self._served:
            self._served["model"] = PolicyModel(EncoderPart(Path(self.settings.model)))
            self._served["offline"] = OfflinePolicy(self._served["model"], self.domain, self.settings)
        offline: OfflinePolicy = self._served["offline"]
        return offline

    def _adapter(self, version: str) -> str:
        model = self._served["model"].encoder.model
        if version != BASE_VERSION and version not in model.names:
            files = read_version(self.adapters, version)
            model.load(version, files.encoder_config, files.encoder)
            self._served["model"].cases |= {version: files.cases} if files.cases else {}
        return BASE if version == BASE_VERSION else version

    def _writer(self) -> CausalPart:
        if "writer" not in self._served:
            self._served["writer"] = CausalPart(Path(self.settings.causal_model))
        writer: CausalPart = self._served["writer"]
        return writer


@contextmanager
def open_home(folder: Path, models: Path, **overrides: Any) -> Iterator[Home]:
    """A home in `folder/home`; `overrides` are settings, nested ones merged into those of an eager demo."""
    learn = {"quorum": 1, "settle_s": 0.0, "update_every": 4, "holdout_share": 0.15} | overrides.pop("learn", {})
    flags = {
        "home": folder / "home",
        "profile": "demo",
        "seed": 0,
        "domain": str(folder / "bank" if (folder / "bank").exists() else write_bank(folder / "bank")),
        "model": str(models / "encoder"),
        "causal_model": str(models / "causal"),
        "learn": learn,
    }
    settings = load_settings(flags | overrides, {})
    settings.home.mkdir(parents=True, exist_ok=True)
    domain = load_domain(settings.domain)
    with Store(settings.database) as store:
        yield Home(settings, store, AdapterStore(settings.adapters, SECRET), domain)


@cache
def _models(folder: Path) -> Path:
    texts = texts_of(load_domain(str(write_bank(folder / "bank"))))
    tiny_encoder(folder / "encoder", texts)
    tiny_causal(folder / "causal", texts)
    return folder


def tiny_models(folder: Path) -> Path:
    """`encoder` and `causal` under `folder`, made once."""
    return _models(folder)
