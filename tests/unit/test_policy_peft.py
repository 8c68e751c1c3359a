"""PEFT methods of the encoder part: each starts at the base, mixes with the others in a batch, and survives publishing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bot.errors import ConfigError
from bot.policy.adapted import BASE
from bot.policy.encoder import EncoderPart
from bot.policy.weights import read_lora_config, write_part
from bot.settings import load_settings
from online_learning.config import PEFT_METHODS, LearnerConfig
from tests.tiny_models import tiny_encoder

IDS = [(2, 5, 6, 3), (2, 9, 3), (2, 7, 8, 9, 10, 3), (2, 5, 3), (2, 6, 6, 6, 3)]


@pytest.fixture
def encoder(tmp_path: Path) -> EncoderPart:
    return EncoderPart(tiny_encoder(tmp_path / "encoder"), device=torch.device("cpu"))


def drawn(encoder: EncoderPart, name: str, method: str, *, body: bool = True, seed: int = 1) -> None:
    """Hang in an adapter of random weights; lengths of DoRA are moved by a tenth."""
    config = encoder.lora(4, 8, body=body, method=method)
    encoder.model.create(name, config)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        key: value * 1.1 if "magnitude" in key else torch.randn(value.shape, generator=generator) * 0.05
        for key, value in encoder.model.weights(name).items()
    }
    encoder.model.set_weights(name, weights)


@pytest.mark.parametrize("body", [False, True])
@pytest.mark.parametrize("method", PEFT_METHODS)
def test_a_fresh_adapter_of_any_method_changes_nothing(encoder: EncoderPart, method: str, body: bool) -> None:
    """Learning starts at the retriever, whatever learns."""
    encoder.model.create("fresh", encoder.lora(4, 8, body=body, method=method))
    with torch.no_grad():
        assert torch.allclose(encoder.embed_ids(IDS, ["fresh"] * 5), encoder.embed_ids(IDS, [BASE] * 5), atol=1e-5)


@pytest.mark.parametrize("body", [False, True])
def test_a_batch_of_all_methods_gives_each_row_its_own_adapter(encoder: EncoderPart, body: bool) -> None:
    """One batch of lora, dora, base, rslora, dora equals five batches of one."""
    for seed, method in enumerate(PEFT_METHODS):
        drawn(encoder, method, method, body=body, seed=seed)
    names = ["lora", "dora", BASE, "rslora", "dora"]
    with torch.no_grad():
        together = encoder.embed_ids(IDS, names)
        apart = torch.cat([encoder.embed_ids([ids], [name]) for ids, name in zip(IDS, names, strict=True)])
    assert torch.allclose(together, apart, atol=1e-5)
    assert not torch.allclose(together, encoder.embed_ids(IDS, [BASE] * 5), atol=1e-3)


def test_peft_itself_mixes_no_dora(encoder: EncoderPart) -> None:
    """The control: without taking the rows apart the batch is refused."""
    drawn(encoder, "a", "dora")
    with pytest.raises(ValueError, match="DoRA"):
        encoder._embed_together(IDS[:2], ["a", BASE])


def test_the_same_tensors_are_another_function_by_another_method(encoder: EncoderPart) -> None:
    """Why a version is never read with another method's scale."""
    drawn(encoder, "a", "lora")
    encoder.model.load("b", encoder.lora(4, 8, body=True, method="rslora"), encoder.model.weights("a"))
    with torch.no_grad():
        assert not torch.allclose(encoder.embed_ids(IDS, ["a"] * 5), encoder.embed_ids(IDS, ["b"] * 5), atol=1e-3)


@pytest.mark.parametrize("method", PEFT_METHODS)
def test_gradient_reaches_every_trained_tensor(encoder: EncoderPart, method: str) -> None:
    """Through a mixed batch as well as alone; the other adapter gets none."""
    drawn(encoder, "other", "lora")
    drawn(encoder, "trained", method)
    for parameter in encoder.model.parameters("trained").values():
        parameter.requires_grad_(True)
    states = encoder.embed_ids(IDS, ["trained", "other", "trained", BASE, "trained"])
    (states[[0, 2, 4]] * torch.linspace(-1, 1, encoder.width)).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.any() for p in encoder.model.parameters("trained").values())
    assert all(p.grad is None for p in encoder.model.parameters("other").values())


@pytest.mark.parametrize("method", PEFT_METHODS)
def test_a_version_on_disk_keeps_its_method(encoder: EncoderPart, tmp_path: Path, method: str) -> None:
    """Written and read back, it embeds as before."""
    drawn(encoder, "made", method)
    weights = encoder.model.weights("made")
    write_part(tmp_path / "part", weights, encoder.model.config("made"), "tiny")
    encoder.model.load("read", read_lora_config(tmp_path / "part"), weights)
    with torch.no_grad():
        assert torch.equal(encoder.embed_ids(IDS, ["read"] * 5), encoder.embed_ids(IDS, ["made"] * 5))


def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path) -> None:
    """As a setting and as a recipe: expected, got."""
    with pytest.raises(ConfigError, match=r"learn.peft.*lora, rslora, dora.*ia3"):
        load_settings({"home": tmp_path, "learn": {"peft": "ia3"}}, {})
    with pytest.raises(ValueError, match=r"peft: expected one of lora, rslora, dora, got 'prefix'"):
        replace(LearnerConfig(), peft="prefix")
