"""The operator pages' HTTP client: what it asks, and the one line it says when things go wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ui.client import AWAY, Api, ApiError

Answer = Callable[[httpx.Request], httpx.Response]


def make_api(answer: Answer, **options: Any) -> Api:
    return Api("http://bot.test", "secret-key", transport=httpx.MockTransport(answer), **options)


def recording(seen: list[httpx.Request], content: object = None) -> Answer:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=content if content is not None else {})

    return answer


async def test_the_key_travels_in_the_header_only() -> None:
    """Never in the address, where logs would keep it."""
    seen: list[httpx.Request] = []
    await make_api(recording(seen)).versions()
    assert seen[0].headers["authorization"] == "Bearer secret-key"
    assert "secret-key" not in str(seen[0].url)


async def test_only_filters_that_are_set_are_sent() -> None:
    """Empty ones mean: do not filter."""
    seen: list[httpx.Request] = []
    api = make_api(recording(seen))
    await api.conversations(q="card", thumb=-1, limit=20)
    assert dict(seen[0].url.params) == {"q": "card", "thumb": "-1", "limit": "20"}


async def test_an_id_cannot_leave_its_place_in_the_path() -> None:
    """Slashes and dots of a made-up id are quoted."""
    seen: list[httpx.Request] = []
    await make_api(recording(seen)).conversation("../versions?x=1")
    assert seen[0].url.raw_path == b"/v1/conversations/..%2Fversions%3Fx%3D1"


@pytest.mark.parametrize(
    ("call", "path", "body"),
    [
        (lambda api: api.rollback("v000002", "worse"), "/v1/versions/rollback", {"to": "v000002", "reason": "worse"}),
        (lambda api: api.rollback("", "worse"), "/v1/versions/rollback", {"reason": "worse"}),
        (lambda api: api.promote("v000003", "read"), "/v1/versions/promote", {"version": "v000003", "reason": "read"}),
        (lambda api: api.freeze("audit"), "/v1/versions/freeze", {"reason": "audit"}),
        (lambda api: api.unfreeze("done"), "/v1/versions/unfreeze", {"reason": "done"}),
    ],
)
async def test_each_lever_sends_what_the_protocol_says(
    call: Callable[[Api], Any], path: str, body: dict[str, str]
) -> None:
    """docs/protocol.md, HTTP table."""
    seen: list[httpx.Request] = []
    await call(make_api(recording(seen)))
    assert (seen[0].method, seen[0].url.path) == ("POST", path)
    assert httpx.Response(200, content=seen[0].content).json() == body


async def test_a_server_that_is_away_is_one_clear_line() -> None:
    """Refused connections and timeouts alike."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(ApiError, match="does not answer") as raised:
        await make_api(refuse).learner()
    assert (str(raised.value), raised.value.status) == (AWAY, 0)


async def test_the_servers_own_words_are_passed_on() -> None:
    """An error body of the protocol is shown as it is."""
    body = {"error": {"code": "not_found", "message": "conversation: expected a known id"}}
    with pytest.raises(ApiError, match=r"^conversation: expected a known id$") as raised:
        await make_api(lambda request: httpx.Response(404, json=body)).conversation("c1")
    assert raised.value.status == 404


@pytest.mark.parametrize(
    "answer", [httpx.Response(502, text="<html>"), httpx.Response(500, json=["x"]), httpx.Response(200, json=[1])]
)
async def test_an_answer_that_is_not_ours_is_an_error_not_a_crash(answer: httpx.Response) -> None:
    """A proxy's page, a list, an error without words."""
    with pytest.raises(ApiError, match=f"The server answered {answer.status_code}."):
        await make_api(lambda request: answer).versions()


async def test_the_address_may_be_known_late() -> None:
    """A function is asked at each call."""
    seen: list[httpx.Request] = []
    api = Api(lambda: "http://late.test:81", "k", transport=httpx.MockTransport(recording(seen)))
    await api.versions()
    assert seen[0].url.netloc == b"late.test:81"
