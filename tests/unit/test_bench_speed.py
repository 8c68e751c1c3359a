"""What `bench speed` times is what it says: rows that re-score, a plain implementation that learns, FLOPs by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bot.policy.adapted import lora_config
from bot.policy.causal import CausalPart
from online_learning.advantages import Credit
from online_learning.bench import speed_rows
from online_learning.bench.speed import _sizes, matmul_peak
from online_learning.bench.speed_text import PLAIN, PlainLearner, Weights, our_flops, plain_flops, written
from online_learning.config import LearnerConfig
from online_learning.evaluate import Question
from tests.builders import make_decision, make_generated
from tests.learner_rig import ARTICLES, Home, open_home, tiny_models

QUESTIONS = [Question(text, name) for name, (_, texts) in ARTICLES.items() for text in texts]
CONFIG = replace(LearnerConfig(), text_batch_size=2, text_learning_rate=5e-3, text_rank=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def home(tmp_path: Path, models: Path) -> Iterator[Home]:
    with open_home(tmp_path, models) as opened:
        yield opened


@pytest.fixture
def writer(models: Path) -> CausalPart:
    return CausalPart(models / "causal", device=torch.device("cpu"))


@pytest.fixture
def rows(home: Home, writer: CausalPart) -> list[Credit]:
    """Four replies, the last disliked."""
    said = speed_rows.replies(writer, home.domain, QUESTIONS[:4], 0.7, 8)
    return [
        Credit(make_decision(id=str(i), generated=text), 1.0 if i < 3 else -1.0, 0.0) for i, text in enumerate(said)
    ]


# --- rows -------------------------------------------------------------------------------------------------------------
def test_questions_are_said_in_many_ways(home: Home) -> None:
    """The given ones first, then with a word or two around them; none twice, answers kept."""
    found = speed_rows.distinct(QUESTIONS, 5 * len(QUESTIONS), 0)
    assert {question.text for question in found[: len(QUESTIONS)]} == {question.text for question in QUESTIONS}
    assert len({question.text for question in found}) == len(found)
    assert all(next(q for q in QUESTIONS if q.text in question.text).answer == question.answer for question in found)
    assert speed_rows.distinct(QUESTIONS, 9, 0) == found[:9] != speed_rows.distinct(QUESTIONS, 9, 1)


def test_made_up_decisions_and_replies_re_score(home: Home, rows: list[Credit]) -> None:
    """The learner checks every row before it teaches (invariant 1)."""
    loop = home.resumed()
    loop._attach_writer()
    made = speed_rows.decisions(loop.learner.model, loop.tests._policy, QUESTIONS[:4], 0)
    decisions = [replace(row, generated=written(credit)) for row, credit in zip(made, rows, strict=True)]
    errors = loop.drawing._check(decisions, loop._version)
    assert len(errors) == 4
    assert max(errors.values()) < 1e-4


def test_replies_go_on_in_conversations_of_five(rows: list[Credit]) -> None:
    """Each prompt holds the turns before it."""
    lengths = [len(written(row).prompt_ids) for row in rows]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


# --- the plain implementation -----------------------------------------------------------------------------------------
def mean_logprob(learner: PlainLearner, row: Credit) -> float:
    """Of the reply's tokens, by one pass over the sequence, without padding or a batch."""
    reply = written(row)
    ids = torch.tensor([[*reply.prompt_ids, *reply.token_ids]])
    with torch.no_grad():
        logits = learner.writer.model([PLAIN], input_ids=ids).logits[0, len(reply.prompt_ids) - 1 : -1]
    logprobs = (logits / reply.temperature).log_softmax(-1).gather(-1, torch.tensor(reply.token_ids)[:, None])
    return float(logprobs.mean())


def test_the_plain_implementation_reads_each_reply_alone(writer: CausalPart, rows: list[Credit]) -> None:
    """Padding and batch change nothing."""
    learner = PlainLearner(writer, CONFIG)
    batch = learner._batch(rows)
    with torch.no_grad():
        logprobs = learner._logprobs(batch, PLAIN)
    for row, found, mask in zip(rows, logprobs, batch.replies_B_L, strict=True):
        assert int(mask.sum()) == len(written(row).token_ids)
        assert float(found[mask].mean()) == pytest.approx(mean_logprob(learner, row), abs=1e-5)


def test_the_plain_implementation_learns(writer: CausalPart, rows: list[Credit]) -> None:
    """Liked words become likelier, disliked ones less so: it is a learner, not a strawman."""
    learner = PlainLearner(writer, CONFIG)
    before = [mean_logprob(learner, row) for row in rows]
    learner.update(rows, np.random.default_rng(0))
    gains = [mean_logprob(learner, row) - was for row, was in zip(rows, before, strict=True)]
    assert min(gains[:3]) > 0.01
    assert gains[3] < -0.01


# --- counting ---------------------------------------------------------------------------------------------------------
def test_flops_by_hand() -> None:
    """Two rows whose prompts (a header of 2 tokens in each) share 3 of 5 and 4 tokens; body 10, head 5, LoRA 1 weights."""
    texts = (((1, 2, 3, 8, 9), (5, 6)), ((1, 2, 3, 4, 8, 9), (5, 6, 7)))
    rows = [Credit(make_decision(generated=make_generated(prompt_ids=p, token_ids=t)), 1.0, 0.0) for p, t in texts]
    weights, config = Weights(body=10, head=5, lora=1), replace(LearnerConfig(), text_epochs=2)

    # 16 tokens; two forward passes of 2 * 15, one of them with LoRA's 2, and two epochs of 4 * 15 + 6.
    assert plain_flops(rows, weights, config) == 16 * (60 + 2 + 2 * 66)
    # 4 tokens are read for 2 * 10; an epoch adapts 5 + 2 tokens for 4 * 10 + 6 and gives 5 tokens their logits for 4 * 5.
    assert our_flops(rows, weights, config, num_header=2) == 4 * 20 + 2 * (7 * 46 + 5 * 20)


def test_weights_are_counted_from_what_lora_adapts(writer: CausalPart) -> None:
    """The tiny Llama: 2 layers of width 64, one key-value head of 32, an inner width of 128."""
    writer.model.create("current", lora_config(4, 8), trainable=True)
    found = Weights.of(writer)
    inputs_and_outputs = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]
    assert found.body == 2 * sum(a * b for a, b in inputs_and_outputs)
    assert found.lora == 2 * sum(4 * (a + b) for a, b in inputs_and_outputs)
    assert found.head == 64 * len(writer.tokenizer)


def test_stores_grow_tenfold() -> None:
    """Up to the largest that is asked for."""
    assert [*_sizes(1000)] == [1000]
    assert [*_sizes(50_000)] == [1000, 10_000, 50_000]
    assert [*_sizes(10**6)] == [1000, 10_000, 100_000, 10**6]


def test_a_matrix_product_has_a_speed() -> None:
    """Any machine makes more than a million multiplications a second."""
    assert matmul_peak(torch.device("cpu"), size=64, num_products=1) > 1e6
