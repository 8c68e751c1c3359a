"""What peers see of the questions and candidates that the policy gets: the base encoder's vectors and similarities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bot.policy.adapted import BASE
from bot.policy.encoder import EncoderPart
from bot.policy.model import ActRow
from online_learning.statistics import Floats, Ints


@dataclass(frozen=True, slots=True)
class View:
    """A question and its candidates as the base encoder sees them."""

    state_D: Floats
    """Unit vector."""
    candidates: Ints
    """Indices into `Embeddings.acts`."""
    similarity: Floats
    """Cosine of question and candidate, the act's fixed share of the score included; in the order of `candidates`."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """All that the peers are given."""

    acts: tuple[str, ...]
    """Every act that is ever a candidate."""
    views: Sequence[Mapping[str, View]]
    """By phase and question."""
    temperature: float
    """That the policy divides by."""


def embeddings(encoder: EncoderPart, phases: Sequence[Mapping[str, ActRow]]) -> Embeddings:
    """The base encoder's view of prepared questions."""
    acts = tuple(sorted({act.act for rows in phases for row in rows.values() for act in row.legal}))
    place = {act: i for i, act in enumerate(acts)}
    views = [{text: _view(encoder, row, place) for text, row in rows.items()} for rows in phases]
    return Embeddings(acts, views, next(iter(phases[0].values())).temperature)


def _view(encoder: EncoderPart, row: ActRow, place: Mapping[str, int]) -> View:
    state_D = encoder.embed_ids([row.query_ids], [BASE])[0]
    fixed_A = np.array([act.prior_logit for act in row.legal]) * row.temperature
    cosine_A = encoder.similarity(state_D[None], row.legal)[0].cpu().numpy()
    candidates = np.array([place[act.act] for act in row.legal])
    return View(state_D.cpu().numpy(), candidates, cosine_A + fixed_A.astype(np.float32))
