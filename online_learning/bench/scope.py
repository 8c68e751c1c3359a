"""`--setting scope`: a share of the questions has no answer here; right is to hand over, or to say that it is out of scope.

How a fresh install decides: the out-of-scope response has a fixed score (the domain's `floor`, a cosine), and the
hand-over that of its examples; whichever beats every article is the mode. Learning moves the articles' side of it.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bot.conversation import LegalAct
from bot.errors import ConfigError
from online_learning.bench.cells import Cell, by_group, change
from online_learning.bench.scenario import HANDOFF, OUT_OF_SCOPE, Material, Plan, Scenario, asking, right_and_served
from online_learning.evaluate import Question
from online_learning.offline import Outlook
from online_learning.statistics import seeded

SHARE = 0.15
"""Of the stream, and of the judged questions, that is out of scope."""
NO_LABEL = "NO_NODES_DETECTED"
"""HINT3's label of what its bots do not answer."""


# --- files ------------------------------------------------------------------------------------------------------------
def load_outside(files: Sequence[Path]) -> list[str]:
    """Questions of all files, each once. Raises ConfigError naming the file."""
    return list(dict.fromkeys(text for path in files for text in _texts(path)))


def _texts(path: Path) -> Iterator[str]:
    """Rows `{"text"}` of JSONL; CSV columns sentence and label (HINT3); a JSON object's lists `oos*` (CLINC150)."""
    reader = {".csv": _hint3, ".json": _clinc150}.get(path.suffix, _rows)
    try:
        found = [text.strip() for text in reader(path) if text.strip()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f'{path}: expected rows {{"text": ...}}, HINT3 or CLINC150, got {error!r}') from error
    if not found:
        raise ConfigError(f"{path}: expected out-of-scope questions, got none")
    yield from found


def _rows(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def _hint3(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as stream:
        return [row["sentence"] for row in csv.DictReader(stream) if row["label"] == NO_LABEL]


def _clinc150(path: Path) -> list[str]:
    lists = json.loads(path.read_text(encoding="utf-8"))
    return [row[0] for name, rows in lists.items() if name.startswith("oos") for row in rows]


# --- the setting ------------------------------------------------------------------------------------------------------
def scenario(material: Material, plan: Plan) -> Scenario:
    """Questions of one half of the out-of-scope rows are asked, those of the other half judged."""
    asked, judged = split(material.outside)
    rng = seeded(plan.seed, "scope")
    num_outside = round(SHARE * plan.num_turns)
    outside = [asked[i] for i in rng.permutation(len(asked))[:num_outside]]
    inside = [material.questions[i] for i in rng.permutation(len(material.questions))[: plan.num_turns - num_outside]]
    if len(outside) < num_outside:
        raise ConfigError(f"scope: expected {2 * num_outside} out-of-scope rows or more, got {len(material.outside)}")
    pool = [*inside, *(Question(text, "") for text in outside)]
    kept = judged[: round(SHARE / (1 - SHARE) * len(material.judged))]
    return Scenario(
        phases=(asking(material.domain, pool, plan, len(pool)),),
        judged=[*material.judged, *(Question(text, "") for text in kept)],
        groups=["in"] * len(material.judged) + ["out"] * len(kept),
        legal=_with_refusals,
        marks=_marks,
    )


def split(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """(to ask, to judge), by a hash of the text and in its order: whatever is chosen on one half stays off the other."""
    hashed = sorted((hashlib.sha256(text.encode()).hexdigest(), text) for text in texts)
    halves = ([text for name, text in hashed if int(name, 16) % 2 == parity] for parity in (0, 1))
    asked, judged = halves
    return asked, judged


def _with_refusals(legal: Sequence[LegalAct]) -> tuple[LegalAct, ...]:
    return tuple(act for act in legal if act.act.startswith("answer:") or act.act in (HANDOFF, OUT_OF_SCOPE))


def _marks(question: Question, outlook: Outlook) -> dict[str, float]:
    """`handed_over`: whether the most probable act refuses."""
    refuses = float(outlook.mode in (HANDOFF, OUT_OF_SCOPE))
    return right_and_served(question, outlook) | {"handed_over": refuses}


def figures(cells: Sequence[Cell]) -> dict[str, Any]:
    """Out-of-scope questions that are refused, and questions in scope that are."""
    found: dict[str, Any] = {}
    for name, (mark, group) in _FIGURES.items():
        found |= {f"{name}_start": by_group(cells, mark, group, "before"), name: by_group(cells, mark, group, "after")}
        found[f"{name}_diff_ci"] = change(cells, mark, group)
    return found | {"peers_scope": {peer: _of_peer(cells, peer) for peer in cells[0]["peer_marks"]}}


def _of_peer(cells: Sequence[Cell], peer: str) -> Mapping[str, float]:
    return {name: by_group(cells, mark, group, "after", peer=peer) for name, (mark, group) in _FIGURES.items()}


_FIGURES = {
    "oos_right": ("right", "out"),
    "in_scope_handed_over": ("handed_over", "in"),
    "in_scope_accuracy": ("right", "in"),
}
"""Figure -> (mark, group)."""
