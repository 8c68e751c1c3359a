"""The articles of a running server: edited, checked as at load, searched at once, brought back."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.domain import Domain, load_domain
from bot.errors import ConflictError, DomainError, NotFound
from bot.knowledge.index import KnowledgeIndex
from bot.knowledge.library import Library, LiveArticles, with_live_articles
from bot.knowledge.retrieval import Retriever
from tests.domain_folder import write_domain
from tests.word_search import WordEmbedder

WATCH = "---\ntitle: Paying by watch\nquestions:\n  - Can I pay with my watch?\n---\nYes, if it is paired.\n"
Made = tuple[Library, Retriever, Domain]


@pytest.fixture
async def made(tmp_path: Path) -> Made:
    """A library over a small domain with one article, `hours`, searched by the real retriever."""
    return await open_library(tmp_path)


async def open_library(tmp_path: Path) -> Made:
    folder = tmp_path / "desk"
    if not folder.exists():
        write_domain(folder)
    domain = with_live_articles(load_domain(str(folder), tmp_path / "own"))
    retriever = Retriever(domain, KnowledgeIndex(None), WordEmbedder())
    await retriever.build()
    return Library(domain, tmp_path / "own" / domain.name, retriever), retriever, domain


def shipped(domain: Domain) -> str:
    """The id of the one article that the domain ships."""
    return next(path.stem for path in (domain.folder / "articles").glob("*.md"))


async def first(retriever: Retriever, question: str) -> str:
    return (await retriever.find(question, 1)).articles[0].name


async def test_a_new_article_is_found_at_once(made: Made) -> None:
    """And the revision of the knowledge moves."""
    library, retriever, domain = made
    before = library.revision
    await library.put("watch", WATCH, is_new=True)
    assert await first(retriever, "pay with my watch") == "watch"
    assert (domain.articles["watch"].answer, library.revision == before) == ("Yes, if it is paired.", False)


async def test_an_own_article_is_there_after_a_restart_and_the_package_is_untouched(made: Made, tmp_path: Path) -> None:
    """It lies in the home; the domain's folder has one file as before."""
    library, _, domain = made
    await library.put("watch", WATCH)
    _, retriever, again = await open_library(tmp_path)
    assert (set(again.articles), await first(retriever, "watch")) == ({shipped(domain), "watch"}, "watch")
    assert [path.stem for path in (domain.folder / "articles").iterdir()] == [shipped(domain)]


async def test_an_edited_article_takes_the_place_of_the_domains_until_it_is_dropped(made: Made) -> None:
    """Its text is shown; dropping brings the other one back."""
    library, _, domain = made
    name = shipped(domain)
    original = library.show(name).text
    await library.put(name, original.replace("9 to 5", "8 to 4"))
    assert ("8 to 4" in domain.articles[name].answer, library.show(name).is_own) == (True, True)
    await library.drop(name)
    assert (library.show(name).text, library.show(name).is_own) == (original, False)
    with pytest.raises(NotFound, match="one of this home's own"):
        await library.drop(name)


async def test_a_removed_article_is_no_longer_offered_but_can_still_be_read(made: Made) -> None:
    """A reply that was chosen a moment before it went needs its text."""
    library, retriever, domain = made
    await library.put("watch", WATCH)
    await library.drop("watch")
    assert ("watch" in domain.articles, list(domain.articles)) == (False, [shipped(domain)])
    assert domain.articles["watch"].answer == "Yes, if it is paired."
    assert await first(retriever, "pay with my watch") == shipped(domain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no dashes", r"watch\.md:1: expected --- before title and questions"),
        (WATCH.replace("title: Paying by watch", "titel: x"), r"watch\.md:2: expected one of title, questions"),
        (WATCH.replace("Yes, if it is paired.", ""), r"watch\.md:5: expected an answer after ---"),
        (
            WATCH.replace("Can I pay with my watch?", "When are you OPEN?"),
            r"watch\.md:4: expected each title and question once",
        ),
        (WATCH.replace("Can I pay with my watch?", "A Person Please"), r"watch\.md:4: .* as in trigger handoff"),
    ],
)
async def test_what_would_not_load_is_not_written(made: Made, text: str, message: str) -> None:
    """By the checks of the load: nothing changes, on disk or in use."""
    library, _, domain = made
    with pytest.raises(DomainError, match=message):
        await library.put("watch", text)
    assert ("watch" in domain.articles, (domain.folder.parent / "own").exists()) == (False, False)


@pytest.mark.parametrize("name", ["../watch", "Watch", "", "a b"])
async def test_an_id_is_no_path(made: Made, name: str) -> None:
    """The control of what a page may send."""
    with pytest.raises(DomainError, match="expected a file name of a-z, 0-9 and _"):
        await made[0].put(name, WATCH)


async def test_a_new_article_takes_nobodys_place(made: Made) -> None:
    """Unless one says that one edits."""
    library, _, domain = made
    with pytest.raises(ConflictError, match="an id that is free"):
        await library.put(shipped(domain), WATCH, is_new=True)


def test_who_reads_while_articles_are_exchanged_sees_one_set() -> None:
    """An iterator that was begun ends with what it began with."""
    live = LiveArticles({"a": None, "b": None})  # type: ignore[dict-item]
    names = iter(live)
    live.exchange({"c": None})  # type: ignore[dict-item]
    assert (list(names), list(live)) == (["a", "b"], ["c"])


async def test_the_nearest_article_is_told_with_its_cosine(made: Made) -> None:
    """So that one sees whether to mend it or to write another."""
    library, _, domain = made
    (article, fit), *_ = await library.nearest(["When are you open?"])
    assert (article.id, fit > 0.5) == (shipped(domain), True)
    assert await library.nearest([]) == []
    assert await library.groups([]) == []


async def test_groups_follow_the_articles_that_are_searched_now(made: Made) -> None:
    """A cosine of 2 / 3 by "my watch" makes a topic, until every article speaks of that."""
    library, _, _ = made
    asked = ["my watch now", "my watch lost"]
    before = await library.groups(asked)
    for number in range(8):
        text = WATCH.replace("Paying by watch", f"Watch {number}").replace(
            "Can I pay with my watch?", f"My watch {number}"
        )
        await library.put(f"watch_{number}", text)
    assert (sorted(before[0]), await library.groups(asked)) == ([0, 1], [[0], [1]])
