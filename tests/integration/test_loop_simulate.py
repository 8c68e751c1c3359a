"""`rejoinder simulate` and `rejoinder eval` from the command line, on tiny models: the whole product for a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bot.cli import main
from tests.learner_rig import ARTICLES, tiny_models, write_bank

ROOT = Path(__file__).parents[2]
KEYS = {"turns", "thumbs", "versions", "eval_before", "eval_after", "diff_ci", "seconds"}


def rejoinder(folder: Path, models: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a home under `folder`."""
    bank = folder / "bank" if (folder / "bank").exists() else write_bank(folder / "bank")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REJOINDER_")}
    environ["REJOINDER_MODEL"] = str(models / "encoder")
    # To random embeddings all questions are alike: a case would speak of every one.
    environ["REJOINDER_LEARN__CASE_WEIGHT"] = "0"
    where = ("--home", str(folder / "home"), "--domain", str(bank), "--json")
    command = [sys.executable, "-m", "bot.cli", *words, *where]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environ, timeout=300, check=False)


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Each article's questions in other words: some that retrieval gets wrong."""
    wordings = ("{} please", "hello, {}", "{} now", "sorry, {}", "{} for my account", "the card, and {}")
    rows = [
        {"text": wording.format(text), "answer": name}
        for name, (_, texts) in ARTICLES.items()
        for text in texts
        for wording in wordings
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_simulated_people_teach_the_running_product(tmp_path: Path, models: Path, dataset: Path) -> None:
    """Seventy turns, every reply rated: two updates, at least one published; `eval` agrees about the version."""
    options = ("--turns", "70", "--noise", "clean", "--rate", "1", "--seed", "0")
    found = last_line(rejoinder(tmp_path, models, "simulate", "--dataset", str(dataset), *options))
    assert found.keys() >= KEYS
    assert (found["turns"], found["thumbs"]) == (70, 70)
    assert found["versions"] >= 1
    assert found["versions"] + found["refused_by_gate"] == 2
    assert found["diff_ci"][0] <= found["eval_after"] - found["eval_before"] <= found["diff_ci"][1]
    curve = (tmp_path / "home" / "simulate" / "turns.csv").read_text().splitlines()
    assert len(curve) == 71
    assert (tmp_path / "home" / "simulate" / "curve.png").read_bytes().startswith(b"\x89PNG")
    again = last_line(rejoinder(tmp_path, models, "eval", "--dataset", str(dataset)))
    assert again["version"] == found["version"]
    assert again["n"] == 60
    assert set(again["per_intent"]) == set(ARTICLES)


@pytest.mark.parametrize("command", ["simulate", "eval"])
def test_a_broken_dataset_is_one_line_and_exit_2(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is started, and no traceback is shown."""
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "hello", "answer": "weather"}\n')
    assert main([command, "--dataset", str(broken), "--domain", str(write_bank(tmp_path / "bank"))]) == 2
    line = f"rejoinder: {broken}:1: expected an article of the domain, got 'weather'"
    assert capsys.readouterr().err.splitlines() == [line]
