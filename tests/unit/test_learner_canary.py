"""The learner where new versions are tried on a share of conversations first: it publishes, and waits for the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.conversation import BASE_VERSION
from tests.learner_rig import Home, open_home, tiny_models

PLEASE = "my card please"
TAUGHT = [(PLEASE, "card_arrival", 1), (PLEASE, "lost_card", -1)] * 2


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def home(tmp_path: Path, models: Path) -> Iterator[Home]:
    """A tenth of conversations gets a new version first."""
    with open_home(tmp_path, models, rollout={"canary_share": 0.1}) as opened:
        yield opened


def served(home: Home) -> tuple[str, str | None]:
    """Champion and canary."""
    canary = home.adapters.canary()
    return home.adapters.champion().version, canary.version if canary else None


def test_what_passes_the_gate_becomes_a_canary_and_nothing_is_learned_until_its_verdict(home: Home) -> None:
    """Rewards gather meanwhile; once it is champion they make the next version, which descends from it."""
    loop = home.resumed()
    home.teach(TAUGHT)
    assert loop.step()
    assert served(home) == (BASE_VERSION, "v000001")
    home.teach(TAUGHT, version="v000001")
    assert not loop.step()

    home.adapters.promote("v000001", "not worse", "rollout")
    assert loop.step()
    assert served(home) == ("v000001", "v000002")
    assert home.adapters.verify("v000002").parent == "v000001"


def test_after_a_withdrawal_learning_goes_on_from_the_champion(home: Home) -> None:
    """The next version does not descend from what people disliked."""
    loop = home.resumed()
    home.teach(TAUGHT)
    assert loop.step()
    home.adapters.withdraw("thumbs up: 10% against 70%", "rollout")
    home.teach(TAUGHT)
    assert loop.step()

    assert served(home) == (BASE_VERSION, "v000002")
    assert home.adapters.verify("v000002").parent == BASE_VERSION


@pytest.mark.parametrize("ended", ["not", "withdrawn", "promoted"])
def test_a_restarted_learner_leaves_the_canary_as_it_is(home: Home, ended: str) -> None:
    """It neither makes it champion, nor brings it back, nor takes back what was decided."""
    home.teach(TAUGHT)
    assert home.resumed().step()
    if ended == "withdrawn":
        home.adapters.withdraw("test")
    elif ended == "promoted":
        home.adapters.promote("v000001", "test", "rollout")
    before = served(home)

    home.resumed()
    assert served(home) == before


def test_a_crash_before_the_pointer_is_finished_with_a_canary(home: Home) -> None:
    """The update is committed and no pointer was written: the next learner writes it."""
    home.teach(TAUGHT)
    assert home.resumed().step()
    for name in ("canary.json", "history.jsonl"):
        (home.adapters.root / name).unlink()

    home.resumed()
    assert served(home) == (BASE_VERSION, "v000001")
