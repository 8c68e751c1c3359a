"""A whole service on scripted parts: real store, real app, real sockets; only the policy and the clock are scripted."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import uvicorn
from argon2 import PasswordHasher
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect

from bot.conversation import Conversation, Delta, LegalAct, Message
from bot.domain import Article, Domain, Variant
from bot.feedback.desk_records import CaseUse
from bot.feedback.store import Store
from bot.identity import Identity, IdSource
from bot.knowledge.cases import CaseRow
from bot.knowledge.library import Library, with_live_articles
from bot.policy.acts import Candidate, Precedent
from bot.policy.adapters import AdapterStore
from bot.policy.scripted import ScriptedPolicy
from bot.policy.types import ActRequest, TextRequest
from bot.service import AppParts, DrainingServer, create_app
from bot.settings import EngineSettings, LimitSettings, Settings
from bot.staff import Staff
from bot.teaching import Teacher
from tests.builders import make_decision
from tests.word_search import WordSearch

OPERATOR_KEY = "operator-key-for-tests"
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""A test has no second to spend on each password."""
BANK_FOLDER = Path(str(resources.files("bot.domains") / "bank"))
LEGAL = (LegalAct("answer:card_arrival", ("When will my card come?",), 1.0), LegalAct("handoff", (), 0.0))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Found:
    """What scripted retrieval says of a question."""

    query: str
    precedent: Precedent | None
    articles: Sequence[Candidate] = (Candidate("card_arrival", 0.8),)
    triggers: Sequence[Candidate] = ()


class ScriptedKnowledge:
    """Retrieval that knows one article, and of cases those of exactly the same question. It is its own `cases`, and
    leaves out those whose article is not in the domain."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self.rows: list[CaseRow] = []

    @property
    def cases(self) -> ScriptedKnowledge:
        return self

    async def load(self, rows: Sequence[CaseRow]) -> None:
        self.rows = [row for row in rows if row.text or self._knows(row.act)]

    def _knows(self, act: str) -> bool:
        kind, _, target = act.partition(":")
        return kind != "answer" or target in self._domain.articles

    async def find(self, query: str, num_articles: int) -> Found:
        return Found(query, self.precedent(query))

    def precedent(self, query: str) -> Precedent | None:
        told = [row for row in self.rows if row.question == query]
        return Precedent(told[-1].id, told[-1].act, (query,), 1.0, 5.0, told[-1].text) if told else None


class ScriptedReplier:
    """A small session: one choice and one streamed text by the policy, stored with its decision."""

    def __init__(
        self, store: Store, policy: ScriptedPolicy, knowledge: ScriptedKnowledge, ids: IdSource, clock: Clock
    ) -> None:
        self._knowledge = knowledge
        self._store = store
        self._policy = policy
        self._ids = ids
        self._clock = clock
        self.crash: Exception | None = None
        self.num_replies = 0
        self.asks = False
        """Whether replies ask for a rating."""
        self.stop_reason = "stop"
        """Of replies; empty: they pass for approved ones."""

    async def reply(self, conversation: Conversation, message: Message) -> AsyncIterator[Delta | Message]:
        self.num_replies += 1
        if self.crash is not None:
            raise self.crash
        async with self._policy.lease() as lease:
            heard = self._knowledge.precedent(message.text)
            legal = LEGAL if heard is None else (*LEGAL, LegalAct(heard.act, heard.texts, heard.weight))
            choice = await lease.choose(ActRequest(message.text, "", legal, seed=0))
            reply_id, decision_id, written = self._ids.message(), self._ids.decision(), ""
            decision = make_decision(
                id=decision_id,
                conversation_id=conversation.id,
                person_id=conversation.person_id,
                turn=message.seq,
                query=message.text,
                legal=legal,
                logprobs=choice.logprobs,
                chosen=choice.chosen,
                mode=choice.mode,
                temperature=1.0,
                version=lease.version,
            )

            def reply_of(text: str, stop_reason: str) -> Message:
                return Message(
                    id=reply_id,
                    conversation_id=conversation.id,
                    seq=0,
                    role="bot",
                    text=text,
                    created_at=self._clock(),
                    decision_id=decision_id,
                    act=decision.act,
                    version=lease.version,
                    sources=("card_arrival",),
                    stop_reason=stop_reason,
                    ask_rating=self.asks,
                )

            if heard is not None and heard.text:
                use = CaseUse(decision_id, heard.case_id, heard.act, heard.similarity, heard.weight)
                reply = reply_of(heard.text, "stop")
                yield await asyncio.to_thread(self._store.add_reply, reply, decision, case_use=use)
                return
            index = 0
            try:
                async for piece in lease.write(TextRequest("", (), seed=0)):
                    written += piece.text
                    yield Delta(reply_id, index, piece.text, lease.version)
                    index += 1
            except (asyncio.CancelledError, GeneratorExit):
                await asyncio.shield(asyncio.to_thread(self._store.add_reply, reply_of(written, "cancelled"), decision))
                raise
            yield await asyncio.to_thread(self._store.add_reply, reply_of(written, self.stop_reason), decision)

    def greeting(self) -> str:
        return "Hello, how can I help?"

    async def handover(self, conversation: Conversation) -> Message:
        message = Message(self._ids.message(), conversation.id, 0, "bot", "A person will come.", self._clock())
        return await asyncio.to_thread(self._store.add_reply, message, None, status="waiting")


@dataclass(slots=True)
class Rig:
    """The app and the knobs of its parts."""

    app: FastAPI
    parts: AppParts
    store: Store
    policy: ScriptedPolicy
    replier: ScriptedReplier
    knowledge: ScriptedKnowledge
    versions: AdapterStore
    clock: Clock
    """Epoch."""
    ticks: Clock
    """Monotonic."""

    @property
    def hub(self) -> Any:
        return self.app.state.service.hub


def make_domain(**overrides: Any) -> Domain:
    """A bank with one article, and the reward rules that the real one ships."""
    fields: dict[str, Any] = {
        "name": "bank",
        "folder": BANK_FOLDER,
        "assistant": "Bea",
        "persona": "",
        "languages": ("en",),
        "ai_notice": "I am an AI assistant.",
        "human_offer": "You can ask for a person at any time.",
        "articles": {"card_arrival": Article("card_arrival", "When your card comes", "In 5 days.", ())},
        "responses": {"utter_greet": (Variant("Hello"),)},
        "slots": {},
        "forms": {},
        "actions": (),
        "triggers": {},
        "action_forms": {},
        "tests": (),
    }
    return Domain(**fields | overrides)


@contextmanager
def open_rig(
    home: Path,
    *,
    store: Store | None = None,
    tokens: Sequence[str] = (),
    allowed_origins: tuple[str, ...] = ("https://shop.example",),
    backend: str = "transformers",
    **limits: Any,
) -> Iterator[Rig]:
    """A rig whose home is `home`, and whose settings say `engine.backend`; `limits` are fields of LimitSettings."""
    clock, ticks, ids = Clock(), Clock(), IdSource()
    # Ticks stand still, so what may come at once is all there is.
    limits = {"conversations_per_min": 1e6, "messages_at_once": 20.0, "address_messages_at_once": 600.0} | limits
    policy = ScriptedPolicy(tokens=tokens or ("In", " five", " days."))
    with store or Store(home / "rejoinder.db") as opened:
        domain = with_live_articles(make_domain())
        knowledge = ScriptedKnowledge(domain)
        replier = ScriptedReplier(opened, policy, knowledge, ids, clock)
        settings = Settings(
            home,
            allowed_origins=allowed_origins,
            limits=LimitSettings(**limits),
            engine=EngineSettings(backend=backend),
        )
        versions = AdapterStore(home / "adapters", b"s" * 32)
        parts = AppParts(
            settings=settings,
            store=opened,
            replier=replier,
            policy=policy,
            versions=versions,
            domain=domain,
            identity=Identity(b"s" * 32, OPERATOR_KEY),
            ids=ids,
            teacher=Teacher(
                settings=settings, domain=domain, store=opened, policy=policy, knowledge=knowledge, ids=ids
            ),
            clock=clock,
            monotonic=ticks,
            library=Library(domain, home / "articles" / domain.name, WordSearch(domain)),
        )
        app = create_app(parts)
        app.state.service.staff = Staff(opened.desk, QUICK)
        app.state.service.hub.shown_name = app.state.service.staff.shown_name
        yield Rig(app, parts, opened, policy, replier, knowledge, versions, clock, ticks)


class Tab:
    """One open chat page, over a real socket."""

    def __init__(self, socket_: ClientConnection) -> None:
        self.socket = socket_
        self.frames: list[dict[str, Any]] = []
        self.hello: dict[str, Any] = {}

    async def send(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def next(self, *types: str) -> dict[str, Any]:
        """The next frame of one of these types (any, when none is named)."""
        while True:
            frame: dict[str, Any] = json.loads(await asyncio.wait_for(self.socket.recv(), 10))
            self.frames.append(frame)
            if not types or frame["type"] in types:
                return frame

    async def next_reply(self) -> dict[str, Any]:
        """The next whole message by the bot."""
        while True:
            message: dict[str, Any] = (await self.next("message"))["message"]
            if message["role"] == "bot":
                return message

    async def say_hello(self, **fields: Any) -> dict[str, Any]:
        await self.send(type="hello", protocol=1, **fields)
        self.hello = await self.next("hello")
        return self.hello

    @property
    def credentials(self) -> dict[str, Any]:
        return {key: self.hello[key] for key in ("conversation_id", "token")}


@dataclass(slots=True)
class Live:
    """A running server."""

    port: int
    server: DrainingServer

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def socket(self, **options: Any) -> AsyncIterator[Tab]:
        """A socket that has not said hello."""
        url = f"ws://127.0.0.1:{self.port}/ws/chat"
        async with connect(url, compression=None, max_size=None, open_timeout=10, close_timeout=1, **options) as opened:
            yield Tab(opened)

    @asynccontextmanager
    async def tab(self, **hello: Any) -> AsyncIterator[Tab]:
        """A page that has said hello."""
        async with self.socket() as tab:
            await tab.say_hello(**hello)
            yield tab


@asynccontextmanager
async def live(app: FastAPI) -> AsyncIterator[Live]:
    """The app on a free loopback port, drained at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app, ws_per_message_deflate=False, ws_max_size=1 << 20, log_level="error", timeout_graceful_shutdown=2
        )
        server = DrainingServer(config, app)
        serving = asyncio.create_task(server.serve([listening]))
        try:
            yield Live(listening.getsockname()[1], server)
        finally:
            server.should_exit = True
            await serving
