"""`--setting wording`: every answer comes in two wordings, each an act; one group of people likes one of them.

Which group somebody belongs to shows only in what they ask about: the articles with the most frequent word in their
ids ("card" in a bank). The others like both alike, so for them nothing should change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from bot.conversation import LegalAct
from online_learning.bench.cells import Cell, by_group, change
from online_learning.bench.scenario import Material, Plan, Scenario, asking, is_right, p_up, right_and_served
from online_learning.evaluate import Question
from online_learning.offline import Outlook
from online_learning.simulate.users import Noise

WORDINGS = ("Please be informed as follows regarding your request.", "Happy to help! Here is what you can do.")
LIKED = "#1"
"""End of the ids of acts in the second wording."""
DISLIKE = 0.35
"""How much less often a right answer in the other wording gets a thumb up, from those who have a preference."""


def scenario(material: Material, plan: Plan) -> Scenario:
    """One phase; the most frequent word of the articles' ids tells who has a preference."""
    names = list(material.domain.articles)
    word = Counter(word for name in names for word in set(name.split("_"))).most_common(1)[0][0]
    picky = frozenset(name for name in names if word in name.split("_"))
    return Scenario(
        phases=(asking(material.domain, material.questions, plan, plan.num_turns),),
        judged=material.judged,
        groups=["picky" if question.answer in picky else "others" for question in material.judged],
        legal=worded,
        p_up=partial(_p_up, picky),
        marks=_marks,
    )


def worded(legal: Sequence[LegalAct]) -> tuple[LegalAct, ...]:
    """Each answer in both wordings."""
    answers = [act for act in legal if act.act.startswith("answer:")]
    return tuple(
        LegalAct(f"{act.act}{tail}", (*act.texts, text), act.prior_logit)
        for act in answers
        for tail, text in zip(("", LIKED), WORDINGS, strict=True)
    )


def _p_up(picky: frozenset[str], question: Question, act: str, noise: Noise) -> float:
    disliked = question.answer in picky and is_right(act, question) and not act.endswith(LIKED)
    return max(0.0, p_up(question, act, noise) - DISLIKE * disliked)


def _marks(question: Question, outlook: Outlook) -> dict[str, float]:
    """`liked_served`: probability of the second wording, of whatever answer; `liked`: whether the mode has it."""
    served = sum(outlook.probability(act) for act in outlook.acts if act.endswith(LIKED))
    return right_and_served(question, outlook) | {"liked": float(outlook.mode.endswith(LIKED)), "liked_served": served}


def figures(cells: Sequence[Cell]) -> dict[str, Any]:
    """Share of the liked wording among what is served, and among modes, in both groups."""
    found: dict[str, Any] = {}
    for group in ("picky", "others"):
        for edge in ("before", "after"):
            found[f"liked_{group}_{edge}"] = by_group(cells, "liked_served", group, edge)
            found[f"liked_{group}_{edge}_mode"] = by_group(cells, "liked", group, edge)
        found[f"liked_{group}_diff_ci"] = change(cells, "liked_served", group)
    peers = {
        peer: {group: by_group(cells, "liked", group, "after", peer=peer) for group in ("picky", "others")}
        for peer in cells[0]["peer_marks"]
        if peer != "probe"  # Labels name articles, not wordings.
    }
    return found | {"peers_liked_mode": peers}
