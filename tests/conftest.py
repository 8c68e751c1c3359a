"""What every test shares: a home of its own, no outside world, one torch thread, and honest reasons for skipping."""

from __future__ import annotations

import os

# Before anything imports torch or huggingface_hub: one thread adds up in one order, so numbers reproduce;
# and no test may ask a hub.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bot.errors import ModelError
from bot.policy.download import Kind, find_or_fetch
from bot.policy.transfer import StderrProgress
from bot.settings import Settings, load_settings

if TYPE_CHECKING:
    from tests.learner_rig import Home

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's variables or touches the user's home; the model cache stays shared."""
    for name in [name for name in os.environ if name.startswith("REJOINDER_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("REJOINDER_HOME", str(home))
    return home


@pytest.fixture
def make_settings(own_home: Path) -> Callable[..., Settings]:
    """Settings of a demo home under tmp_path: `make_settings(port=0, learn={"quorum": 2})`."""

    def make(**overrides: Any) -> Settings:
        return load_settings({"home": own_home, "profile": "demo", "seed": 0} | overrides, {})

    return make


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models of a learner's tests."""
    from tests.learner_rig import tiny_models

    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def home(tmp_path: Path, models: Path) -> Iterator[Home]:
    """A home with a learner over them; a file whose tests need another has a fixture of its own."""
    from tests.learner_rig import open_home

    with open_home(tmp_path, models) as opened:
        yield opened


@pytest.fixture(scope="session")
def encoder_folder() -> Path:
    """The default encoder; for tests marked `models`."""
    return _model("encoder")


@pytest.fixture(scope="session")
def causal_folder() -> Path:
    """The default causal LM; for tests marked `models`."""
    return _model("causal")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; for tests marked `browser`."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium here: install the chromium package to run the browser tests")
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that drives a browser or real processes may run into the machine's load: it is tried once more.

    The summary names every second try ("RERUN"), so one that needs it often is seen. All other tests have one try.
    """
    for item in items:
        if item.path.parent.name in {"browser", "integration"}:
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, and say why."""
    if item.get_closest_marker("gpu") and not _has_cuda():
        pytest.skip("no CUDA device here")
    if item.get_closest_marker("browser") and not any(map(shutil.which, BROWSERS)):
        pytest.skip("no Chromium here: install the chromium package to run the browser tests")


@cache
def _model(kind: Kind) -> Path:
    settings = load_settings({"model": os.environ.get("REJOINDER_MODEL") if kind == "encoder" else None}, {})
    try:
        return find_or_fetch(kind, settings, StderrProgress())
    except ModelError as error:
        pytest.skip(f"no {kind} model here: {error}")


@cache
def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
