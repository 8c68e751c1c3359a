"""Generated replies teach the causal part, and what is published is a plain PEFT adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModel, AutoModelForCausalLM

from bot.conversation import BASE_VERSION, Decision
from bot.policy.causal import CausalPart
from bot.policy.encoder import Embedder, EncoderPart
from bot.policy.engine import Engine
from bot.policy.model import PolicyModel
from bot.policy.types import TextRequest
from bot.policy.voice import PROBE_TOLERANCE
from online_learning.loop import Loop
from online_learning.update import CURRENT
from tests.learner_rig import QUICK, Home


@pytest.fixture
def written(home: Home) -> list[Decision]:
    """Four generated replies, the first two liked."""
    replies = [home.write("where is my card", "card_arrival", seed) for seed in range(4)]
    for reply, thumb in zip(replies, (1, 1, -1, -1), strict=True):
        home.vote(reply, thumb)
    return replies


@pytest.fixture
def loop(home: Home, written: list[Decision]) -> Loop:
    """A learner that has learned from them."""
    loop = home.resumed(config=replace(QUICK, text_learning_rate=5e-3))
    loop.step()
    return loop


def mean_logprob(loop: Loop, decision: Decision, adapter: str) -> float:
    assert loop.learner.writer is not None
    assert decision.generated is not None
    with torch.no_grad():
        return float(loop.learner.writer.token_logprobs([decision.generated], [adapter])[0].mean())


def test_liked_words_become_likelier_and_disliked_ones_less_so(loop: Loop, written: list[Decision]) -> None:
    """By the mean log-probability of the tokens that were written."""
    gains = [mean_logprob(loop, reply, CURRENT) - mean_logprob(loop, reply, "__base__") for reply in written]
    assert gains[0] > 0.05 < gains[1]
    assert gains[2] < -0.05 > gains[3]


def test_generated_rows_rescore_to_what_was_sampled(loop: Loop, home: Home) -> None:
    """Invariant 1 holds for words as for acts: nothing was refused."""
    metrics = home.store.updates()[-1].metrics
    assert metrics["refused"]["rescore"] == 0
    assert metrics["gate"]["rescore_error"] < 1e-4
    assert metrics["text_policy_loss"] != 0


def test_falsified_words_are_refused(home: Home, written: list[Decision]) -> None:
    """A row whose acts re-score but whose tokens do not."""
    assert written[0].generated is not None
    false = replace(written[0].generated, logprobs=tuple(p - 0.5 for p in written[0].generated.logprobs))
    home.vote(home.say("where is my card", "card_arrival", generated=false, id="false"), 1)
    home.resumed().step()
    update = home.store.updates()[-1]
    assert update.metrics["refused"]["rescore"] == 1
    assert "false" not in update.lineage


@pytest.mark.parametrize(("off", "refused"), [(0.3, 0), (0.4, 1)])
def test_words_of_a_server_in_another_precision_teach_up_to_what_it_may_be_off_by(
    home: Home, written: list[Decision], off: float, refused: int
) -> None:
    """A slack of 0.35 nats lets 0.3 pass and not 0.4; without slack neither would (the test above)."""
    assert written[0].generated is not None
    blurred = replace(written[0].generated, logprobs=tuple(p - off for p in written[0].generated.logprobs))
    home.vote(home.say("where is my card", "card_arrival", generated=blurred, id="blurred"), 1)
    home.resumed(config=replace(QUICK, text_slack=0.35)).step()

    assert home.store.updates()[-1].metrics["refused"]["rescore"] == refused


def test_a_published_encoder_loads_with_plain_peft(loop: Loop, home: Home, models: Path) -> None:
    """`PeftModel.from_pretrained` on the version's folder gives what the learner computes, not what the base does."""
    tokens = {"input_ids": torch.tensor([[2, 40, 50, 60, 3]]), "attention_mask": torch.ones(1, 5)}
    body = AutoModel.from_pretrained(models / "encoder", dtype=torch.float32)
    base = Embedder(body, body.config.hidden_size).eval()
    with torch.no_grad():
        plain = base(**tokens)
        theirs = PeftModel.from_pretrained(base, home.adapters.folder("v000001") / "encoder").eval()(**tokens)
        encoder = loop.learner.adapted["encoder"]
        ours = encoder([CURRENT], **{name: tensor.to(encoder.device) for name, tensor in tokens.items()}).cpu()
    assert torch.allclose(theirs, ours, atol=1e-5)
    assert not torch.allclose(theirs, plain, atol=1e-3)


@pytest.mark.parametrize("adapts_prompt", [False, True])
def test_a_published_writer_loads_with_plain_peft(
    home: Home, written: list[Decision], models: Path, adapts_prompt: bool
) -> None:
    """Also as an activated LoRA, which PEFT begins at the assistant's header as we do."""
    loop = home.resumed(config=replace(QUICK, text_learning_rate=5e-3, text_adapts_prompt=adapts_prompt))
    loop.step()
    reply, writer = written[0].generated, loop.learner.writer
    assert reply is not None
    assert writer is not None
    ids, keep = torch.tensor([[*reply.prompt_ids, *reply.token_ids[:-1]]]), len(reply.token_ids)
    base = AutoModelForCausalLM.from_pretrained(models / "causal", dtype=torch.float32).eval()
    with torch.no_grad():
        plain = base(input_ids=ids).logits[:, -keep:]
        peft = PeftModel.from_pretrained(base, home.adapters.folder("v000001") / "causal").eval()
        theirs = peft(input_ids=ids).logits[:, -keep:]
        ours = writer.after_prompt(reply.prompt_ids, reply.token_ids[:-1], CURRENT, keep=keep).logits.cpu()
    assert torch.allclose(theirs, ours, atol=1e-4)
    assert not torch.allclose(theirs, plain, atol=1e-3)
    assert bool(peft.peft_config["default"].alora_invocation_tokens) is not adapts_prompt


async def test_a_published_writer_passes_its_probes_in_a_server(loop: Loop, home: Home, models: Path) -> None:
    """And they tell it from the base model."""
    (probe,) = home.adapters.verify("v000001").text_probes
    assert (
        torch.tensor(probe.reply.logprobs).allclose(torch.tensor(probe.base_logprobs), atol=10 * PROBE_TOLERANCE)
        is False
    )
    model = PolicyModel(EncoderPart(models / "encoder"))
    engine = Engine(model, home.adapters, temperature=0.02, load_causal=lambda: CausalPart(models / "causal"))
    await engine.start()
    request = TextRequest('[["user", "hello"]]', (), seed=1, max_tokens=4)
    async with engine.lease() as lease:
        assert [piece async for piece in lease.write(request)][-1].generated is not None
    assert engine.champion == "v000001"
    await engine.close()


def test_a_rollback_past_the_first_written_version_unlearns_the_words(loop: Loop, home: Home) -> None:
    """The base version has no causal adapter: the learner goes back to one that changes nothing."""
    home.adapters.rollback(BASE_VERSION, "no")
    loop.step()
    weights = loop.learner.adapted["causal"].weights(CURRENT)
    assert all(not bool(tensor.any()) for name, tensor in weights.items() if "lora_B" in name)


def test_a_learner_of_words_resumes_with_its_momentum(loop: Loop, home: Home) -> None:
    """The version has causal weights, so the writer is loaded at once and gets its moments back."""
    again = home.resumed()
    assert again.learner.writer is not None
    kept = loop.learner.optimizers["text"].state_dict()["state"]
    found = again.learner.optimizers["text"].state_dict()["state"]
    assert kept.keys() == found.keys() != set()
    assert all(torch.equal(kept[i]["exp_avg"], found[i]["exp_avg"]) for i in kept)


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_an_adapter_goes_on_acting_where_it_was_trained_to(
    home: Home, written: list[Decision], before: bool, after: bool
) -> None:
    """The same shapes, but another beginning: a changed setting must not make other words of the same weights."""
    home.resumed(config=replace(QUICK, text_adapts_prompt=before)).step()
    again = home.resumed(config=replace(QUICK, text_adapts_prompt=after))
    assert again.learner.writer is not None
    assert (again.learner.writer.model.invocation(CURRENT) == ()) is before
