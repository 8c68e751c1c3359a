"""`/v1/inbox*`: the list of conversations that customer service works through, its filters, and its export.

Read by everybody of the staff. Filters are the same for the list and for the export.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from bot.feedback.desk import Doing
from bot.feedback.desk_records import InboxPage, InboxQuery, InboxRow
from bot.routes.access import DeskDep, MemberDep, OperatorDep, ServiceDep
from bot.routes.parts import Service
from bot.wire_errors import BadFrame

router = APIRouter(tags=["inbox"])

EXPORT_PAGE = 500
Name = Annotated[str, Field(max_length=200)]
KeptName = Annotated[str, Field(min_length=1, max_length=60)]
"""Of a filter or a macro; it may hold slashes."""
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Spreadsheets take a cell that begins with one of these for a formula (OWASP, CSV injection)."""


class InboxFilter(BaseModel):
    """What to show; what is left out does not filter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    q: Annotated[str, Field(max_length=200)] = ""
    """Words that one message must hold."""
    view: Literal["", "open", "bot", "waiting", "person", "resolved", "snoozed"] = ""
    assignee: Annotated[str, Field(max_length=64)] = ""
    """An account's name, `me`, or `nobody`."""
    thumb: Literal["", "up", "down"] = ""
    csat: Annotated[int, Field(ge=0, le=5)] = 0
    outcome: Literal["", "solved", "not_solved"] = ""
    flagged: bool = False
    language: Annotated[str, Field(max_length=8)] = ""
    version: Annotated[str, Field(max_length=16)] = ""
    act: Name = ""
    article: Name = ""
    tag: Name = ""
    since: Annotated[float, Field(ge=0)] = 0.0
    until: Annotated[float, Field(ge=0)] = 0.0
    order: Literal["newest", "waiting"] = "newest"

    def query(self, me: str) -> InboxQuery:
        """As the store is asked; `me` is the account that asks."""
        said = self.model_dump() | {"text": self.q, "assignee": me if self.assignee == "me" else self.assignee}
        del said["q"]
        return InboxQuery(**said)


class InboxParams(InboxFilter):
    """One page of it."""

    cursor: Annotated[str, Field(max_length=200)] = ""
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class ExportParams(InboxFilter):
    """All of it."""

    format: Literal["jsonl", "csv"] = "jsonl"


class InboxAnswer(BaseModel):
    """`next` goes into `cursor` for the page after this; null at the end. `searched_to`: a search stopped at messages of
    this time before the page was full; `next` goes on from there."""

    conversations: list[InboxRow]
    next: str | None
    searched_to: float | None
    counts: dict[str, int]
    now: float


class Facets(BaseModel):
    """What filters can be set to."""

    acts: list[str]
    articles: list[str]
    versions: list[str]
    tags: list[str]
    operators: list[str]


class SavedFilter(BaseModel):
    """A filter under a name."""

    name: str
    filter: dict[str, Any]


class Macro(BaseModel):
    """A reply kept for everybody."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "Thank you for waiting. I am looking into it."}]}
    )

    text: Annotated[str, Field(min_length=1, max_length=4000)]


@router.get("/v1/inbox")
async def read_inbox(service: ServiceDep, member: MemberDep, params: Annotated[InboxParams, Query()]) -> InboxAnswer:
    """A page of conversations, newest message first (or who waits longest)."""
    desk, now = service.parts.store.desk, service.parts.clock()
    wanted = replace(params.query(member.name), cursor=params.cursor, limit=params.limit)
    page, counts = await asyncio.to_thread(lambda: (_page(service, wanted, now), desk.counts(member.name, now)))
    lines = [seen_by_others(service, row, member.name) for row in page.rows]
    return InboxAnswer(
        conversations=lines, next=page.next or None, searched_to=page.searched_to or None, counts=counts, now=now
    )


def seen_by_others(service: Service, row: InboxRow, me: str) -> InboxRow:
    """A line with who else has it open."""
    return replace(row, viewers=tuple(service.presence.viewers(row.id, but=me)))


def _page(service: Service, wanted: InboxQuery, now: float) -> InboxPage:
    try:
        return service.parts.store.desk.inbox(wanted, now)
    except (ValueError, TypeError) as error:
        raise BadFrame(f"cursor: expected `next` of an earlier page, got {wanted.cursor[:40]!r}") from error


@router.get("/v1/inbox/facets")
async def read_facets(service: ServiceDep, _: OperatorDep) -> Facets:
    """Acts, articles, versions, tags and operators that occur."""
    desk = service.parts.store.desk
    found = await asyncio.to_thread(lambda: [desk.values(kind) for kind in ("act", "article", "version", "tag")])
    acts, articles, versions, tags = found
    names = [account.name for account in service.staff.accounts()]
    return Facets(acts=acts, articles=articles, versions=versions, tags=tags, operators=names)


# --- export -----------------------------------------------------------------------------------------------------------
@router.get("/v1/inbox/export", response_class=StreamingResponse)
async def export(service: ServiceDep, who: MemberDep, params: Annotated[ExportParams, Query()]) -> StreamingResponse:
    """Every conversation that the filter shows, with its messages: JSON lines, or CSV safe to open in a spreadsheet."""
    kinds = {"jsonl": ("application/jsonl", _json_lines), "csv": ("text/csv; charset=utf-8", _csv_lines)}
    media_type, lines = kinds[params.format]
    wanted = InboxFilter(**params.model_dump(exclude={"format"})).query(who.name)
    name = f"conversations.{params.format}"
    # Nothing is changed, but much of what people wrote leaves the house.
    doing = Doing(who.author, service.parts.clock())
    await asyncio.to_thread(service.parts.store.desk.note, doing, "export", "inbox", {}, {"format": params.format})
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(lines(service, wanted), media_type=media_type, headers=headers)


async def _rows(service: Service, wanted: InboxQuery) -> AsyncIterator[InboxRow]:
    """All pages."""
    wanted = replace(wanted, limit=EXPORT_PAGE)
    while True:
        page = await asyncio.to_thread(_page, service, wanted, service.parts.clock())
        for row in page.rows:
            yield row
        if not page.next:
            return
        wanted = replace(wanted, cursor=page.next)


async def _json_lines(service: Service, wanted: InboxQuery) -> AsyncIterator[str]:
    async for row in _rows(service, wanted):
        messages = await asyncio.to_thread(service.parts.store.messages, row.id)
        said = [
            {name: getattr(message, name) for name in ("role", "text", "created_at", "act", "version", "author")}
            for message in messages
        ]
        line = {name: value for name, value in asdict(row).items() if name not in ("snippet", "revision", "viewers")}
        yield json.dumps(line | {"messages": said}, ensure_ascii=False) + "\n"


_CSV_COLUMNS = (
    *("id", "created_at", "updated_at", "state", "assignee", "language", "num_messages", "up", "down", "csat"),
    *("outcome", "flagged", "versions", "tags", "transcript"),
)


async def _csv_lines(service: Service, wanted: InboxQuery) -> AsyncIterator[str]:
    yield _csv_line(_CSV_COLUMNS)
    async for row in _rows(service, wanted):
        messages = await asyncio.to_thread(service.parts.store.messages, row.id)
        values = asdict(row) | {"versions": " ".join(row.versions), "tags": " ".join(row.tags)}
        values["transcript"] = "\n".join(f"{message.role}: {message.text}" for message in messages)
        yield _csv_line([values[name] for name in _CSV_COLUMNS])


def _csv_line(cells: Sequence[object]) -> str:
    """One line; a cell that a spreadsheet would calculate is made text by a leading apostrophe."""
    out = io.StringIO()
    csv.writer(out).writerow([safe_cell(cell) for cell in cells])
    return out.getvalue()


def safe_cell(cell: object) -> object:
    """Numbers as they are, text with its formula disarmed."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_SIGNS) else cell


# --- saved filters and macros -----------------------------------------------------------------------------------------
def _addressable(name: str) -> str:
    if name in (".", ".."):
        raise BadFrame(f"name: expected one other than . and .. (addresses leave those out), got {name!r}")
    return name


NewName = Annotated[KeptName, AfterValidator(_addressable)]


@router.get("/v1/filters")
async def read_filters(service: ServiceDep, operator: OperatorDep) -> list[SavedFilter]:
    """The caller's saved filters."""
    found = await asyncio.to_thread(service.parts.store.desk.saved_filters, operator)
    return [SavedFilter(name=name, filter=query) for name, query in found.items()]


@router.put("/v1/filters/{name:path}", status_code=204)
async def save_filter(service: ServiceDep, doing: DeskDep, name: NewName, body: InboxFilter) -> None:
    """Keep a filter under a name."""
    said = body.model_dump(exclude_defaults=True)
    await asyncio.to_thread(service.parts.store.desk.save_filter, doing, name, said)


@router.delete("/v1/filters/{name:path}", status_code=204)
async def forget_filter(service: ServiceDep, doing: DeskDep, name: KeptName) -> None:
    """Forget it."""
    await asyncio.to_thread(service.parts.store.desk.save_filter, doing, name, None)


@router.get("/v1/macros")
async def read_macros(service: ServiceDep, _: OperatorDep) -> dict[str, str]:
    """Replies kept for everybody: name -> text."""
    return await asyncio.to_thread(service.parts.store.desk.macros)


@router.put("/v1/macros/{name:path}", status_code=204)
async def save_macro(service: ServiceDep, doing: DeskDep, name: NewName, body: Macro) -> None:
    """Keep a reply."""
    await asyncio.to_thread(service.parts.store.desk.save_macro, doing, name, body.text)


@router.delete("/v1/macros/{name:path}", status_code=204)
async def forget_macro(service: ServiceDep, doing: DeskDep, name: KeptName) -> None:
    """Forget it."""
    await asyncio.to_thread(service.parts.store.desk.save_macro, doing, name, None)
