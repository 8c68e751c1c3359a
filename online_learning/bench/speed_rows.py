"""Rows to time the learner on: real questions and candidates, choices drawn from the fresh install, replies in real words.

Replies are the articles' approved answers, cut as the server cuts a reply, with the log-probabilities that the base model
gives them: the learner meets the lengths, sources and masks it would meet, and every row re-scores. Nothing is sampled
from the language model, which would take longer than what is timed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice, product

import torch

from bot import render
from bot.conversation import BASE_VERSION, Decision, Generated, State, Turn
from bot.domain import Domain
from bot.policy.adapted import BASE
from bot.policy.causal import CausalPart
from bot.policy.model import ActRow, PolicyModel, draw
from online_learning.evaluate import Question
from online_learning.offline import OfflinePolicy
from online_learning.statistics import seeded

TURNS_A_CONVERSATION = 5
_WAYS = ("", "please", "thanks", "today", "quickly", "again", "for me", "hello,", "now", "in the app", "I am abroad,")


def distinct(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """`count` questions of different wording: the given ones in random order, then with a word or two around them."""
    order = seeded(seed, "speed").permutation(len(questions))
    ways = sorted(product(_WAYS, _WAYS), key=lambda way: bool(way[0]) + bool(way[1]))
    said = (Question(f"{a} {questions[i].text} {b}".strip(), questions[i].answer) for a, b in ways for i in order)
    return list(islice(cycle(said), count))


@torch.no_grad()
def decisions(
    model: PolicyModel, policy: OfflinePolicy, questions: Sequence[Question], seed: int, batch_size: int = 64
) -> Iterator[Decision]:
    """One decision a question, five a conversation, as the fresh install would have made them."""
    for start in range(0, len(questions), batch_size):
        rows = policy.rows([question.text for question in questions[start : start + batch_size]])
        logprobs_B_A = model.score(rows, [BASE] * len(rows)).logprobs_B_A
        for i, row in enumerate(rows):
            yield _decision(start + i, questions[start + i], row, logprobs_B_A[i, : len(row.legal)].cpu(), model, seed)


def _decision(
    number: int, question: Question, row: ActRow, logprobs_A: torch.Tensor, model: PolicyModel, seed: int
) -> Decision:
    conversation = number // TURNS_A_CONVERSATION
    return Decision(
        id=f"d{number}",
        conversation_id=f"c{conversation}",
        person_id=f"p{conversation}",
        turn=number % TURNS_A_CONVERSATION + 1,
        created_at=float(number),
        query=question.text,
        query_ids=row.query_ids,
        prompt=row.prompt,
        legal=row.legal,
        logprobs=tuple(logprobs_A.tolist()),
        chosen=draw(logprobs_A.double(), int(seeded(seed, f"speed act {number}").integers(2**62))),
        mode=int(logprobs_A.argmax()),
        value=0.0,
        version=BASE_VERSION,
        parts=model.parts,
        temperature=row.temperature,
        knowledge_revision="bench",
        timings_ms={"choose": 15.0},
    )


@torch.no_grad()
def replies(
    writer: CausalPart, domain: Domain, asked: Sequence[Question], temperature: float, max_tokens: int
) -> Iterator[Generated]:
    """What the base model would have written, had it said the approved answer word for word, five in a conversation."""
    turns: list[Turn] = []
    for number, question in enumerate(asked):
        answer = domain.articles[question.answer].answer
        turns = [*(turns if number % TURNS_A_CONVERSATION else []), Turn("user", question.text)]
        state = State("bench", tuple(turns))
        prompt_ids = writer.prompt_ids(render.reply_prompt(state, domain.persona, (answer,)))
        said = tuple(writer.tokenizer(answer, add_special_tokens=False)["input_ids"][:max_tokens])
        bare = Generated(prompt_ids, said, (), temperature, (answer,), answer, "length")
        logprobs = writer.token_logprobs([bare], [BASE])[0][0].tolist()
        turns.append(Turn("bot", answer))
        yield Generated(prompt_ids, said, tuple(logprobs), temperature, (answer,), answer, "length")
