"""`/v1/knowledge/*`: articles and questions that went wrong, for operators; editing, for developers."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from bot.domain import Article
from bot.errors import DomainError, NotFound
from bot.feedback.store import Unanswered
from bot.knowledge.library import Library, Shown
from bot.routes.access import DeveloperDep, OperatorDep, ServiceDep
from bot.routes.parts import Service
from bot.wire_errors import BadFrame, Unavailable

logger = logging.getLogger(__name__)

router = APIRouter(tags=["knowledge"])

ArticleId = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,80}$", examples=["card_arrival"])]
Text = Annotated[str, Field(max_length=200_000)]
_TEXT = "---\ntitle: When your card comes\nquestions:\n  - Where is my card?\n---\nIn 5 working days.\n"
_ARTICLE: dict[str, Any] = {"id": "card_arrival", "title": "When your card comes", "is_own": True, "is_shipped": True}


class ArticleText(BaseModel):
    """A whole article file. `is_new`: refuse an id that is taken; `draft`: the id of the draft it comes from; `based_on`: the
    `text_hash` of what was edited: refuse if somebody changed it meanwhile."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"text": _TEXT}]})

    text: Text
    is_new: bool = False
    draft: str = ""
    based_on: str = ""


class Unchecked(BaseModel):
    """An article file to look at."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"id": "card_arrival", "text": _TEXT}]}
    )

    id: Annotated[str, Field(max_length=80)]
    text: Text


class CheckedArticle(BaseModel):
    """The first mistake (`file:line: expected ..., got ...`), or what people would read."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"ok": False, "mistake": "card_arrival.md:3: expected at least one question, got nothing"}]
        }
    )

    ok: bool
    mistake: str = ""
    title: str = ""
    answer: str = ""
    questions: list[str] = []


class ArticleLine(BaseModel):
    """One of the articles. `is_own`: edited here; `is_shipped`: the domain has one of its own under this id."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ARTICLE | {"num_questions": 3}]})

    id: str
    title: str
    num_questions: int
    is_own: bool
    is_shipped: bool


class ArticleFile(ArticleLine):
    """The same with the whole file; `text_hash` says which text it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [_ARTICLE | {"num_questions": 1, "text": _TEXT, "text_hash": "5be1d7c20a94f3e8"}]
        }
    )

    text: str
    text_hash: str


class ArticleLines(BaseModel):
    """By title; `revision` moves when what is searched changes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"revision": "5be1d7c20a94f3e8", "articles": [_ARTICLE | {"num_questions": 3}]}]
        }
    )

    revision: str
    articles: list[ArticleLine]


class GapQuestion(BaseModel):
    """A question that went wrong. `why`: out of scope, handed over, thumb down."""

    text: str
    conversation_id: str
    act: str
    why: str
    at: float


class Gap(BaseModel):
    """Like questions, the most typical first; the article that fits the first one best, and how well (a cosine)."""

    questions: list[GapQuestion]
    why: dict[str, int]
    nearest: str
    nearest_title: str
    fit: float


class Gaps(BaseModel):
    """Groups of questions that went wrong, largest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "groups": [
                        {
                            "questions": [
                                {
                                    "text": "Can I pay with my watch?",
                                    "conversation_id": "c_01",
                                    "act": "handoff",
                                    "why": "handed over",
                                    "at": 1.78e9,
                                }
                            ],
                            "why": {"handed over": 1},
                            "nearest": "contactless_not_working",
                            "nearest_title": "Contactless does not work",
                            "fit": 0.41,
                        }
                    ]
                }
            ]
        }
    )

    groups: list[Gap]


# --- articles ---------------------------------------------------------------------------------------------------------
@router.get("/v1/knowledge/articles")
async def list_articles(service: ServiceDep, _: OperatorDep) -> ArticleLines:
    """What the bot may answer with."""
    library = _library(service)
    found = await asyncio.to_thread(library.all)
    return ArticleLines(revision=library.revision, articles=[ArticleLine(**_line(shown)) for shown in found])


@router.get("/v1/knowledge/articles/{article_id}")
async def read_file(service: ServiceDep, _: OperatorDep, article_id: str) -> ArticleFile:
    """One article as a file."""
    shown = await asyncio.to_thread(_library(service).show, article_id)
    return ArticleFile(**_line(shown), text=shown.text, text_hash=shown.text_hash)


@router.post("/v1/knowledge/check")
async def check_file(service: ServiceDep, _: OperatorDep, body: Unchecked) -> CheckedArticle:
    """By the same checks as when a domain is loaded."""
    try:
        article = await asyncio.to_thread(_library(service).check, body.id, body.text)
    except DomainError as error:
        return CheckedArticle(ok=False, mistake=_one_line(error))
    return CheckedArticle(ok=True, title=article.title, answer=article.answer, questions=list(article.questions))


@router.put("/v1/knowledge/articles/{article_id}")
async def put_file(service: ServiceDep, doing: DeveloperDep, article_id: ArticleId, body: ArticleText) -> ArticleLine:
    """Write an article of this home's own; it is answered with at once."""
    library = _library(service)
    before = await asyncio.to_thread(_standing, library, article_id)
    try:
        article: Article = await library.put(article_id, body.text, is_new=body.is_new, based_on=body.based_on)
    except DomainError as error:
        raise BadFrame(_one_line(error)) from error
    await service.parts.teacher.load_cases()  # One that waited for this article speaks again.
    if body.draft:
        await asyncio.to_thread(service.parts.store.desk.set_draft, doing, body.draft, {"state": "published"})
    logger.info("article %s written by %s", article.id, doing.actor)
    await asyncio.to_thread(service.parts.store.desk.note, doing, "write article", article_id, before, {"is_own": True})
    return ArticleLine(**_line(await asyncio.to_thread(library.show, article_id)))


@router.delete("/v1/knowledge/articles/{article_id}")
async def drop_file(service: ServiceDep, doing: DeveloperDep, article_id: ArticleId) -> ArticleLines:
    """Take this home's own file away: the domain's is back, or there is none."""
    library = _library(service)
    before = await asyncio.to_thread(_standing, library, article_id)
    await library.drop(article_id)
    await service.parts.teacher.load_cases()  # One that names it must be silent.
    logger.info("own article %s removed by %s", article_id, doing.actor)
    after = await asyncio.to_thread(_standing, library, article_id)
    await asyncio.to_thread(service.parts.store.desk.note, doing, "remove article", article_id, before, after)
    return await list_articles(service, doing.actor)


# --- what is missing --------------------------------------------------------------------------------------------------
@router.get("/v1/knowledge/gaps")
async def read_gaps(service: ServiceDep, _: OperatorDep) -> Gaps:
    """The newest questions that went wrong, like ones together."""
    library = _library(service)
    asked = await asyncio.to_thread(service.parts.store.unanswered)
    groups = await library.groups([question.text for question in asked])
    found = [[asked[i] for i in group] for group in groups]
    nearest = await library.nearest([questions[0].text for questions in found])
    return Gaps(groups=[_gap(*pair) for pair in zip(found, nearest, strict=True)])


def _library(service: Service) -> Library:
    if service.parts.library is None:
        raise Unavailable("knowledge: expected a server whose articles can be edited, got one with a fixed domain")
    return service.parts.library


def _standing(library: Library, article_id: str) -> dict[str, Any]:
    """For the audit log: whose article it is; nothing where there is none."""
    try:
        return {"is_own": library.show(article_id).is_own}
    except NotFound:
        return {}


def _line(shown: Shown) -> dict[str, Any]:
    article = shown.article
    marks = {"is_own": shown.is_own, "is_shipped": shown.is_shipped}
    return {"id": article.id, "title": article.title, "num_questions": len(article.questions)} | marks


def _one_line(error: DomainError) -> str:
    """Without the folder, which is nobody's business in a browser."""
    place, _, said = str(error).partition(": ")
    return f"{place.rsplit('/', 1)[-1]}: {said}"


def _gap(questions: list[Unanswered], nearest: tuple[Article, float]) -> Gap:
    article, fit = nearest
    return Gap(
        questions=[GapQuestion(**asdict(question)) for question in questions],
        why=dict(Counter(question.why for question in questions)),
        nearest=article.id,
        nearest_title=article.title,
        fit=round(fit, 3),
    )
