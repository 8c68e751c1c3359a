"""Tiny randomly initialised models in transformers' own folders, for tests that must not download anything.

`tiny_encoder` is a BERT with a WordPiece tokenizer, `tiny_causal` a Llama with byte-level BPE, single digits and a ChatML
template, as the default models are; both have two layers. `publish_version` makes a signed version of random weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bot.conversation import Generated, LegalAct
from bot.policy.adapted import BASE, AdaptedModel, lora_config
from bot.policy.adapters import AdapterStore
from bot.policy.causal import CausalPart
from bot.policy.decoder import Decoder
from bot.policy.encoder import EncoderPart
from bot.policy.factors import Factors, read_factors
from bot.policy.manifest import CanaryProbe, TextProbe
from bot.policy.model import ActRow, PolicyModel
from bot.policy.weights import write_part
from tests.version_folder import make_manifest

CORPUS = (
    "When will my card arrive? Your card arrives in 5 days.",
    "I lost my card, please freeze it now. A person can help you with that.",
    "A transfer of £10.50 or £100 is free, then we charge 2% of the amount, up to €25.",
    "Top up your account by bank transfer before 24/7 support closes at 18:30.",
    "Read more on www.larkhollow.example/cards or write to help@larkhollow.example.",
)
"""What the tokenizers are trained on."""
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPERATURE = 0.05
PROBE_TEXTS = (("When will my card arrive?", "Card arrival"), ("I lost my card",), ("Top up by bank transfer",))


def tiny_encoder(folder: Path, seed: int = 0) -> Path:
    """Write a BERT of width 32 into `folder` and return it."""
    tokenizer = _wordpiece()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    _fast(tokenizer, **names).save_pretrained(folder)
    return folder


def tiny_causal(folder: Path, seed: int = 0) -> Path:
    """Write a Llama of width 48 into `folder` and return it."""
    tokenizer = _byte_level_bpe()
    end = tokenizer.token_to_id("<|im_end|>")
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.token_to_id("<|im_start|>"),
        eos_token_id=end,
        pad_token_id=end,
        initializer_range=0.2,  # Peaked enough that adapters change words, not only their probabilities.
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    saved = _fast(tokenizer, **names)
    saved.chat_template = CHATML
    saved.save_pretrained(folder)
    return folder


def _fast(tokenizer: Tokenizer, **names: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)  # type: ignore[no-untyped-call]


@cache
def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


@cache
def _byte_level_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    # The currency signs are two or three bytes each: seen often enough, they become tokens of their own.
    tokenizer.train_from_iterator([*CORPUS, "£ £ £ £ € € € €"], trainer)
    return tokenizer


def random_adapter(adapted: AdaptedModel, seed: int, scale: float = 0.2) -> dict[str, Tensor]:
    """Weights of an adapter that changes what the model says: LoRA's B is not zero."""
    name = f"drawn-{seed}"
    adapted.create(name, lora_config(rank=4, alpha=8))
    generator = torch.Generator().manual_seed(seed)
    drawn = {k: torch.randn(v.shape, generator=generator) * scale for k, v in adapted.weights(name).items()}
    adapted.delete(name)
    return drawn


def factors_of(adapted: AdaptedModel, name: str, decoder: Decoder) -> dict[str, Factors]:
    """What a loaded adapter adds to each map."""
    return read_factors(adapted.config(name), adapted.weights(name), decoder.maps)


def tiny_policy(tmp_path: Path, *, scores_text: bool = False, alpha: float = 0.0) -> PolicyModel:
    """A policy model over a tiny encoder and, when asked, a tiny causal LM that scores acts too."""
    encoder = EncoderPart(tiny_encoder(tmp_path / "encoder"), device=torch.device("cpu"))
    causal = load_tiny_causal(tmp_path) if scores_text else None
    return PolicyModel(encoder, causal, alpha=alpha)


def load_tiny_causal(tmp_path: Path) -> CausalPart:
    """A tiny causal LM ready to use."""
    return CausalPart(tiny_causal(tmp_path / "causal"), device=torch.device("cpu"))


@torch.no_grad()
def make_probes(model: PolicyModel, adapter: str) -> tuple[CanaryProbe, ...]:
    """One canary with this adapter's own log-probabilities."""
    legal = tuple(LegalAct(f"probe:{i}", texts) for i, texts in enumerate(PROBE_TEXTS))
    prompt = '[["user", "probe"]]' if model.causal is not None else ""
    row = ActRow(model.encoder.tokenize("where is my card?"), legal, TEMPERATURE, prompt)
    scored = [tuple(model.score([row], [name]).logprobs_B_A[0].tolist()) for name in (adapter, BASE)]
    return (CanaryProbe("where is my card?", PROBE_TEXTS, TEMPERATURE, prompt, *scored),)


@torch.no_grad()
def make_text_probes(writer: CausalPart, adapter: str) -> tuple[TextProbe, ...]:
    """One canary reply with this adapter's own log-probabilities."""
    prompt_ids = writer.prompt_ids('[["user", "where is my card?"]]')
    token_ids = tuple(writer.tokenizer("Your card arrives soon", add_special_tokens=False)["input_ids"])
    reply = Generated(prompt_ids, token_ids, (), 1.0, (), "", "length")
    said, base = (tuple(writer.token_logprobs([reply], [name])[0][0].tolist()) for name in (adapter, BASE))
    return (TextProbe(replace(reply, logprobs=said), base),)


def publish_version(
    adapters: AdapterStore,
    model: PolicyModel,
    seed: int,
    *,
    writer: CausalPart | None = None,
    causal_config: LoraConfig | None = None,
    scale: float = 0.2,
    files: dict[str, dict[str, Tensor]] | None = None,
    probes: Sequence[CanaryProbe] | None = None,
    value_width: int = 0,
    **overrides: Any,
) -> str:
    """Publish a version of random weights with honest probes; `files` puts other tensors than the probed ones on disk."""
    parts: dict[str, Any] = {"encoder": model.encoder} | ({"causal": writer} if writer else {})
    staged = adapters.stage()
    for name, part in parts.items():
        tensors = random_adapter(part.model, seed, scale)
        config = causal_config if name == "causal" else None
        part.model.load("publishing", config or lora_config(rank=4, alpha=8), tensors)
        written = (files or {}).get(name, tensors)
        write_part(staged / name, written, part.model.config("publishing"), part.name.partition(":")[0])
    honest = make_probes(model, "publishing")
    honest_text = make_text_probes(writer, "publishing") if writer is not None else ()
    for part in parts.values():
        part.model.delete("publishing")
    width = value_width or model.encoder.width
    save_file(
        {"linear.weight": torch.full((1, width), 0.1), "linear.bias": torch.zeros(1)}, staged / "value.safetensors"
    )
    fields: dict[str, Any] = {"version": adapters.next_version(), "probes": honest if probes is None else tuple(probes)}
    fields["text_probes"] = honest_text
    fields["base_models"] = {name: part.name for name, part in parts.items()}
    return adapters.publish(staged, replace(make_manifest(**fields), **overrides))
