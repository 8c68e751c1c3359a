"""Rows taught in a second wording: read as a server reads them, told to the learner, and no second opinion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bot.policy.encoder import EncoderPart
from bot.policy.model import PolicyModel
from online_learning.advantages import Credit
from online_learning.config import RECIPES
from online_learning.offline import OfflinePolicy
from online_learning.perturb import augmented
from online_learning.update import CURRENT, Learner
from tests.learner_rig import Home

PLEASE = "my card please"
TAUGHT = [(PLEASE, "card_arrival", 1), (PLEASE, "lost_card", -1)] * 2


def offline(home: Home) -> OfflinePolicy:
    return OfflinePolicy(PolicyModel(EncoderPart(Path(home.settings.model))), home.domain, home.settings)


def test_a_question_is_read_as_a_server_reads_it(home: Home) -> None:
    """The tokens a reply's row would have, remembered or not; the sentence beside the point is left out."""
    policy, asked = offline(home), ["I lost my card. Zyx qwv jkp!", PLEASE]
    served = [row.query_ids for row in policy.rows(asked)]
    assert policy.read(asked) == policy.read(asked) == served
    encoder = EncoderPart(Path(home.settings.model))
    assert served[0] == encoder.tokenize("I lost my card.")


def test_twins_teach_beside_their_rows(home: Home) -> None:
    """Eight rows in place of four; the lineage names the four. Without the setting there are none (the control)."""
    taught = home.teach(TAUGHT)
    home.resumed(augment=partial(augmented, read=offline(home).read, share=1.0, seed=0)).step()
    home.teach(TAUGHT)
    home.resumed().step()
    first, second = home.store.updates()
    assert (first.metrics["twins"], first.metrics["rows"]) == (4, 4)
    assert set(first.lineage) == {decision.id for decision in taught}
    assert second.metrics["twins"] == 0


def learned(home: Home, earned: Sequence[Credit]) -> torch.Tensor:
    """The head's weights at the maximum that the default recipe goes towards, with a strong prior."""
    config = replace(RECIPES["likelihood"], ridge=30.0, epochs=200, max_kl_prox=1e9, betas=(0.9, 0.99))
    learner = Learner(PolicyModel(EncoderPart(Path(home.settings.model))), config)
    learner.update(earned, np.random.default_rng(0), lambda *_: None)
    head = learner.model.encoder.model.head(CURRENT)
    assert head is not None
    return head.up.detach().clone()


def test_a_twin_is_no_second_opinion(home: Home) -> None:
    """In the very same words it changes nothing; counted as a row of its own, it would weaken the prior."""
    said = [home.say(question, article) for question, article, _ in TAUGHT]
    earned = [Credit(row, thumb, thumb) for row, (_, _, thumb) in zip(said, TAUGHT, strict=True)]
    twins = [replace(row, decision=replace(row.decision, id=f"{row.decision.id}~")) for row in earned]
    halves = [replace(row, weight=0.5) for row in (*earned, *twins)]
    alone = learned(home, earned)
    with_twins, with_more = (
        float((learned(home, rows) - alone).norm() / alone.norm()) for rows in (halves, [*earned, *twins])
    )
    assert with_twins < 0.05
    assert with_more > 0.2
