"""Operators' own words as rows that teach the causal part. Reads the store, no tensors; keeps nothing.

What stands in the *cases* in force is all there is: a case that was taken back, whose person does not want to be learned
from, or whose conversation was erased is none, so its words are in no update from then on.

1. `demonstrated` finds what was asked (the conversation up to that message) and the article that the words rest on: the one
   the reply had for its source, or that the operator called right; for a reply of the operator's own the draft's, else the
   article that says most of it. Caps, quorum and the gate's conversations are as for rated rows.
2. `spelled` makes of it the row that a version would have written: the prompt of a generated reply, and its tokens.

What is left out is counted by reason. Words that the article does not say would teach to pass over sources; a name that it
does not hold is a customer's as often as not; numbers, links and addresses that it does not hold are masked when replies
are written, so nothing could be learned of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bot import render
from bot.conversation import Act, ActKind, Decision, Generated, Message, State, Turn
from bot.domain import Article, Domain
from bot.errors import NotFound
from bot.feedback.desk_records import Case, case_of_reply
from bot.feedback.store import Store
from bot.feedback.text_metrics import words
from bot.policy.grounding import amounts, ungrounded
from bot.policy.vocabulary import Vocabulary, can_be_written

CASES_READ = 512
"""Newest cases that are looked through."""
LEAST_SHARE = 0.35
"""Of a text's longer words, the share that its article must hold. Of 48 answers in operators' words all hold more of their own
article's; of another article's one in fifty does (`bench.house_style` on the bank domain)."""
LONGER = 4
"""Letters of a longer word; in scripts without spaces each character is a word and counts."""
_INSIDE = re.compile(r"(?<=[^\s.!?:] )\w[\w'’-]*")
"""Words that do not begin a sentence."""
_PRONOUN = re.compile(r"I(?:['’]\w+)?")


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What an operator said where the bot should have: the words, and what a version would have read before them."""

    case_id: str
    author: str
    topic: str
    """Act id of the article it rests on."""
    prompt: str
    source: str
    text: str
    was_generated: bool
    """Whether the reply that it corrects was."""


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """Rows that may teach, newest first, and how many were left out for which reason."""

    rows: tuple[Demonstration, ...]
    refused: Mapping[str, int]
    """Reason (`asked`, `holdout`, `consent`, `source`, `names`, `amounts`, `quorum`, `cap`, `length`) -> rows."""


@dataclass(frozen=True, slots=True)
class Caps:
    """Whose words count, and how often."""

    topics: Collection[str] | None
    """Acts that have their quorum; None: all may teach."""
    per_author_topic: int
    per_conversation: int
    rows: int
    """In all."""


class Unfit(Exception):
    """A case does not teach words; says why."""


def demonstrated(store: Store, domain: Domain, caps: Caps) -> Demonstrated:
    """The newest words of cases in force that may teach."""
    kept, refused = list[Demonstration](), Counter[str]()
    used = Counter[tuple[str, str]]()
    seen = set[str]()
    for case in store.desk.cases(in_force=True, limit=CASES_READ):
        place = case.decision_id or case.id
        if not case.text or place in seen:  # Of several corrections of one reply the newest holds.
            continue
        seen.add(place)
        try:
            row = _demonstration(store, domain, case)
            _check_caps(row, case, caps, used)
        except Unfit as reason:
            refused[str(reason)] += 1
            continue
        kept.append(row)
        if len(kept) == caps.rows:
            break
    return Demonstrated(tuple(kept), dict(refused))


def _check_caps(row: Demonstration, case: Case, caps: Caps, used: Counter[tuple[str, str]]) -> None:
    if caps.topics is not None and row.topic not in caps.topics:
        raise Unfit("quorum")
    places = {(row.author, row.topic): caps.per_author_topic, ("", case.conversation_id): caps.per_conversation}
    if any(used[place] >= most for place, most in places.items()):
        raise Unfit("cap")
    used.update(places.keys())


def _demonstration(store: Store, domain: Domain, case: Case) -> Demonstration:
    decisions = store.conversation_decisions(case.conversation_id)
    if any(decision.holdout for decision in decisions):
        raise Unfit("holdout")
    if not all(decision.train_ok for decision in decisions):  # Their turns may stand in the prompt.
        raise Unfit("consent")
    corrected = next((decision for decision in decisions if decision.id == case.decision_id), None)
    turns = _turns(store.messages(case.conversation_id), case, corrected)
    article = _article(store, domain, case)
    _check_words(case.text, article, domain.persona)
    return Demonstration(
        case.id,
        case.author,
        Act(ActKind.ANSWER, article.id).id,
        render.reply_prompt(State(case.conversation_id, turns), domain.persona, (article.answer,)),
        article.answer,
        case.text,
        corrected is not None and corrected.generated is not None,
    )


def _turns(lines: Sequence[Message], case: Case, corrected: Decision | None) -> tuple[Turn, ...]:
    """The conversation up to the message that was answered."""
    asked = [line.seq for line in lines if line.role == "user"]
    if corrected is not None:
        asked = asked[: corrected.turn]
    else:
        said = next((line.seq for line in lines if case_of_reply(line.id) == case.id), 0)
        asked = [seq for seq in asked if seq < said]
    if not asked:
        raise Unfit("asked")
    return tuple(
        Turn(line.role, line.text, line.act) for line in lines if line.seq <= asked[-1] and line.role != "system"
    )


def _article(store: Store, domain: Domain, case: Case) -> Article:
    """Which one the words rest on."""
    try:
        act = Act.parse(store.decision(case.lesson_id).act if case.lesson_id else case.draft_act)
    except (NotFound, ValueError):
        act = Act(ActKind.HANDOFF)
    if act.kind is ActKind.ANSWER and act.target in domain.articles:
        return domain.articles[act.target]
    if not domain.articles:
        raise Unfit("source")
    return max(domain.articles.values(), key=lambda article: share_held(case.text, article))


def _check_words(text: str, article: Article, persona: str) -> None:
    if share_held(text, article) < LEAST_SHARE:
        raise Unfit("source")
    if names(text) - set(words(f"{article.title} {article.answer} {persona}")):
        raise Unfit("names")
    if ungrounded(text, (article.answer,)):
        raise Unfit("amounts")


def share_held(text: str, article: Article) -> float:
    """How many of a text's longer words the article holds, 0..1."""
    said = _longer(text)
    return len(said & _longer(f"{article.title} {article.answer}")) / max(1, len(said))


def _longer(text: str) -> set[str]:
    return {word for word in words(text) if len(word) >= LONGER or not word.isascii()}


def names(text: str) -> set[str]:
    """Words with a capital that begin no sentence, case-folded. In languages that write nouns so these are names, too."""
    inside = (match.group() for match in _INSIDE.finditer(text))
    return {part for word in inside if word[0].isupper() and not _PRONOUN.fullmatch(word) for part in words(word)}


def spelled(row: Demonstration, vocabulary: Vocabulary, *, temperature: float, max_tokens: int) -> Generated:
    """The row's words as a reply that a version wrote and ended. Raises Unfit where no version could have written it."""
    token_ids = vocabulary.spelled(row.text)
    if len(token_ids) > max_tokens:
        raise Unfit("length")
    if not can_be_written(vocabulary, token_ids, amounts(row.source)):
        raise Unfit("amounts")
    prompt_ids = vocabulary.prompt_ids(row.prompt)
    return Generated(prompt_ids, token_ids, (), temperature, (row.source,), row.text, "stop")


def all_spelled(
    found: Demonstrated, vocabulary: Vocabulary, *, temperature: float, max_tokens: int
) -> tuple[dict[str, Generated], dict[str, int]]:
    """(case id -> its reply, what was left out by reason, those of `found` among them)."""
    rows, refused = dict[str, Generated](), Counter(found.refused)
    for row in found.rows:
        try:
            rows[row.case_id] = spelled(row, vocabulary, temperature=temperature, max_tokens=max_tokens)
        except Unfit as reason:
            refused[str(reason)] += 1
    return rows, dict(refused)
