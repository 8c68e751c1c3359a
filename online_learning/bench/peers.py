"""What others would do with the same stream: no language model is trained here, only its embeddings are used.

- `retriever`: the most similar candidate, for ever;
- `cases`: nearest-neighbour evidence from rated answers, on top of the retriever;
- `bandit`: a linear contextual bandit with one arm an article (LinUCB, arXiv 1003.0146), mabwiser's;
- `probe`: a linear classifier that is told every true label: the supervised mark, not a peer that could exist.

Each acts on its own, on the same questions with the same candidates and the same luck of thumbs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from online_learning.bench.scenario import Marks, Phase, Plan, Scenario, answered, is_right, label, marks_of
from online_learning.bench.views import Embeddings, View
from online_learning.offline import Outlook
from online_learning.simulate.users import NOISES, Turn
from online_learning.statistics import Floats, Ints

T = TypeVar("T")
KERNEL_WIDTH = 0.1
"""Of a case: its weight falls to 1/e when the cosine is this much lower than 1."""
CASE_WEIGHT = 0.3
"""Similarity that unanimous evidence is worth."""
MEAN_PRIOR = 10
"""Thumbs of reward 0 that the mean reward starts from: the first thumbs must not explain themselves away."""
LINUCB_ALPHA, LINUCB_RIDGE = 0.1, 20.0
"""Width of the bound and ridge of each arm: the best of a sweep on labelled questions that nothing is judged by."""
PROBE_STEPS, PROBE_RATE, PROBE_DECAY = 600, 0.05, 1e-4


class Peer(Protocol):
    """Scores candidates and hears thumbs."""

    def scores(self, views: Sequence[View]) -> list[Floats]:
        """One number a candidate, in units of cosine; the highest is shown."""
        ...

    def learn(self, views: Sequence[View], acts: Ints, rewards: Floats) -> None:
        """Thumbs on what was shown: +1 or -1."""
        ...


class Cases:
    """Retrieval plus the centred, kernel-weighted rewards of similar questions that got the same answer."""

    def __init__(self) -> None:
        self._states: list[Floats] = []
        self._acts: list[int] = []
        self._rewards: list[float] = []

    def scores(self, views: Sequence[View]) -> list[Floats]:
        """Similarity, moved by evidence."""
        if not self._acts:
            return [view.similarity for view in views]
        states_N_D, acts_N, rewards_N = np.stack(self._states), np.array(self._acts), np.array(self._rewards)
        centred_N = rewards_N - rewards_N.sum() / (len(rewards_N) + MEAN_PRIOR)
        return [_moved(view, states_N_D, acts_N, centred_N) for view in views]

    def learn(self, views: Sequence[View], acts: Ints, rewards: Floats) -> None:
        """Keep them all."""
        self._states += [view.state_D for view in views]
        self._acts += acts.tolist()
        self._rewards += rewards.tolist()


def _moved(view: View, states_N_D: Floats, acts_N: Ints, centred_N: Floats) -> Floats:
    kernel_N = np.exp((states_N_D @ view.state_D - 1) / KERNEL_WIDTH)
    kernel_C_N = (acts_N == view.candidates[:, None]) * kernel_N
    moved: Floats = view.similarity + CASE_WEIGHT * (kernel_C_N * centred_N).sum(1) / (1 + kernel_C_N.sum(1))
    return moved


class Bandit:
    """LinUCB over embeddings; before an arm has data, the retriever's similarity stands in for it."""

    def __init__(self, num_acts: int) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        self._bandit: Any = MAB(list(range(num_acts)), LearningPolicy.LinUCB(LINUCB_ALPHA, l2_lambda=LINUCB_RIDGE))
        self._sum, self._count = 0.0, 0

    def scores(self, views: Sequence[View]) -> list[Floats]:
        """The upper confidence bound of what the similarity leaves unexplained, on top of it."""
        if not self._count:
            return [view.similarity for view in views]
        bounds = self._bandit.predict_expectations(np.stack([view.state_D for view in views]))
        bounds = bounds if isinstance(bounds, list) else [bounds]
        return [view.similarity + _at(bound, view.candidates) for view, bound in zip(views, bounds, strict=True)]

    def learn(self, views: Sequence[View], acts: Ints, rewards: Floats) -> None:
        """Fit what the similarity leaves unexplained of the reward, less its mean so far: tried acts must not look
        better than others only because thumbs are mostly up."""
        pairs = zip(views, acts, strict=True)
        known = np.array([view.similarity[np.flatnonzero(view.candidates == act)[0]] for view, act in pairs])
        residuals = (rewards + 1) / 2 - known
        self._sum, self._count = self._sum + float(residuals.sum()), self._count + len(residuals)
        centred = residuals - self._sum / (self._count + MEAN_PRIOR)
        self._bandit.partial_fit(acts, centred, np.stack([view.state_D for view in views]))


def _at(bound: Any, candidates: Ints) -> Floats:
    return np.array([bound[int(act)] for act in candidates])


class Retriever:
    """Never learns."""

    def scores(self, views: Sequence[View]) -> list[Floats]:
        """Similarity."""
        return [view.similarity for view in views]

    def learn(self, views: Sequence[View], acts: Ints, rewards: Floats) -> None:
        """Nothing."""


# --- how they do ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class PeerOutcome:
    """What a peer makes of the judged questions when the last phase begins, and at the end."""

    before: Marks
    after: Marks

    @property
    def accuracy(self) -> float:
        """Share of judged questions whose best-scored candidate is right, at the end."""
        return float(self.after["right"].mean())


def judge(peer: Peer, seen: Embeddings, scenario: Scenario, phase: int) -> Marks:
    """A peer's scores as a policy's: what the most probable act is worth, question by question."""
    judged = scenario.judged_in(scenario.phases[phase])
    outlooks = []
    for block in _batched(judged, 256):
        views = [seen.views[phase][scenario.judged[i].text] for i in block]
        pairs = zip(views, peer.scores(views), strict=True)
        outlooks += [_outlook(seen, view, scores) for view, scores in pairs]
    return marks_of(scenario, judged, outlooks)


def _outlook(seen: Embeddings, view: View, scores: Floats) -> Outlook:
    logits = torch.from_numpy(np.asarray(scores, dtype=np.float64)) / seen.temperature
    return Outlook(tuple(seen.acts[i] for i in view.candidates), tuple(logits.log_softmax(-1).tolist()))


def run_peer(peer: Peer, seen: Embeddings, scenario: Scenario, plan: Plan) -> PeerOutcome:
    """Let a peer act and learn through the scenario; it shows what it scores highest."""
    num_thumbs, before = 0, judge(peer, seen, scenario, len(scenario.phases) - 1)
    for number, phase in enumerate(scenario.phases):
        if number and number == len(scenario.phases) - 1:
            before = judge(peer, seen, scenario, number)
        num_thumbs = _play(peer, seen, scenario, plan, number, phase, num_thumbs)
    return PeerOutcome(before, judge(peer, seen, scenario, len(scenario.phases) - 1))


def _play(
    peer: Peer, seen: Embeddings, scenario: Scenario, plan: Plan, number: int, phase: Phase, num_thumbs: int
) -> int:
    """One phase; thumbs given so far."""
    talk = phase.talk()
    block = next(talk, None)
    while block and num_thumbs < plan.num_thumbs:
        views = [seen.views[number][turn.question.text] for turn in block]
        shown = np.array([v.candidates[s.argmax()] for v, s in zip(views, peer.scores(views), strict=True)])
        if phase.told:
            _tell(peer, seen, block, views, shown)
        else:
            rated = [i for i, turn in enumerate(block) if turn.rates][: plan.num_thumbs - num_thumbs]
            thumbs = [_thumb(scenario, block[i], seen.acts[shown[i]], plan) for i in rated]
            if rated:
                peer.learn([views[i] for i in rated], shown[rated], np.array(thumbs))
            num_thumbs += len(rated)
        rights = [is_right(seen.acts[act], turn.question) for act, turn in zip(shown, block, strict=True)]
        block = answered(talk, rights)
    return num_thumbs


def _thumb(scenario: Scenario, turn: Turn, act: str, plan: Plan) -> float:
    return 1.0 if turn.uniform < scenario.p_up(turn.question, act, NOISES[plan.noise]) else -1.0


def _tell(peer: Peer, seen: Embeddings, block: Sequence[Turn], views: Sequence[View], shown: Ints) -> None:
    """An operator's word on what the peer shows: right, or wrong and this would have been right."""
    heard: list[tuple[View, int, float]] = []
    for turn, view, act in zip(block, views, shown, strict=True):
        right = is_right(seen.acts[act], turn.question)
        heard.append((view, int(act), 1.0 if right else -1.0))
        wanted = [int(i) for i in view.candidates if seen.acts[i] == label(turn.question)]
        heard += [(view, i, 1.0) for i in wanted if not right]
    told, acts, rewards = zip(*heard, strict=True)
    peer.learn(told, np.array(acts), np.array(rewards))


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


# --- the supervised mark ----------------------------------------------------------------------------------------------
def probe(labelled: Sequence[tuple[View, str]], seen: Embeddings) -> Peer:
    """Softmax regression on the embeddings with every label of the stream, choosing among the same candidates."""
    place = {act: i for i, act in enumerate(seen.acts)}
    kept = [(view.state_D, place[act]) for view, act in labelled if act in place]
    states_N_D = torch.from_numpy(np.stack([state_D for state_D, _ in kept]))
    labels_N = torch.tensor([act for _, act in kept])
    linear = torch.nn.Linear(states_N_D.shape[1], len(place))
    torch.nn.init.zeros_(linear.weight)
    optimizer = torch.optim.Adam(linear.parameters(), lr=PROBE_RATE, weight_decay=PROBE_DECAY)
    for _ in range(PROBE_STEPS):
        loss = torch.nn.functional.cross_entropy(linear(states_N_D) * 10, labels_N)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return _Fixed(linear)


class _Fixed(Retriever):
    """A trained classifier as a peer."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        self._linear = linear

    @torch.no_grad()
    def scores(self, views: Sequence[View]) -> list[Floats]:
        """Logits of the candidates."""
        logits = self._linear(torch.from_numpy(np.stack([view.state_D for view in views]))).numpy()
        return [row[view.candidates] for row, view in zip(logits, views, strict=True)]
