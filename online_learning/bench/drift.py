"""`--setting drift`: some articles, and the questions they answer, appear in the middle of the stream.

Before and after are judged with all articles in place, so that the difference is what was learned and not what the
choice among more articles costs. What becomes of the old articles is also the measure of forgetting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bot.errors import ConfigError
from online_learning.bench.cells import Cell, by_group, change
from online_learning.bench.scenario import Material, Plan, Scenario, asking
from online_learning.evaluate import Question
from online_learning.simulate.users import TURNS_PER_USER
from online_learning.statistics import seeded

NUM_NEW = 12
"""Articles that appear; of few articles a fifth."""
NEW_TURNS = 800
"""Most questions for new articles in the stream."""
NEW_SHARE = 0.4
"""Of the turns after they have appeared."""


def scenario(material: Material, plan: Plan) -> Scenario:
    """Two halves: the old articles alone, then all."""
    rng = seeded(plan.seed, "drift")
    names = sorted({question.answer for question in material.questions})
    new = set(rng.choice(names, min(NUM_NEW, len(names) // 5), replace=False).tolist())
    mixed = [material.questions[i] for i in rng.permutation(len(material.questions))]
    ours, theirs = ([q for q in mixed if (q.answer in new) is is_new] for is_new in (True, False))
    num_first = plan.num_turns // 2 // TURNS_PER_USER * TURNS_PER_USER
    first, second = theirs[:num_first], _mixed(ours, theirs[num_first:], plan.num_turns - num_first)
    articles = {name: article for name, article in material.domain.articles.items() if name not in new}
    return Scenario(
        phases=(
            asking(replace(material.domain, articles=articles), first, plan, len(first)),
            asking(material.domain, second, plan, len(second), after=num_first),
        ),
        judged=material.judged,
        groups=["new" if question.answer in new else "old" for question in material.judged],
    )


def _mixed(ours: Sequence[Question], theirs: Sequence[Question], count: int) -> list[Question]:
    num_new = min(NEW_TURNS, round(NEW_SHARE * count), len(ours))
    if not num_new or len(theirs) < count - num_new:
        raise ConfigError(f"drift: expected {count - num_new} more questions for old articles, got {len(theirs)}")
    return [*ours[:num_new], *theirs[: count - num_new]]


def figures(cells: Sequence[Cell]) -> dict[str, Any]:
    """Accuracy on new and old articles when the new ones appear, and at the end."""
    found: dict[str, Any] = {}
    for group in ("new", "old"):
        found |= {f"{group}_{edge}": by_group(cells, "right", group, edge) for edge in ("before", "after")}
        found[f"{group}_diff_ci"] = change(cells, "right", group)
    return found | {"peers_after": _peers(cells)}


def _peers(cells: Sequence[Cell]) -> Mapping[str, Mapping[str, float]]:
    return {
        name: {group: by_group(cells, "right", group, "after", peer=name) for group in ("new", "old")}
        for name in cells[0]["peer_marks"]
    }
