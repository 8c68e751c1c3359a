"""An update of the learner on tiny models, by one process or, run as a script under torchrun, by several together.

    python -m torch.distributed.run --standalone --nproc-per-node 2 tests/distributed_rig.py FOLDER

Each process writes what its weights became to `FOLDER/NAME-RANK.safetensors`, one file for each of `CASES`;
what it is told of different rows is in `refused-RANK.txt`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from bot.domain import load_domain
from bot.policy.causal import CausalPart
from bot.policy.encoder import EncoderPart
from bot.policy.model import PolicyModel
from bot.settings import load_settings
from online_learning.advantages import Credit
from online_learning.bench import speed_rows
from online_learning.config import RECIPES, LearnerConfig
from online_learning.distributed import Ranks, SharedLearner, SharedPolicy, SharedWriter, joined
from online_learning.evaluate import Question
from online_learning.offline import OfflinePolicy
from online_learning.update import CURRENT, Learner

CASES = ("ppo", "words", "reinforce", "ilql", "unshared")
"""`words`: PPO, and operators' own words beside it; `reinforce` compares the rows of a minibatch with each other; `unshared` leaves the gradients alone."""
NUM_ROWS = 9
"""One more than two minibatches of four, so that the last has fewer rows than there are processes."""


class Unshared(SharedLearner):
    """The control: each process follows its own rows' gradient."""

    def share_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Not at all."""


def config(name: str) -> LearnerConfig:
    """Two epochs over acts, two over text."""
    recipe = RECIPES["ppo" if name in ("unshared", "words") else name]
    return replace(recipe, batch_size=4, text_batch_size=4, epochs=2, learning_rate=1e-3, text_learning_rate=1e-3)


def rows(folder: Path, model: PolicyModel, writer: CausalPart) -> list[Credit]:
    """Rated replies, every third one disliked; the last ones are written."""
    settings, domain = load_settings({"home": folder / "home"}, {}), load_domain(str(folder / "bank"))
    questions = [Question(text, article.id) for article in domain.articles.values() for text in article.questions]
    asked = speed_rows.distinct(questions, NUM_ROWS, 0)
    found = speed_rows.decisions(model, OfflinePolicy(model, domain, settings), asked, 0)
    said = list(speed_rows.replies(writer, domain, asked[:5], 0.7, 12))
    texts = [*[None] * (NUM_ROWS - len(said)), *said]
    decisions = [replace(decision, generated=text) for decision, text in zip(found, texts, strict=True)]
    return [Credit(decision, 1.0 if i % 3 else -1.0, 0.0) for i, decision in enumerate(decisions)]


def learner(folder: Path, name: str, ranks: Ranks | None) -> Learner:
    """Models of the folder under a learner, alone or with others."""
    if ranks is None:
        torch.manual_seed(0)
        model = PolicyModel(EncoderPart(folder / "encoder"))
        return Learner(model, config(name), CausalPart(folder / "causal"))
    torch.manual_seed(ranks.rank)  # processes begin with different weights: the first one's count
    shared = SharedPolicy(ranks, EncoderPart(folder / "encoder"))
    kind = Unshared if name == "unshared" else SharedLearner
    return kind(ranks, shared, config(name), SharedWriter(ranks, folder / "causal"))


def updated(folder: Path, name: str, ranks: Ranks | None = None) -> dict[str, Tensor]:
    """What the weights are after one update."""
    made = learner(folder, name, ranks)
    assert made.writer is not None
    rated = rows(folder, made.model, made.writer)
    # Five of them: a minibatch of four, and one of one row, in which one process has no part.
    words = [row.decision.generated for row in rated if row.decision.generated][::-1] if name == "words" else []
    made.update(rated, np.random.default_rng(0), lambda *_: None, words=words)
    parts = {
        f"{part}.{key}": x for part, adapted in made.adapted.items() for key, x in adapted.weights(CURRENT).items()
    }
    return parts | {f"{name}.{key}": x for name, head in made.heads.items() for key, x in head.state_dict().items()}


def main(folder: Path) -> None:
    """Under torchrun."""
    torch.set_num_threads(1)
    with joined() as ranks:
        for name in CASES:
            found = {key: tensor.contiguous() for key, tensor in updated(folder, name, ranks).items()}
            save_file(found, folder / f"{name}-{ranks.rank}.safetensors")
        try:
            ranks.check_same("rows", f"those of process {ranks.rank}", torch.device("cpu"))
        except ValueError as error:
            (folder / f"refused-{ranks.rank}.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
