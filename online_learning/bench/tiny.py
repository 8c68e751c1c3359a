"""Tiny models with random weights for measurements and tests of everything but skill: made in a second, no download.

Both are plain transformers folders. The encoder's word vectors dominate, so that texts that share words are near each
other and retrieval means something; the causal LM writes noise in the letters of the texts it was given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bot.domain import Domain

PRINTABLE = [chr(code) for code in range(33, 127)]
WIDTH = 64
BERT_MARKS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def texts_of(domain: Domain) -> list[str]:
    """Every text of a domain's articles."""
    return [text for article in domain.articles.values() for text in (*article.texts, article.answer)]


def tiny_encoder(folder: Path, texts: Iterable[str], seed: int = 0) -> Path:
    """A BERT of two layers that knows the words of `texts`; returns `folder`."""
    words = sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())} - set(PRINTABLE))
    special = list(BERT_MARKS.values())
    letters = sorted({char.lower() for char in PRINTABLE})
    pieces = [*special, *letters, *(f"##{char}" for char in letters), *words]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=128,
    )
    torch.manual_seed(seed)
    model = BertModel(config)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.normal_(0.0, 1.0)
        model.embeddings.word_embeddings.weight[: len(special)] *= 0.1
        model.embeddings.position_embeddings.weight.zero_()
    model.save_pretrained(folder)
    _save_tokenizer(folder, tokenizer, **BERT_MARKS)
    return folder


def tiny_causal(folder: Path, texts: Sequence[str], seed: int = 0) -> Path:
    """A Llama of two layers with a ChatML template; returns `folder`. It reads printable ASCII only."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    markers = ["<|im_start|>", "<|im_end|>"]
    # "Ġ" and "Ċ" are how byte-level tokenizers spell a space and a line break.
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=markers, initial_alphabet=[*PRINTABLE, "Ġ", "Ċ"])
    tokenizer.train_from_iterator([text.encode("ascii", "ignore").decode() for text in texts], trainer)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    _save_tokenizer(folder, tokenizer, bos_token=markers[0], eos_token=markers[1], chat_template=CHAT_TEMPLATE)
    return folder


def _save_tokenizer(folder: Path, tokenizer: Tokenizer, **options: str) -> None:
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(folder)  # type: ignore[no-untyped-call]
