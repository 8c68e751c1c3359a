"""The learner dies at each durable step of an update and a new one takes over: every reward counts exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bot.conversation import BASE_VERSION
from bot.feedback.store import Store, UpdateRow
from bot.policy.adapters import AdapterStore, Champion, Manifest
from online_learning.checkpoint import load_checkpoint
from tests.learner_rig import SECRET, Home, open_home, tiny_models

TAUGHT = [("my card please", "card_arrival", 1), ("my card please", "lost_card", -1)] * 2
STEPS = ("stage", "publish", "checkpoint", "commit", "history")
"""Each names what was made durable last: files aside, the version's folder, the checkpoint, the update row, the line in
the pointer's history (the pointer itself is still the old one)."""


class Killed(Exception):
    """The process ends here."""


class DyingAdapters(AdapterStore):
    """Ends the process right after one step."""

    def __init__(self, root: Path, last_step: str) -> None:
        super().__init__(root, SECRET)
        self._last_step = last_step

    def _die_after(self, step: str) -> None:
        if step == self._last_step:
            raise Killed(step)

    def publish(self, staged: Path, manifest: Manifest) -> str:
        self._die_after("stage")
        version = super().publish(staged, manifest)
        self._die_after("publish")
        return version

    def set_champion(self, version: str, reason: str, by: str) -> Champion:
        self._die_after("commit")
        if self._last_step == "history":
            self._log("champion", version, reason, by)
        self._die_after("history")
        return super().set_champion(version, reason, by)


class DyingStore(Store):
    """Ends the process when the checkpoint is on disk and the row is not."""

    def commit_update(self, update: UpdateRow) -> int:
        raise Killed("checkpoint")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def home(tmp_path: Path, models: Path) -> Iterator[Home]:
    """One update is behind it, the thumbs of the next are given."""
    with open_home(tmp_path, models) as opened:
        opened.teach(TAUGHT)
        opened.resumed().step()
        opened.teach(TAUGHT)
        yield opened


def die_after(step: str, home: Home) -> None:
    """A learner process that begins the second update and does not live to its end."""
    parts: dict[str, Any] = {"adapters": DyingAdapters(home.adapters.root, step)}
    if step == "checkpoint":
        parts["store"] = DyingStore(home.settings.database)
    loop = home.resumed(**parts)
    with pytest.raises(Killed):
        loop.step()
    loop.store.close() if step == "checkpoint" else None


def consumed(home: Home) -> list[int]:
    """Rewards each update took in, by the cursors; and the update's own count must say the same."""
    cursors = [0, *(update.cursor for update in home.store.updates())]
    taken = [after - before for before, after in pairwise(cursors)]
    assert taken == [update.metrics["fresh"] for update in home.store.updates()]
    return taken


@pytest.mark.parametrize("step", STEPS)
def test_a_learner_killed_after_a_step_is_taken_over_without_loss_or_doubling(home: Home, step: str) -> None:
    """Same cursor, same versions, champion = last committed version, whenever it died."""
    die_after(step, home)
    loop = home.resumed()
    loop.step()
    assert consumed(home) == [4, 4]
    assert home.adapters.versions() == ["v000001", "v000002"]
    assert home.adapters.champion().version == home.store.updates()[-1].version == "v000002"
    assert not list(home.adapters.root.glob(".staged-*"))
    assert not loop.step()


@pytest.mark.parametrize("step", STEPS)
def test_what_comes_after_a_crash_is_what_would_have_come_without_it(home: Home, step: str, tmp_path: Path) -> None:
    """The weights of the second version are those of a learner that never died."""
    die_after(step, home)
    home.resumed().step()
    crashed = (home.adapters.folder("v000002") / "encoder" / "adapter_model.safetensors").read_bytes()
    (tmp_path / "again").mkdir()
    with open_home(tmp_path / "again", Path(home.settings.model).parent) as other:
        loop = other.resumed()
        for _ in range(2):
            other.teach(TAUGHT)
            loop.step()
        whole = (other.adapters.folder("v000002") / "encoder" / "adapter_model.safetensors").read_bytes()
    assert crashed == whole


@pytest.mark.parametrize(("step", "orphan"), [("stage", ".staged-*"), ("publish", "v000002")])
def test_without_resuming_an_orphan_stays(home: Home, step: str, orphan: str) -> None:
    """Control: what the killed update made is there until `resume` clears it, and never serves meanwhile."""
    die_after(step, home)
    home.loop()
    assert list(home.adapters.root.glob(orphan))
    assert home.adapters.champion().version == "v000001"
    home.loop().resume()
    assert not list(home.adapters.root.glob(orphan))


@pytest.mark.parametrize("step", ["commit", "history"])
def test_without_resuming_a_committed_version_does_not_serve(home: Home, step: str) -> None:
    """Control: the pointer is still the old one, and `resume` alone moves it."""
    die_after(step, home)
    home.loop()
    assert home.adapters.champion().version == "v000001"
    home.loop().resume()
    assert home.adapters.champion().version == "v000002"


@pytest.mark.parametrize("undo", ["freeze", "rollback"])
def test_resuming_does_not_undo_what_an_operator_decided(home: Home, undo: str) -> None:
    """The learner died before it moved the pointer; then an operator froze it, or rolled back."""
    die_after("commit", home)
    getattr(home.adapters, undo)(reason="not now")
    before = home.adapters.champion().version
    home.resumed()
    assert home.adapters.champion().version == before != "v000002"


def test_resuming_after_a_rollback_keeps_the_rollback(home: Home) -> None:
    """A restart must not bring back the version that was rolled back from."""
    home.resumed().step()
    home.adapters.rollback(BASE_VERSION, "worse")
    assert home.resumed().step() is False
    assert home.adapters.champion().version == BASE_VERSION


def test_a_vote_that_changes_while_the_learner_is_dead_is_one_new_revision(home: Home) -> None:
    """First up, then (after the crash) down: both revisions are consumed once, the newest is in the window."""
    changed = home.say("my card please", "lost_card")
    home.vote(changed, 1)
    die_after("publish", home)
    home.vote(changed, -1)
    home.resumed().step()
    revisions = home.store.rewards_of(changed.conversation_id)
    assert [reward.value for reward in revisions] == [0.5, -0.5]
    update = home.store.updates()[-1]
    assert update.cursor == home.store.last_reward_seq()
    assert update.metrics["fresh"] == 5
    window = home.store.window(update.cursor, 100)
    assert [row.reward.value for row in window if row.decision.id == changed.id] == [-0.5]


def test_a_checkpoint_without_its_row_does_not_count(home: Home) -> None:
    """Died between checkpoint and commit: the next learner has the momentum of the update that was committed."""
    die_after("checkpoint", home)
    assert (home.settings.learner / "checkpoint-000002").is_dir()
    taken_over, first = home.resumed().learner, home.loop().learner
    load_checkpoint(home.settings.learner, "checkpoint-000001", first, "v000001")
    steps = [opt.state_dict()["state"][0]["step"] for opt in (taken_over.optimizers["acts"], first.optimizers["acts"])]
    assert steps[0] == steps[1]
