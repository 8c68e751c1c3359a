"""The learner's own state on disk, and that the same thumbs make the same bytes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bot.conversation import BASE_VERSION
from bot.policy.encoder import EncoderPart
from bot.policy.model import PolicyModel
from online_learning.algorithms.q_heads import QHeads
from online_learning.checkpoint import LearnerState, load_checkpoint, save_checkpoint
from online_learning.config import ILQLConfig, LearnerConfig
from online_learning.update import Learner
from tests.learner_rig import QUICK, Home, open_home

TAUGHT = [("my card please", "card_arrival", 1), ("my card please", "lost_card", -1)] * 2
QUICK_ILQL = replace(QUICK, algorithm="ilql", loss=ILQLConfig())


def state_of(learner: Learner) -> dict[str, torch.Tensor]:
    """Every optimizer moment and the heads, by name."""
    moments = {
        f"{name}.{index}.{key}": torch.as_tensor(tensor)
        for name, optimizer in learner.optimizers.items()
        for index, entry in optimizer.state_dict()["state"].items()
        for key, tensor in entry.items()
    }
    heads = {f"{name}.{key}": x for name, head in learner.heads.items() for key, x in head.state_dict().items()}
    return moments | heads


@pytest.mark.parametrize("config", [QUICK, QUICK_ILQL], ids=["ppo", "ilql"])
def test_moments_and_heads_come_back_equal(home: Home, config: LearnerConfig) -> None:
    """A new process continues with the momentum of the old one, and with what its heads had found."""
    home.teach(TAUGHT)
    loop = home.resumed(config=config)
    loop.step()
    kept, found = state_of(loop.learner), state_of(home.resumed(config=config).learner)
    assert len(kept) > 10
    assert kept.keys() == found.keys()
    assert all(torch.equal(kept[name], found[name]) for name in kept)


@pytest.mark.parametrize(("before", "after"), [(QUICK, QUICK_ILQL), (QUICK_ILQL, QUICK)], ids=["to-ilql", "from-ilql"])
def test_a_checkpoint_of_another_algorithm_still_loads(home: Home, before: LearnerConfig, after: LearnerConfig) -> None:
    """The value head comes back, Q heads begin anew, and the home goes on learning."""
    home.teach(TAUGHT)
    first = home.resumed(config=before)
    first.step()
    loop = home.resumed(config=after)
    assert torch.equal(loop.learner.value.linear.weight, first.learner.value.linear.weight)
    assert untaught(loop.learner)
    home.teach(TAUGHT, version="v000001")
    assert loop.step()
    assert home.store.updates()[-1].version == "v000002"


def test_q_heads_begin_anew_after_a_rollback(home: Home) -> None:
    """What they found belongs to weights that are gone. Control: before it they had found something."""
    home.teach(TAUGHT)
    loop = home.resumed(config=QUICK_ILQL)
    loop.step()
    assert not untaught(loop.learner)
    home.adapters.rollback(BASE_VERSION, "worse")
    loop.step()
    assert untaught(loop.learner)


def untaught(learner: Learner) -> bool:
    """Whether its Q heads, if it has any, are as new ones are."""
    if learner.q_heads is None:
        return True
    found, fresh = learner.q_heads.state_dict(), QHeads(learner.model.encoder.width).state_dict()
    return all(torch.equal(found[name].cpu(), fresh[name]) for name in fresh)


def test_a_checkpoint_of_another_version_is_not_mixed_in(home: Home) -> None:
    """After a rollback the momentum belongs to weights that are gone: it stays behind, the refused rows do not."""
    home.teach(TAUGHT)
    home.resumed().step()
    learner = home.loop().learner
    state = load_checkpoint(home.settings.learner, "checkpoint-000001", learner, "v000000")
    assert state == LearnerState("v000001", ())
    assert not learner.optimizers["acts"].state_dict()["state"]


def test_only_the_newest_checkpoints_stay(tmp_path: Path, models: Path) -> None:
    """Seven saved, three kept."""
    learner = Learner(PolicyModel(EncoderPart(models / "encoder")), QUICK)
    for number in range(7):
        save_checkpoint(tmp_path, f"checkpoint-{number:06d}", learner, LearnerState("v000000", ()), keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{n:06d}" for n in (4, 5, 6)]


def test_a_torn_checkpoint_is_not_looked_at(home: Home) -> None:
    """What a killed process left aside is no checkpoint, and the next save clears it away."""
    home.teach(TAUGHT)
    home.resumed().step()
    torn = home.settings.learner / ".checkpoint-000002.4242"
    shutil.copytree(home.settings.learner / "checkpoint-000001", torn)
    (torn / "state.json").unlink()
    (home.settings.learner / "checkpoint-000002").mkdir()
    loop = home.resumed()
    assert state_of(loop.learner)
    home.teach(TAUGHT)
    loop.step()
    assert home.store.updates()[-1].checkpoint == "checkpoint-000002"
    assert not torn.exists()
    assert state_of(home.resumed().learner).keys() == state_of(loop.learner).keys()


def test_the_same_thumbs_and_seed_make_the_same_bytes(tmp_path: Path, models: Path) -> None:
    """Two homes, one torch thread: adapter files are equal byte for byte. Control: another seed's are not."""
    files = [adapter_bytes(tmp_path / name, models, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert files[0] == files[1]
    assert files[0] != files[2]


def adapter_bytes(folder: Path, models: Path, seed: int) -> list[bytes]:
    folder.mkdir()
    torch.set_num_threads(1)
    with open_home(folder, models, seed=seed) as home:
        loop = home.resumed()
        for _ in range(2):
            home.teach(TAUGHT * 5)
            loop.step()
        return [path.read_bytes() for path in sorted(home.settings.adapters.rglob("*.safetensors"))]
