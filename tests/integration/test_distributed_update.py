"""Two processes that make an update together end with the weights that one process ends with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from bot.policy.encoder import EncoderPart
from online_learning.config import RECIPES
from online_learning.distributed import Ranks, SharedLearner, SharedPolicy
from tests.distributed_rig import updated
from tests.learner_rig import tiny_models

ROOT = Path(__file__).parents[2]
NUM_PROCESSES = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, and what two processes made of them together."""
    folder = tiny_models(tmp_path_factory.mktemp("distributed"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(NUM_PROCESSES)]
    done = subprocess.run(
        [*torchrun, str(ROOT / "tests" / "distributed_rig.py"), str(folder)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def weights(folder: Path, name: str, rank: int) -> dict[str, Tensor]:
    return load_file(folder / f"{name}-{rank}.safetensors")


def furthest(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The largest difference of any weight."""
    assert first.keys() == second.keys()
    return max(float((first[key] - second[key]).abs().max()) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tolerance"), [("ppo", 2e-5), ("words", 5e-4), ("reinforce", 2e-5), ("ilql", 1e-3)])
def test_two_processes_end_with_the_weights_of_one(folder: Path, name: str, tolerance: float) -> None:
    """Acts, words and heads; the last minibatch has fewer rows than there are processes.

    While Q is 0, the gradient of `ilql`'s policy is rounding alone, and Adam makes a step of it: at most 1e-3 here. Of `words`
    some weights have hardly a gradient: 3e-5 was seen, and 8e-3 against one process that was given no words.
    """
    alone = updated(folder, name)
    assert min(float(tensor.abs().max()) for key, tensor in alone.items() if "lora_B" in key) > 1e-4
    assert furthest(weights(folder, name, 0), alone) < tolerance
    assert furthest(weights(folder, name, 0), weights(folder, name, 1)) == 0.0


@pytest.mark.slow
def test_without_shared_gradients_each_process_goes_its_own_way(folder: Path) -> None:
    """The control."""
    assert furthest(weights(folder, "unshared", 0), weights(folder, "unshared", 1)) > 1e-3


def test_a_row_is_of_one_process() -> None:
    """Seven rows for three processes."""
    shares = [Ranks(rank, 3).share(7) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    assert Ranks(2, 3).share(2) == []


def test_an_algorithm_with_steps_of_its_own_is_refused(tmp_path: Path) -> None:
    """TRPO's conjugate gradients would be of each process's own rows."""
    folder = tiny_models(tmp_path)
    ranks = Ranks(0, 1)
    with pytest.raises(ValueError, match="got 'trpo'"):
        SharedLearner(ranks, SharedPolicy(ranks, EncoderPart(folder / "encoder")), RECIPES["trpo"])


@pytest.mark.slow
def test_processes_that_were_given_different_rows_are_told_so(folder: Path) -> None:
    """All of them, instead of waiting for each other for ever or learning nonsense."""
    for rank in range(NUM_PROCESSES):
        assert (
            folder / f"refused-{rank}.txt"
        ).read_text() == "expected the same rows in all 2 processes, got different ones"
