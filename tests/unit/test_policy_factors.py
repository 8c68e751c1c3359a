"""An adapter's files say what is added to each map, as PEFT would add it; whatever is more than that is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor

from bot.errors import AdapterError
from bot.policy.adapted import lora_config
from bot.policy.causal import CausalPart
from bot.policy.decoder import Decoder
from bot.policy.factors import read_factors
from bot.policy.pieces import Piece
from tests.tiny_models import load_tiny_causal, random_adapter

MODULE = "model.layers.0.self_attn.q_proj"
A, B = f"base_model.model.{MODULE}.lora_A.weight", f"base_model.model.{MODULE}.lora_B.weight"
MAPS = {MODULE: (6, 4), "model.layers.0.self_attn.k_proj": (3, 4)}
TOKENS = tuple(range(10, 40))


def config_of(**overrides: Any) -> LoraConfig:
    """Of the query alone; rank 2, alpha 8: a scale of 4."""
    return replace(lora_config(2, 8), **{"target_modules": ["q_proj"]} | overrides)


def tensors_of(**overrides: Tensor) -> dict[str, Tensor]:
    return {A: torch.ones(2, 4), B: torch.ones(6, 2)} | overrides


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> CausalPart:
    return load_tiny_causal(tmp_path_factory.mktemp("factors"))


@pytest.mark.parametrize(("overrides", "scale"), [({}, 4.0), ({"use_rslora": True}, 8 / 2**0.5)])
def test_the_scale_is_alpha_over_rank_or_its_root(overrides: dict[str, Any], scale: float) -> None:
    """arXiv 2106.09685 and 2312.03732."""
    found = read_factors(config_of(**overrides), tensors_of(), MAPS)
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
    exact = decoder.exact(
        read_factors(causal.model.config(name), tensors, decoder.maps), "tried", num_positions=len(TOKENS)
    )
    ours = exact.run([Piece(0, 0, TOKENS, "tried", len(TOKENS))])
    without = exact.run([Piece(0, 0, TOKENS, "__base__", len(TOKENS))])
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(without, theirs, atol=1e-1)


@pytest.mark.parametrize(
    ("config", "tensors", "line"),
    [
        (config_of(use_dora=True), tensors_of(), "got DoRA"),
        (config_of(rank_pattern={"q_proj": 4}), tensors_of(), "got a pattern"),
        (config_of(), tensors_of(**{A: torch.ones(3, 4)}), "expected down"),
        (config_of(), tensors_of(**{A: torch.ones(2, 7)}), "expected down"),
        (config_of(), tensors_of(**{B: torch.ones(6)}), "expected down"),
        (config_of(), tensors_of(**{B: torch.ones(6, 2, 1)}), "expected down"),
        (config_of(), {A: torch.ones(2, 4)}, "expected down"),
        (config_of(), {}, "q_proj is one too few"),
        (config_of(target_modules=["q_proj", "k_proj"]), tensors_of(), "k_proj is one too few"),
        (config_of(target_modules=["k_proj"]), tensors_of(), "too few or too many"),
        (config_of(), tensors_of(**{"base_model.model.lm_head.weight": torch.ones(1)}), "got base_model.model.lm_head"),
    ],
)
def test_what_is_more_or_less_than_products_of_the_maps_it_names_is_refused(
    config: LoraConfig, tensors: dict[str, Tensor], line: str
) -> None:
    """DoRA, ranks by layer, another rank than the config's, another model's width, tensors of other dimensions, half of a
    pair, nothing, a map that is missing, one too many, and whole weights."""
    with pytest.raises(AdapterError, match=line):
        read_factors(config, tensors, MAPS)
