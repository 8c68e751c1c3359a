"""The choice among acts reads what is new of a prompt, once; numbers stay those of a model that reads everything anew."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from bot.conversation import LegalAct
from bot.policy.adapted import BASE, lora_config
from bot.policy.causal import CausalPart
from bot.policy.model import ActRow
from bot.policy.prefixes import BLOCK_TOKENS
from bot.policy.prompts import pack
from tests.tiny_models import load_tiny_causal, random_adapter

LEGAL = (
    LegalAct("answer:arrival", ("Card arrival",)),
    LegalAct("respond:nothing", ()),
    LegalAct("answer:lost", ("Lost card, please freeze it",)),
    LegalAct("answer:top_up", ("Top up",)),
)
TALK = ("where is my card?", "It arrives in 5 days.", "and if I lost it?", "Please freeze it in the app.", "thanks")
SYSTEM = "You help customers of a bank with their cards. Name the topic that the last message is about."


def prompt_of(num_turns: int) -> str:
    """As the renderer makes it: each turn begins as the one before did."""
    turns = [("user" if i % 2 == 0 else "assistant", TALK[i]) for i in range(num_turns)]
    return json.dumps([("system", SYSTEM), *turns])


def row_of(num_turns: int = 5) -> ActRow:
    return ActRow((1,), LEGAL, 1.0, prompt_of(num_turns))


def with_adapters(folder: Path, *, activated: bool, kept: int | None = 4096) -> CausalPart:
    """Adapters a and b; `kept` None is the learner's way: nothing stays."""
    part = load_tiny_causal(folder)
    if kept is not None:
        part.keep_prompts(kept)
    for seed, name in enumerate(("a", "b"), 1):
        fill(part, name, seed, activated=activated)
    return part


def fill(part: CausalPart, name: str, seed: int, *, activated: bool) -> None:
    config = lora_config(4, 8, invocation=part.header_ids if activated else ())
    part.model.load(name, config, random_adapter(part.model, seed))


@torch.no_grad()
def logits(part: CausalPart, row: ActRow, adapter: str) -> list[float]:
    found: list[float] = part.act_logits([row], [adapter], len(LEGAL), 0.5)[0].tolist()
    return found


@torch.no_grad()
def label_by_label(part: CausalPart, row: ActRow, adapter: str) -> list[float]:
    """The definition: a forward pass over prompt and label for each act, by itself."""
    ids = part.prompt_ids(row.prompt)

    def loglik(text: str, name: str) -> float:
        label = tuple(part.tokenizer(text, add_special_tokens=False)["input_ids"])
        out = part.after_prompt(ids, label[:-1], name, keep=len(label)).logits[0].log_softmax(-1)
        return float(out.gather(-1, torch.tensor(label).unsqueeze(-1)).sum())

    found = []
    for act in row.legal:
        base = loglik(act.texts[-1], BASE) if act.texts else 0.0
        found.append(0.5 * base + loglik(act.texts[-1], adapter) - base if act.texts else 0.0)
    return found


@pytest.mark.parametrize("kept", [None, 4096])
@pytest.mark.parametrize("activated", [True, False])
def test_acts_side_by_side_score_as_each_alone(tmp_path: Path, activated: bool, kept: int | None) -> None:
    """In one pass, whether prompts are kept or not; another adapter's numbers are far away (the control)."""
    part = with_adapters(tmp_path, activated=activated, kept=kept)
    expected = label_by_label(part, row_of(), "a")
    assert logits(part, row_of(), "a") == pytest.approx(expected, abs=1e-4)
    assert logits(part, row_of(), "b") != pytest.approx(expected, abs=1e-2)


def test_labels_see_the_prompt_and_themselves() -> None:
    """Two tokens of a prompt behind three known ones, labels of 2 and 1 tokens: by hand."""
    packed = pack(2, 3, [2, 1])
    assert packed.positions_1_L.tolist() == [[3, 4, 5, 6, 5]]
    sees = (packed.mask_1_1_L_K[0, 0] == 0).int().tolist()
    assert sees == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 0, 0, 1],
    ]
    assert (packed.before_N.tolist(), packed.owner_N.tolist()) == ([0, 1, 0], [0, 0, 1])


@pytest.mark.parametrize("activated", [True, False])
def test_what_the_server_scores_turn_by_turn_rescores_in_the_learner(tmp_path: Path, activated: bool) -> None:
    """Five turns over kept prompts, two versions in turn, beside a model that keeps nothing: invariant 1's tolerance."""
    server = with_adapters(tmp_path / "server", activated=activated)
    learner = with_adapters(tmp_path / "learner", activated=activated, kept=None)
    for num_turns in (1, 3, 5):
        for adapter in ("a", "b", "a"):
            row = row_of(num_turns)
            assert logits(server, row, adapter) == pytest.approx(logits(learner, row, adapter), abs=1e-4)
    assert server.prompt_stats.num_reused > 0


def test_a_turn_reads_what_is_new_and_the_next_chat_what_is_its_own(tmp_path: Path) -> None:
    """An activated adapter has its prompts from the base model, which reads what is behind the last whole block."""
    part = with_adapters(tmp_path, activated=True)
    lengths = [len(part.prompt_ids(prompt_of(n))) - len(part.header_ids) for n in (3, 5)]
    logits(part, row_of(3), "a")
    assert part.prompt_stats.num_read == lengths[0]
    logits(part, row_of(5), "a")
    assert part.prompt_stats.num_read == lengths[0] + lengths[1] - lengths[0] // BLOCK_TOKENS * BLOCK_TOKENS
    before = part.prompt_stats.num_read
    logits(part, row_of(5), "b")  # Another version, another chat with the same words.
    assert part.prompt_stats.num_read - before == lengths[1] % BLOCK_TOKENS


class Forgetful(Counter[str]):
    """Never counts a load: the key is the bare name."""

    def __setitem__(self, name: str, count: int) -> None:
        """Nothing."""


@pytest.mark.parametrize("counts_loads", [True, False])
def test_what_was_read_under_old_weights_is_never_used_under_new_ones(tmp_path: Path, counts_loads: bool) -> None:
    """An adapter that reads prompts is loaded anew under its name, with nobody saying so. The control, a key of the bare
    name, gives numbers of neither."""
    part, fresh = (with_adapters(tmp_path / name, activated=False) for name in ("part", "fresh"))
    if not counts_loads:
        part.model._num_loads = Forgetful()
    logits(part, row_of(), "a")
    part.model.delete("a")
    fill(part, "a", seed=9, activated=False)
    fresh.model.delete("a")
    fill(fresh, "a", seed=9, activated=False)
    expected = logits(fresh, row_of(), "a")
    off = max(abs(x - y) for x, y in zip(logits(part, row_of(), "a"), expected, strict=True))
    assert (off < 1e-4) is counts_loads


def test_prompts_are_bounded_and_a_version_that_goes_frees_its_own(tmp_path: Path) -> None:
    """Four blocks at most, evictions counted; a dropped version's are gone, those of the base model stay."""
    part = with_adapters(tmp_path, activated=False, kept=4 * BLOCK_TOKENS)
    for num_turns in (1, 3, 5):
        logits(part, row_of(num_turns), "a")
    assert part.prompt_stats.num_blocks <= 4
    assert part.prompt_stats.num_evicted > 0
    roomy = with_adapters(tmp_path / "roomy", activated=False)
    logits(roomy, row_of(), "a")
    by_base = (len(roomy.prompt_ids(row_of().prompt)) - len(roomy.header_ids)) // BLOCK_TOKENS
    assert roomy.prompt_stats.num_blocks > by_base
    roomy.drop_prompts("a")
    assert roomy.prompt_stats.num_blocks == by_base
    roomy.drop_prompts("never heard of")


def test_without_room_every_prompt_is_read_each_time(tmp_path: Path) -> None:
    """The peer of the benchmark: in full, by the base model, which an activated adapter goes on from."""
    part = with_adapters(tmp_path, activated=True, kept=0)
    for _ in range(2):
        logits(part, row_of(), "a")
    assert part.prompt_stats.num_reused == 0
    assert part.prompt_stats.num_read == 2 * (len(part.prompt_ids(prompt_of(5))) - len(part.header_ids))
