"""Articles that are edited while the learner runs: its conversation tests meet them in the next update, without a restart."""

from __future__ import annotations

import os
from pathlib import Path

from online_learning.articles import ArticlesOnDisk
from online_learning.offline import ConversationTests, OfflinePolicy
from online_learning.update import CURRENT
from tests.learner_rig import Home

HOURS = "---\ntitle: {title}\nquestions:\n{questions}\n---\nFrom nine to five.\n"
OTHER = HOURS.format(title="Pets in the branch", questions="  - May I bring my dog")
SAME = HOURS.format(title="Hours and more", questions="  - When are you open?\n  - When are you open")


def write(home: Home, name: str, text: str) -> Path:
    """As the server does: aside, then renamed, even where the clock stands still."""
    path = home.settings.own_articles / home.domain.name / f"{name}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    aside.write_text(text)
    os.utime(aside, ns=(0, 0))
    return aside.rename(path)


def test_an_edit_is_met_by_the_next_update(home: Home) -> None:
    """The test asks for `opening_hours`; an edit that takes its question away fails it, the next one mends it."""
    articles, loop = ArticlesOnDisk(home.settings), home.loop()
    loop.tests = ConversationTests(
        OfflinePolicy(loop.learner.model, articles.domain, home.settings), articles.domain, articles.reread
    )
    loop.resume()
    passed, all_failed = loop.tests.results(CURRENT).passed, frozenset({"hours are told"})
    assert passed == all_failed
    write(home, "opening_hours", OTHER)
    assert loop.tests.results(CURRENT).passed == passed  # the control: not within an update
    loop.tests.refresh()
    assert loop.tests.results(CURRENT).failed == all_failed
    write(home, "opening_hours", SAME)
    home.teach([("my card please", "card_arrival", 1), ("my card please", "lost_card", -1)] * 2)
    loop.step()
    assert home.store.updates()[-1].metrics["gate"]["tests_passed"] == 1
    assert loop.tests.results(CURRENT).passed == passed


def test_only_what_changed_is_read_and_what_cannot_be_read_changes_nothing(home: Home) -> None:
    """An edit, a removal; a file of the same size and time; a broken one."""
    articles = ArticlesOnDisk(home.settings)
    assert not articles.reread()
    path = write(home, "pets", OTHER)
    assert (articles.reread(), articles.reread(), "pets" in articles.domain.articles) == (True, False, True)
    write(home, "pets", OTHER.replace("nine", "five"))
    assert articles.reread()
    assert articles.domain.articles["pets"].answer == "From five to five."
    write(home, "pets", "no article")
    assert not articles.reread()
    assert articles.domain.articles["pets"].answer == "From five to five."
    path.unlink()
    assert (articles.reread(), "pets" in articles.domain.articles) == (True, False)
