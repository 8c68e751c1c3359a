"""What others would do with the same stream: no language model is trained here, only its embeddings are used.

- `retriever`: the most similar candidate, for ever;
- `cases`: nearest-neighbour evidence from rated answers, on top of the retriever;
- `bandit`: a linear contextual bandit with one arm an article (LinUCB, arXiv 1003.0146), mabwiser's;
- `probe`: a linear classifier that is told every true label: the supervised mark, not a peer that could exist.

Each acts on its own, on the same questions with the same candidates and the same luck of thumbs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from online_learning.bench.stream import BLOCK_TURNS, Embeddings, Plan
from online_learning.evaluate import Question
from online_learning.simulate.users import NOISES, Turn, thumb, turns
from online_learning.statistics import Floats, Ints

T = TypeVar("T")
KERNEL_WIDTH = 0.1
"""Of a case: its weight falls to 1/e when the cosine is this much lower than 1."""
CASE_WEIGHT = 0.3
"""Similarity that unanimous evidence is worth."""
MEAN_PRIOR = 10
"""Thumbs of reward 0 that the mean reward starts from: the first thumbs must not explain themselves away."""
LINUCB_ALPHA = 0.2
PROBE_STEPS, PROBE_RATE, PROBE_DECAY = 600, 0.05, 1e-4


class Peer(Protocol):
    """Scores candidates and hears thumbs."""

    def scores(self, texts: Sequence[str]) -> list[Floats]:
        """One number a candidate; the highest is shown."""
        ...

    def learn(self, texts: Sequence[str], acts: Ints, rewards: Floats) -> None:
        """Thumbs on what was shown: +1 or -1."""
        ...


class Cases:
    """Retrieval plus the centred, kernel-weighted rewards of similar questions that got the same answer."""

    def __init__(self, seen: Embeddings) -> None:
        self._seen = seen
        self._states: list[Floats] = []
        self._acts: list[int] = []
        self._rewards: list[float] = []

    def scores(self, texts: Sequence[str]) -> list[Floats]:
        """Similarity, moved by evidence."""
        return [self._score(text) for text in texts]

    def _score(self, text: str) -> Floats:
        similarity = self._seen.similarity[text]
        if not self._acts:
            return similarity
        kernel_N = np.exp((np.stack(self._states) @ self._seen.states[text] - 1) / KERNEL_WIDTH)
        rewards_N = np.array(self._rewards)
        is_act_C_N = np.array(self._acts) == self._seen.candidates[text][:, None]
        mean = rewards_N.sum() / (len(rewards_N) + MEAN_PRIOR)
        evidence_C = (is_act_C_N * kernel_N * (rewards_N - mean)).sum(1)
        moved: Floats = similarity + CASE_WEIGHT * evidence_C / (1 + (is_act_C_N * kernel_N).sum(1))
        return moved

    def learn(self, texts: Sequence[str], acts: Ints, rewards: Floats) -> None:
        """Keep them all."""
        self._states += [self._seen.states[text] for text in texts]
        self._acts += acts.tolist()
        self._rewards += rewards.tolist()


class Bandit:
    """LinUCB over embeddings; before an arm has data, the retriever's similarity stands in for it."""

    def __init__(self, seen: Embeddings) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        self._seen = seen
        self._bandit: Any = MAB(list(range(len(seen.acts))), LearningPolicy.LinUCB(alpha=LINUCB_ALPHA))
        self._has_data = False

    def scores(self, texts: Sequence[str]) -> list[Floats]:
        """The upper confidence bound of what the similarity leaves unexplained, on top of it."""
        if not self._has_data:
            return [self._seen.similarity[text] for text in texts]
        bounds = self._bandit.predict_expectations(np.stack([self._seen.states[text] for text in texts]))
        bounds = bounds if isinstance(bounds, list) else [bounds]
        pairs = zip(texts, bounds, strict=True)
        return [self._seen.similarity[text] + _at(bound, self._seen.candidates[text]) for text, bound in pairs]

    def learn(self, texts: Sequence[str], acts: Ints, rewards: Floats) -> None:
        """Fit the residual of the reward over the similarity."""
        states = np.stack([self._seen.states[text] for text in texts])
        places = [int(np.flatnonzero(self._seen.candidates[t] == a)[0]) for t, a in zip(texts, acts, strict=True)]
        known = np.array([self._seen.similarity[text][i] for text, i in zip(texts, places, strict=True)])
        self._bandit.partial_fit(acts, (rewards + 1) / 2 - known, states)
        self._has_data = True


def _at(bound: Any, candidates: Ints) -> Floats:
    return np.array([bound[int(act)] for act in candidates])


class Retriever:
    """Never learns."""

    def __init__(self, seen: Embeddings) -> None:
        self._seen = seen

    def scores(self, texts: Sequence[str]) -> list[Floats]:
        """Similarity."""
        return [self._seen.similarity[text] for text in texts]

    def learn(self, texts: Sequence[str], acts: Ints, rewards: Floats) -> None:
        """Nothing."""


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def accuracy(peer: Peer, seen: Embeddings, judged: Sequence[Question]) -> float:
    """Share of questions whose best-scored candidate is right."""
    right = []
    for block in _batched(judged, 256):
        for question, scores in zip(block, peer.scores([q.text for q in block]), strict=True):
            right.append(seen.acts[seen.candidates[question.text][scores.argmax()]] == f"answer:{question.answer}")
    return float(np.mean(right))


def run_peer(
    peer: Peer, seen: Embeddings, plan: Plan, questions: Sequence[Question], judged: Sequence[Question]
) -> float:
    """Let a peer act and learn through the plan; its accuracy afterwards."""
    num_thumbs = 0
    for block in _batched(turns(questions, plan.num_turns, plan.rate, plan.seed), BLOCK_TURNS):
        shown = [scores.argmax() for scores in peer.scores([turn.question.text for turn in block])]
        acts = np.array([seen.candidates[turn.question.text][i] for turn, i in zip(block, shown, strict=True)])
        rated = [i for i, turn in enumerate(block) if turn.rates][: plan.num_thumbs - num_thumbs]
        if rated:
            rewards = np.array([_thumb(block[i], seen.acts[acts[i]], plan) for i in rated], dtype=np.float64)
            peer.learn([block[i].question.text for i in rated], acts[rated], rewards)
            num_thumbs += len(rated)
        if num_thumbs >= plan.num_thumbs:
            break
    return accuracy(peer, seen, judged)


def _thumb(turn: Turn, act: str, plan: Plan) -> int:
    return thumb(NOISES[plan.noise], is_right=act == f"answer:{turn.question.answer}", uniform=turn.uniform)


def probe_accuracy(seen: Embeddings, labelled: Sequence[Question], judged: Sequence[Question]) -> float:
    """Softmax regression on the embeddings with every label of the stream, choosing among the same candidates."""
    place = {act: i for i, act in enumerate(seen.acts)}
    kept = [question for question in labelled if f"answer:{question.answer}" in place]
    states_N_D = torch.from_numpy(np.stack([seen.states[question.text] for question in kept]))
    labels_N = torch.tensor([place[f"answer:{question.answer}"] for question in kept])
    linear = torch.nn.Linear(states_N_D.shape[1], len(place))
    torch.nn.init.zeros_(linear.weight)
    optimizer = torch.optim.Adam(linear.parameters(), lr=PROBE_RATE, weight_decay=PROBE_DECAY)
    for _ in range(PROBE_STEPS):
        loss = torch.nn.functional.cross_entropy(linear(states_N_D) * 10, labels_N)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return accuracy(_Fixed(linear, seen), seen, judged)


class _Fixed(Retriever):
    """A trained classifier as a peer."""

    def __init__(self, linear: torch.nn.Linear, seen: Embeddings) -> None:
        super().__init__(seen)
        self._linear = linear

    @torch.no_grad()
    def scores(self, texts: Sequence[str]) -> list[Floats]:
        """Logits of the candidates."""
        logits = self._linear(torch.from_numpy(np.stack([self._seen.states[text] for text in texts]))).numpy()
        return [row[self._seen.candidates[text]] for row, text in zip(logits, texts, strict=True)]
