"""What the policy is shown is what retrieval read; what people see is what was typed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.session_rig import Found, ScriptedKnowledge, open_session


class Reader(ScriptedKnowledge):
    """Mends one word."""

    async def find(self, query: str, num_articles: int) -> Found:
        found = await super().find(query, num_articles)
        return replace(found, query=query.replace("crad", "card"))


async def test_the_row_keeps_what_was_read_and_the_transcript_what_was_typed(tmp_path: Path) -> None:
    """The learner re-scores the question that the policy saw."""
    with open_session(tmp_path / "home") as rig:
        rig.session = rig.new_session(knowledge=Reader())
        reply = await rig.say("where is my crad")
        assert rig.decision_of(reply).query == "where is my card"
        assert rig.store.messages("c1")[0].text == "where is my crad"
