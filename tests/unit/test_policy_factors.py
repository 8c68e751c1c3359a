"""An adapter's files say what is added to each map, as PEFT would add it; whatever is more than that is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from bot.errors import AdapterError
from bot.policy.adapted import lora_config
from bot.policy.causal import CausalPart
from bot.policy.decoder import Decoder, Piece
from bot.policy.factors import Factors, read_factors
from tests.tiny_models import load_tiny_causal, random_adapter

MODULE = "model.layers.0.self_attn.q_proj"
A, B = f"base_model.model.{MODULE}.lora_A.weight", f"base_model.model.{MODULE}.lora_B.weight"
TOKENS = tuple(range(10, 40))


def config_of(**overrides: Any) -> LoraConfig:
    """Rank 2, alpha 8: a scale of 4."""
    return replace(lora_config(2, 8), **overrides)


def tensors_of(**overrides: Tensor) -> dict[str, Tensor]:
    return {A: torch.ones(2, 48), B: torch.ones(48, 2)} | overrides


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> CausalPart:
    return load_tiny_causal(tmp_path_factory.mktemp("factors"))


@pytest.mark.parametrize(
    ("overrides", "scale"), [({}, 4.0), ({"use_rslora": True, "r": 2, "lora_alpha": 8}, 8 / 2**0.5)]
)
def test_the_scale_is_alpha_over_rank_or_its_root(overrides: dict[str, Any], scale: float) -> None:
    """arXiv 2106.09685 and 2312.03732."""
    found = read_factors(config_of(**overrides), tensors_of())
    assert list(found) == [MODULE]
    assert found[MODULE].scale == pytest.approx(scale)


@pytest.mark.parametrize("method", [{}, {"use_rslora": True}])
def test_the_model_itself_with_an_adapter_beside_it_computes_what_peft_does(
    causal: CausalPart, method: dict[str, Any]
) -> None:
    """In fp32, also for a decoder that writes in bfloat16. The control: without the adapter the numbers are others."""
    config, tensors = replace(lora_config(4, 8), **method), random_adapter(causal.model, 3)
    name = f"peft {sorted(method)}"
    causal.model.load(name, config, tensors)
    with torch.no_grad():
        theirs = causal.model([name], input_ids=torch.tensor([TOKENS])).logits[0]
    decoder = Decoder(causal.model.base, dtype=torch.bfloat16, num_slots=2, num_positions=64)
    exact = decoder.exact(read_factors(config, tensors), "tried", num_positions=len(TOKENS))
    ours = exact.run([Piece(0, 0, TOKENS, "tried", len(TOKENS))])
    without = exact.run([Piece(0, 0, TOKENS, "__base__", len(TOKENS))])
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(without, theirs, atol=1e-1)


@pytest.mark.parametrize(
    ("config", "tensors", "line"),
    [
        (config_of(use_dora=True), tensors_of(), "got DoRA"),
        (config_of(rank_pattern={"q_proj": 4}), tensors_of(), "got a pattern"),
        (config_of(), tensors_of(**{A: torch.ones(3, 48)}), "expected down"),
        (config_of(), {A: torch.ones(2, 48)}, "expected down"),
        (config_of(), tensors_of(**{"base_model.model.lm_head.weight": torch.ones(1)}), "got base_model.model.lm_head"),
    ],
)
def test_what_is_more_than_a_product_is_refused(config: LoraConfig, tensors: dict[str, Tensor], line: str) -> None:
    """DoRA, ranks by layer, another rank than the config's, half of a pair, and whole weights."""
    with pytest.raises(AdapterError, match=line):
        read_factors(config, tensors)


@pytest.mark.parametrize("use", [lambda d, f: d.prepare(f), lambda d, f: d.exact(f, "tried", num_positions=8)])
def test_an_adapter_of_a_map_of_another_size_is_refused(
    causal: CausalPart, use: Callable[[Decoder, dict[str, Factors]], object]
) -> None:
    """One of another base model with the same names."""
    decoder = Decoder(causal.model.base, dtype=torch.float32, num_slots=1, num_positions=64)
    foreign = {MODULE: Factors(torch.ones(2, 7), torch.ones(48, 2), 1.0)}
    with pytest.raises(AdapterError, match="expected an adapter of a map"):
        use(decoder, foreign)
