"""Errors as HTTP answers: the one place. (As frames: `bot.wire.ErrorOut.of`; both use its codes.)"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from bot.errors import RejoinderError
from bot.routes.bodies import ErrorAnswer
from bot.wire import ErrorOut
from bot.wire_client import complaint
from bot.wire_errors import BadFrame, Unauthenticated, http_status

logger = logging.getLogger(__name__)
_refused: ContextVar[bool] = ContextVar("refused", default=False)
"""Whether this task has refused a handshake."""

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": HTTPStatus(status).phrase}
    for status in (400, 401, 403, 404, 409, 413, 429, 503)
}
"""For OpenAPI: what every route may answer."""


def answer_of(error: RejoinderError) -> JSONResponse:
    """`{"error": {"code", "message"}}` with its status."""
    frame, status = ErrorOut.of(error), http_status(error)
    content = {"error": frame.model_dump(include={"code", "message", "retry_after_s"}, exclude_none=True)}
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthenticated) else {}
    if frame.retry_after_s:
        headers["Retry-After"] = str(max(1, round(frame.retry_after_s)))
    return JSONResponse(content, status, headers)


async def refuse(websocket: WebSocket, error: RejoinderError) -> None:
    """Answer a handshake with an error instead of a socket."""
    _refused.set(True)
    await websocket.send_denial_response(answer_of(error))


class PlainRefusals(logging.Filter):
    """For uvicorn's log. uvicorn takes a handshake that was answered by an error of ours for a crash; one that nobody answered
    is a crash, and stays in the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is kept. It is written by the task that refused, whose context says so."""
        return not (_refused.get() and record.msg == "ASGI callable returned without completing handshake.")


def install(app: FastAPI) -> None:
    """Teach an app our errors."""
    app.add_exception_handler(RejoinderError, _ours)
    app.add_exception_handler(RequestValidationError, _bad_body)
    app.add_exception_handler(HTTPException, _starlette)
    app.add_exception_handler(Exception, _crash)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RejoinderError)
    frame_code = ErrorOut.of(error).code
    request.app.state.service.metrics.errors.labels(frame_code).inc()
    return answer_of(error)


async def _bad_body(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return await _ours(request, BadFrame(complaint(error.errors()[0])))


async def _starlette(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "bad_frame", 413: "too_much"}.get(error.status_code, "error")
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse({"error": {"code": code, "message": message}}, error.status_code, error.headers)


async def _crash(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer_of(RejoinderError("the server failed on this request; it was logged"))
