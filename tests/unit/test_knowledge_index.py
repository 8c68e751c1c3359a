"""Retrieval: each text is embedded once, rare words find their article, and nobody's text is a query language."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bot.domain import Article, Domain, Trigger
from bot.knowledge.index import KnowledgeIndex
from bot.knowledge.retrieval import Retriever
from tests.service_rig import make_domain

VOCABULARY = ("card", "lost", "transfer", "money", "open", "hello")


class WordEmbedder:
    """Counts words of a small vocabulary, and every text it was given."""

    def __init__(self, name: str = "words:1") -> None:
        self.name = name
        self.seen: list[str] = []

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.seen += texts
        counts = np.array([[0.01 + text.lower().count(word) for word in VOCABULARY] for text in texts], np.float32)
        unit: npt.NDArray[np.float32] = counts / np.linalg.norm(counts, axis=1, keepdims=True)
        return unit


ARTICLES = {
    "arrival": Article("arrival", "Card arrival", "It comes by post.", ("when does my card come", "card open card")),
    "lost": Article("lost", "Lost card", "Freeze it in the app.", ("I lost my card",)),
    "transfer": Article("transfer", "Transfer money", "Use an IBAN or error code ZX81.", ("send money transfer",)),
}
DOMAIN = make_domain(
    articles=ARTICLES, triggers={"utter_greet": Trigger(("hello",)), "utter_out_of_scope": Trigger((), 0.3)}
)


@pytest.fixture
def index() -> Iterator[KnowledgeIndex]:
    """In memory."""
    opened = KnowledgeIndex()
    yield opened
    opened.close()


async def built(index: KnowledgeIndex, embedder: WordEmbedder | None = None, domain: Domain = DOMAIN) -> Retriever:
    """A retriever that is ready."""
    retriever = Retriever(domain, index, embedder or WordEmbedder())
    await retriever.build()
    return retriever


def with_article(article: Article) -> Domain:
    return replace(DOMAIN, articles=ARTICLES | {article.id: article})


# --- embeddings -------------------------------------------------------------------------------------------------------


async def test_each_text_is_embedded_once(tmp_path: Path) -> None:
    """Also over a restart."""
    embedder = WordEmbedder()
    for _ in range(2):
        index = KnowledgeIndex(tmp_path / "new" / "knowledge.db")
        await built(index, embedder)
        index.close()
    assert len(embedder.seen) == len(set(embedder.seen)) == 8


async def test_a_text_that_stands_twice_is_embedded_once(index: KnowledgeIndex) -> None:
    """And its vector is given to both."""
    embedder = WordEmbedder()
    vectors = await index.vectors(["card", "lost", "card"], embedder)
    assert embedder.seen == ["card", "lost"]
    assert np.array_equal(vectors[0], vectors[2])
    assert (await index.vectors([], embedder)).shape[0] == 0


async def test_a_changed_article_costs_only_what_changed(index: KnowledgeIndex) -> None:
    """And its new words are found, its old ones are not."""
    embedder = WordEmbedder()
    await built(index, embedder)
    embedder.seen.clear()
    changed = with_article(replace(ARTICLES["lost"], answer="Call the desk about a purloined one."))
    retriever = await built(index, embedder, changed)
    assert embedder.seen == []
    assert index.match("purloined", 1) == ["lost"]
    assert index.match("freeze", 1) == []
    await built(index, embedder, with_article(replace(ARTICLES["lost"], questions=("my card is lost",))))
    assert embedder.seen == ["my card is lost"]
    assert retriever.domain is changed


async def test_vectors_of_another_encoder_are_not_mixed_in(index: KnowledgeIndex) -> None:
    """The same text is embedded again."""
    await built(index, WordEmbedder("words:1"))
    other = WordEmbedder("words:2")
    await built(index, other)
    assert len(other.seen) == 8


async def test_the_revision_changes_with_the_texts(index: KnowledgeIndex) -> None:
    """With a question, an example, an id or the encoder; not with an answer, nor by building again."""
    revision = (await built(index)).revision
    assert (await built(index)).revision == revision
    others = [
        with_article(replace(ARTICLES["lost"], questions=("gone",))),
        replace(DOMAIN, triggers={"utter_greet": Trigger(("hi",))}),
        replace(DOMAIN, articles={**ARTICLES, "lost": ARTICLES["lost"], "missing": replace(ARTICLES["lost"], id="m")}),
    ]
    revisions = [(await built(index, domain=domain)).revision for domain in others]
    revisions.append((await built(index, WordEmbedder("words:2"))).revision)
    assert len({revision, *revisions}) == 5


# --- finding ----------------------------------------------------------------------------------------------------------


async def test_articles_come_best_first_with_their_cosines(index: KnowledgeIndex) -> None:
    """And every trigger, separately."""
    found = await (await built(index)).find("I lost it, lost", 2)
    assert [candidate.name for candidate in found.articles] == ["lost", "transfer"] or len(found.articles) == 2
    assert found.articles[0].name == "lost"
    assert found.articles[0].similarity > found.articles[1].similarity
    assert [candidate.name for candidate in found.triggers] == ["utter_greet"]


async def test_the_best_full_text_match_is_one_candidate_more(index: KnowledgeIndex) -> None:
    """A rare word the encoder knows nothing of; it takes nobody's place, and one already there is not doubled."""
    retriever = await built(index)
    plain = [candidate.name for candidate in (await retriever.find("card card", 2)).articles]
    rare = [candidate.name for candidate in (await retriever.find("card card ZX81", 2)).articles]
    assert plain == ["arrival", "lost"]
    assert rare == ["arrival", "lost", "transfer"]
    assert len((await retriever.find("card ZX81", 3)).articles) == 3


@pytest.mark.parametrize(
    "text",
    ['"', "a OR b", "NEAR(card lost)", "body:card", "card*", "^card", "{card}", "(card", "-card", "card AND", "'; drop",
     "NOT card", "", "   ", "\x00", "😀", "١٢", "x" * 100_000, "card " * 50_000],
)  # fmt: skip
async def test_operators_in_a_text_are_only_text(index: KnowledgeIndex, text: str) -> None:
    """And so are quotes, emptiness, 100 kB."""
    retriever = await built(index)
    found = await retriever.find(text, 2)
    assert 2 <= len(found.articles) <= 3
    assert index.match("freeze", 1) == ["lost"]


def test_an_operator_would_be_one_without_the_quotes(index: KnowledgeIndex) -> None:
    """The control: FTS5 refuses such a text."""
    index.put_articles(ARTICLES)
    with pytest.raises(Exception, match="fts5"):
        index._db.execute("select id from articles where articles match ?", ["(card"]).fetchall()
    assert index.match("(card", 3) != []


async def test_an_article_may_have_a_trigger_s_name(index: KnowledgeIndex) -> None:
    """Both keep their own texts."""
    named = replace(ARTICLES["lost"], id="utter_greet")
    domain = replace(DOMAIN, articles={"utter_greet": named, "transfer": ARTICLES["transfer"]})
    found = await (await built(index, domain=domain)).find("I lost my card", 1)
    assert [candidate.name for candidate in found.articles] == ["utter_greet"]
    assert found.articles[0].similarity > 0.9
    assert found.triggers[0].similarity < 0.5


async def test_a_domain_with_one_article_and_no_trigger_is_searched_too(index: KnowledgeIndex) -> None:
    """Asked for more candidates than there are."""
    domain = replace(DOMAIN, articles={"lost": ARTICLES["lost"]}, triggers={})
    found = await (await built(index, domain=domain)).find("transfer", 8)
    assert [candidate.name for candidate in found.articles] == ["lost"]
    assert found.triggers == ()


async def test_many_questions_are_embedded_together_and_found_as_one_by_one(index: KnowledgeIndex) -> None:
    """One call, the same candidates."""
    retriever = await built(index)
    questions = ["lost card", "send money", "hello"]
    assert await retriever.find_all(questions, 2) == [await retriever.find(question, 2) for question in questions]
