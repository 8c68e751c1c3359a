"""Old versions lose their weights as new ones are published; their rows then neither teach nor judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.policy.adapters import AdapterStore
from tests.learner_rig import Home, open_home, tiny_models

FIRST = [("where is my card", "card_arrival", 1), ("my card is gone", "lost_card", 1)] * 2
LATER = [("a new pin please", "change_pin", 1), ("rate for euros", "exchange_rate", 1)] * 2


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=[1, 100])
def home(tmp_path: Path, models: Path, request: pytest.FixtureRequest) -> Iterator[Home]:
    """One that keeps one version (no row of its window or gate needs more), and the control."""
    with open_home(
        tmp_path, models, learn={"keep_versions": request.param, "window": 4, "holdout_share": 0.0}
    ) as opened:
        yield opened


def pruned(adapters: AdapterStore) -> list[str]:
    return [version for version in adapters.versions() if adapters.is_pruned(version)]


def test_rows_of_a_version_without_weights_are_refused_and_counted(home: Home) -> None:
    """After three versions the first is too old; a reply that it made, rated late, does not re-score."""
    loop = home.resumed()
    home.teach(FIRST)
    loop.step()
    late = [home.say("close my account", "close_account", version="v000001") for _ in range(4)]
    for _ in range(2):
        home.teach(LATER, version=home.adapters.champion().version)
        loop.step()
    is_short_of_space = home.settings.learn.keep_versions == 1
    assert home.adapters.versions() == ["v000001", "v000002", "v000003"]
    assert pruned(home.adapters) == (["v000001"] if is_short_of_space else [])
    for decision in late:
        home.vote(decision, 1)
    loop.step()
    update = home.store.updates()[-1]
    assert update.metrics["refused"]["rescore"] == (len(late) if is_short_of_space else 0)
    assert set(update.lineage).isdisjoint(d.id for d in late) is is_short_of_space
