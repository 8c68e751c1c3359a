"""A small server that speaks docs/protocol.md with scripted replies: what the pages are tested against.

It keeps conversations in memory, checks the operator key and the session cookie, and lets a test hold a stream in the
middle (`hold`, `release`), drop every socket (`drop_sockets`), and announce a version (`publish`) from its own thread.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse

OPERATOR_KEY = "operator-key-for-tests"
CHIPS = {"up": ["correct", "clear", "friendly", "fast"], "down": ["wrong", "off topic", "unclear", "too long", "not friendly"]}
ARTICLES = {
    "card_arrival": ("When will my card arrive?", "Cards arrive within **5 working days**.\n\n- Track it in the app\n- Ask us for a new one after 10 days"),
    "transfer_timing": ("How long does a transfer take?", "Transfers inside the country arrive on the same day."),
}
STREAM_CHUNKS = ["Your card ", "is on ", "its way. ", "It will ", "arrive ", "by Friday."]
LOGIN_PAGE = "<!doctype html><title>Sign in</title><h1>Sign in</h1>"


@dataclass
class FakeMessage:
    """A message object of the protocol."""

    id: str
    seq: int
    role: str
    text: str
    created_at: float
    client_id: str = ""
    act: str = ""
    version: str = ""
    sources: list[dict[str, str]] = field(default_factory=list)
    quick_replies: list[str] = field(default_factory=list)
    stop_reason: str = ""


@dataclass
class FakeConversation:
    """One chat and the sockets that watch it."""

    id: str
    token: str
    messages: list[FakeMessage] = field(default_factory=list)
    votes: dict[str, dict[str, Any]] = field(default_factory=dict)
    vote_frames: list[dict[str, Any]] = field(default_factory=list)
    sockets: set[WebSocket] = field(default_factory=set)
    reply: str = "approved"
    learn: bool = True
    status: str = "bot"
    partial: dict[str, Any] | None = None
    stopped: bool = False

    def add(self, role: str, text: str, **fields: Any) -> FakeMessage:
        seq = len(self.messages) + 1
        message = FakeMessage(fields.pop("id", f"m{self.id}-{seq}"), seq, role, text, time.time(), **fields)
        self.messages.append(message)
        return message

    async def tell(self, frame: dict[str, Any]) -> None:
        """Sends a frame to every tab."""
        for socket in list(self.sockets):
            try:
                await socket.send_json(frame)
            except (RuntimeError, WebSocketDisconnect):
                self.sockets.discard(socket)


class FakeBot:
    """The scripted server's state; its methods without `async` may be called from the test's thread."""

    def __init__(self) -> None:
        self.conversations: dict[str, FakeConversation] = {}
        self.version = "v000003"
        self.frozen = False
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.refuse_next = ""
        self.loop: asyncio.AbstractEventLoop | None = None
        self._flowing: asyncio.Event | None = None
        self._hold_at: int | None = None
        self._ids = count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    # --- called by tests ----------------------------------------------------------------------------------------
    def hold(self, after_chunks: int) -> None:
        """The next streams wait after this many pieces until `release`."""
        self._run(self._set_hold(after_chunks))

    def release(self) -> None:
        """Lets held streams go on."""
        self._run(self._set_hold(None))

    def drop_sockets(self) -> None:
        """Cuts every connection, as a network failure would."""
        self._run(self._drop())

    def publish(self, version: str) -> None:
        """A newer version serves from now on."""
        self._run(self._publish(version))

    def newest(self) -> FakeConversation:
        """The conversation opened last."""
        return list(self.conversations.values())[-1]

    def _run(self, work: Any) -> None:
        assert self.loop is not None
        asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=5)

    async def _set_hold(self, after_chunks: int | None) -> None:
        self._hold_at = after_chunks
        self._flowing = self._flowing or asyncio.Event()
        self._flowing.clear() if after_chunks is not None else self._flowing.set()

    async def _drop(self) -> None:
        for conversation in self.conversations.values():
            for socket in list(conversation.sockets):
                conversation.sockets.discard(socket)
                await socket.close(code=1012)

    async def _publish(self, version: str) -> None:
        self.version = version
        for conversation in self.conversations.values():
            await conversation.tell({"type": "version", "version": version})

    # --- the websocket ------------------------------------------------------------------------------------------
    async def serve(self, socket: WebSocket) -> None:
        await socket.accept()
        self.loop = asyncio.get_running_loop()
        hello = await socket.receive_json()
        conversation = self._find(hello)
        if conversation is None:
            await socket.send_json({"type": "error", "code": "not_allowed", "message": "This is not your conversation."})
            await socket.close()
            return
        await socket.send_json(self._greeting(conversation, hello.get("last_seq", 0)))
        conversation.sockets.add(socket)
        try:
            while True:
                await self._receive(conversation, socket, await socket.receive_json())
        except (WebSocketDisconnect, RuntimeError):
            conversation.sockets.discard(socket)

    def _find(self, hello: dict[str, Any]) -> FakeConversation | None:
        wanted = hello.get("conversation_id")
        if wanted:
            found = self.conversations.get(wanted)
            return found if found and found.token == hello.get("token") else None
        number = next(self._ids)
        conversation = FakeConversation(f"c{number}", hello.get("token") or f"token-{number}", reply=hello.get("reply", "approved"))
        self.conversations[conversation.id] = conversation
        return conversation

    def _greeting(self, conversation: FakeConversation, after_seq: int) -> dict[str, Any]:
        return {
            "type": "hello", "protocol": 1, "conversation_id": conversation.id, "token": conversation.token,
            "ai_notice": "You are chatting with Ada, an AI assistant of Northbank.",
            "human_offer": "It can be wrong. A person can take over at any time.",
            "assistant": "Ada", "version": self.version, "reply": conversation.reply, "learn": conversation.learn,
            "can_write": True, "status": conversation.status,
            "messages": [asdict(m) for m in conversation.messages if m.seq > after_seq],
            "votes": conversation.votes, "chips": CHIPS, "partial": conversation.partial,
        }  # fmt: skip

    async def _receive(self, conversation: FakeConversation, socket: WebSocket, frame: dict[str, Any]) -> None:
        self.calls.append((frame["type"], frame))
        if self.refuse_next and frame["type"] != "ping":
            code, self.refuse_next = self.refuse_next, ""
            refusal = {"type": "error", "code": code, "message": "Too many messages.", "retry_after_s": 2}
            await socket.send_json(refusal | {k: frame[k] for k in ("client_id", "key") if k in frame})
            return
        await getattr(self, f"_on_{frame['type']}")(conversation, socket, frame)

    async def _on_ping(self, conversation: FakeConversation, socket: WebSocket, frame: dict[str, Any]) -> None:
        await socket.send_json({"type": "pong"})

    async def _on_message(self, conversation: FakeConversation, socket: WebSocket, frame: dict[str, Any]) -> None:
        known = next((m for m in conversation.messages if m.client_id == frame["client_id"]), None)
        message = known or conversation.add("user", frame["text"], client_id=frame["client_id"])
        ack = {"type": "ack", "kind": "message", "client_id": frame["client_id"], "message_id": message.id, "seq": message.seq}
        await socket.send_json(ack)
        if known:
            return
        await conversation.tell({"type": "message", "message": asdict(message)})
        task = asyncio.create_task(self._answer(conversation, message.text))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, conversation: FakeConversation, text: str) -> None:
        fields: dict[str, Any] = {"version": self.version, "act": "answer:card_arrival"}
        if text.startswith("echo "):
            reply = conversation.add("bot", text.removeprefix("echo "), **fields)
        elif "stream" in text or conversation.reply == "generated":
            reply = await self._stream(conversation, fields)
        else:
            fields["sources"] = [{"id": "card_arrival", "title": ARTICLES["card_arrival"][0]}]
            fields["quick_replies"] = ["Where is it now?", "I need a new card"]
            reply = conversation.add("bot", "Your card usually arrives within **5 working days** of ordering it.", **fields)
        await conversation.tell({"type": "message", "message": asdict(reply)})

    async def _stream(self, conversation: FakeConversation, fields: dict[str, Any]) -> FakeMessage:
        message_id = f"m{conversation.id}-{len(conversation.messages) + 1}"
        conversation.partial = {"message_id": message_id, "text": "", "version": self.version}
        conversation.stopped = False
        for index, chunk in enumerate(STREAM_CHUNKS):
            if index == self._hold_at and self._flowing is not None:
                await self._flowing.wait()
            if conversation.stopped:
                break
            conversation.partial["text"] += chunk
            delta = {"type": "delta", "message_id": message_id, "index": index, "text": chunk, "version": fields["version"]}
            await conversation.tell(delta)
        text, conversation.partial = conversation.partial["text"], None
        reason = "cancelled" if conversation.stopped else "stop"
        sources = [{"id": "card_arrival", "title": ARTICLES["card_arrival"][0]}]
        return conversation.add("bot", text, id=message_id, stop_reason=reason, sources=sources, **fields)

    async def _on_stop(self, conversation: FakeConversation, socket: WebSocket, frame: dict[str, Any]) -> None:
        conversation.stopped = True
        await self._set_hold(None)

    async def _on_feedback(self, conversation: FakeConversation, socket: WebSocket, frame: dict[str, Any]) -> None:
        vote = {"thumb": frame["thumb"], "reasons": frame.get("reasons", []), "comment": frame.get("comment", "")}
        conversation.vote_frames.append(frame)
        conversation.votes.pop(frame["message_id"], None)
        if vote["thumb"]:
            conversation.votes[frame["message_id"]] = vote
        await socket.send_json({"type": "ack", "kind": "feedback", "key": frame["key"], "message_id": frame["message_id"]})
        await conversation.tell({"type": "feedback", "message_id": frame["message_id"]} | vote)

    async def _on_outcome(self, conversation: FakeConversation, socket: WebSocket, frame: dict[str, Any]) -> None:
        await socket.send_json({"type": "ack", "kind": "outcome", "key": frame["key"]})

    async def _on_handover(self, conversation: FakeConversation, socket: WebSocket, frame: dict[str, Any]) -> None:
        conversation.status = "waiting"
        await socket.send_json({"type": "ack", "kind": "handover", "key": frame["key"]})
        await conversation.tell({"type": "status", "status": "waiting", "position": 2})

    async def _on_settings(self, conversation: FakeConversation, socket: WebSocket, frame: dict[str, Any]) -> None:
        conversation.reply = frame.get("reply", conversation.reply)
        conversation.learn = frame.get("learn", conversation.learn)
        await conversation.tell({"type": "settings", "reply": conversation.reply, "learn": conversation.learn})


def create_fake_app(bot: FakeBot, operator: dict[str, Any]) -> FastAPI:
    """The routes of the protocol over a `FakeBot`; `operator` holds what the operator's routes answer."""
    app = FastAPI()

    def require_operator(request: Request) -> None:
        bearer = request.headers.get("authorization") == f"Bearer {OPERATOR_KEY}"
        if not bearer and request.cookies.get("session") != "signed-in":
            raise HTTPException(401, {"error": {"code": "not_allowed", "message": "Sign in first."}})

    @app.websocket("/ws/chat")
    async def chat(socket: WebSocket) -> None:
        await bot.serve(socket)

    @app.get("/login", response_class=HTMLResponse)
    async def login() -> str:
        return LOGIN_PAGE

    @app.post("/v1/session")
    async def sign_in(response: Response) -> dict[str, bool]:
        response.set_cookie("session", "signed-in", httponly=True, samesite="strict")
        return {"ok": True}

    @app.get("/v1/articles/{article_id}")
    async def article(article_id: str) -> dict[str, str]:
        if article_id not in ARTICLES:
            raise HTTPException(404)
        title, answer = ARTICLES[article_id]
        return {"id": article_id, "title": title, "answer": answer}

    @app.get("/v1/conversations")
    async def conversations(request: Request, q: str = "") -> dict[str, Any]:
        require_operator(request)
        bot.calls.append(("list", dict(request.query_params)))
        rows = [row for row in operator["conversations"] if q.lower() in row["last_text"].lower()]
        return {"conversations": rows, "next": None}

    @app.get("/v1/conversations/{conversation_id}")
    async def conversation(request: Request, conversation_id: str) -> dict[str, Any]:
        require_operator(request)
        if conversation_id not in operator["transcripts"]:
            raise HTTPException(404)
        return dict(operator["transcripts"][conversation_id])

    @app.get("/v1/versions")
    async def versions(request: Request) -> dict[str, Any]:
        require_operator(request)
        return dict(operator["versions"]) | {"frozen": bot.frozen}

    @app.post("/v1/versions/{change}")
    async def change_version(request: Request, change: str) -> dict[str, Any]:
        require_operator(request)
        body = await request.json()
        bot.calls.append((change, body))
        bot.frozen = change == "freeze" or (bot.frozen and change != "unfreeze")
        operator["versions"]["champion"] = body.get("to") or body.get("version") or operator["versions"]["champion"]
        return {"champion": operator["versions"]["champion"], "frozen": bot.frozen}

    @app.get("/v1/learner")
    async def learner(request: Request) -> dict[str, Any]:
        require_operator(request)
        return dict(operator["learner"])

    return app
