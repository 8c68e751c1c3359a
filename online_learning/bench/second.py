"""`--setting second`: what people do besides voting is heard too.

Whoever got a wrong answer asks again, with another real question about the same thing. The server notices what its
own detector notices (`bot.feedback.signals`). Of every tenth conversation the back office knows whether it ended well.
The same people with thumbs alone are run beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from bot.conversation import Decision, Signal, SignalKind
from bot.feedback.signals import rephrase_signal
from online_learning.bench.cells import Cell, mean
from online_learning.bench.scenario import BLOCK_TURNS, Material, Phase, Plan, Scenario, Talk
from online_learning.evaluate import Question
from online_learning.simulate.users import TURNS_PER_USER, Turn, turns
from online_learning.statistics import paired_difference, seeded

KNOWN_OUTCOMES = 0.1
"""Share of conversations whose outcome the back office reports."""


def scenario(material: Material, plan: Plan) -> Scenario:
    """One phase; the control hears thumbs only."""
    phase = Phase(material.domain, material.questions, partial(_talk, material.questions, plan))
    control = Scenario((phase,), material.judged)
    return replace(control, besides=partial(_besides, plan), control=control)


def _talk(questions: Sequence[Question], plan: Plan) -> Talk:
    """A block is one turn each of as many people: what one says next depends on the reply."""
    same: defaultdict[str, list[Question]] = defaultdict(list)
    for question in questions:
        same[question.answer].append(question)
    rng = seeded(plan.seed, "rephrase")
    asked = turns(questions, plan.num_turns, plan.rate, plan.seed)
    for _, cohort in groupby(asked, key=lambda turn: turn.user // BLOCK_TURNS):
        people = [list(said) for _, said in groupby(cohort, key=lambda turn: turn.user)]
        failed: dict[int, Question] = {}
        for number in range(TURNS_PER_USER):
            due = [said[number] for said in people if number < len(said)]
            block = [_again(turn, failed.get(turn.user), same, rng) for turn in due]
            if block:
                rights = yield block
                failed = {t.user: t.question for t, right in zip(block, rights, strict=True) if not right}


def _again(
    turn: Turn, failed: Question | None, same: Mapping[str, Sequence[Question]], rng: np.random.Generator
) -> Turn:
    """Instead of what the person would have asked next: what was not answered, in other words."""
    if failed is None:
        return turn
    others = [question for question in same[failed.answer] if question.text != failed.text]
    return replace(turn, question=others[rng.integers(len(others))] if others else failed)


def _besides(plan: Plan, turn: Turn, reply: Decision, is_right: bool, before: Decision | None) -> list[Signal]:
    found = []
    if before is not None:
        found.append(rephrase_signal(before, before.query, reply.query, reply.created_at))
    is_last = turn.number % TURNS_PER_USER == TURNS_PER_USER - 1 or turn.number == plan.num_turns - 1
    if is_last and seeded(plan.seed, f"outcome {turn.user}").random() < KNOWN_OUTCOMES:
        found.append(_outcome(reply, is_right=is_right))
    return [signal for signal in found if signal is not None]


def _outcome(reply: Decision, *, is_right: bool) -> Signal:
    """Whatever failed was asked again: a conversation ended well when its last reply was right."""
    return Signal(
        key=f"outcome-{reply.conversation_id}",
        conversation_id=reply.conversation_id,
        kind=SignalKind.OUTCOME,
        value=float(is_right),
        author="backoffice",
        created_at=reply.created_at,
        source="backoffice",
    )


def figures(cells: Sequence[Cell]) -> dict[str, Any]:
    """Accuracy beside the same people with thumbs alone; how many signals were noticed."""
    after, alone = (
        np.concatenate([np.array(cell["marks"]["after"]["right"]) for cell in found])
        for found in (cells, [cell["control"] for cell in cells])
    )
    questions = np.tile(np.arange(len(after) // len(cells)), len(cells))
    found = paired_difference(after, alone, seeded(0, "bench learn"), questions)
    return {
        "thumbs_only": mean([cell["control"]["curve"][-1]["accuracy"] for cell in cells]),
        "thumbs_only_served": mean([cell["control"]["curve"][-1]["accuracy_served"] for cell in cells]),
        "second_diff": round(found.mean, 4),
        "second_diff_ci": [round(found.lo, 4), round(found.hi, 4)],
        "second_signals": {name: sum(cell["besides"].get(name, 0) for cell in cells) for name in _COUNTED},
    }


_COUNTED = ("asked_after_wrong", SignalKind.REPHRASE.value, SignalKind.OUTCOME.value)
"""How often somebody had to ask again, how often that was noticed, and how many outcomes were reported."""
