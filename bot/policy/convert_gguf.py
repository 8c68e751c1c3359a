"""Turns a GGUF file into a plain transformers folder, once, in a process of its own.

`python -m bot.policy.convert_gguf MODEL.gguf FOLDER` dequantises to fp32 safetensors, saves tokenizer and chat
template, then loads the folder again and compares logits on a fixed prompt, bit for bit. Exit 1 with one line when
that fails. A process of its own, since dequantising needs several times the model's memory, and gives it back.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bot.errors import ModelError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""For files whose metadata carries no chat template."""
PROBE = "How do I freeze my card?"


def convert(gguf: Path, folder: Path) -> None:
    """Write `folder` from `gguf`. Raises ModelError when what was written does not load to the same model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    before = _probe(model, tokenizer)
    _save(model, tokenizer, folder)
    reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    after = _probe(reloaded, AutoTokenizer.from_pretrained(folder))
    if not torch.equal(before, after):
        raise ModelError(f"{gguf.name}: the converted model answers differently from the original")


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    # transformers remembers that the weights came from GGUF and refuses to save them; by now they are plain fp32.
    if hasattr(model.config, "quantization_config"):
        delattr(model.config, "quantization_config")
    model.hf_quantizer = None
    model.is_quantized = False
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHATML
    model.save_pretrained(folder, max_shard_size="2GB")
    tokenizer.save_pretrained(folder)


def _probe(model: Any, tokenizer: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model.eval()(**tokenizer(PROBE, return_tensors="pt")).logits


def main(arguments: list[str]) -> int:
    """Exit code of the conversion."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m bot.policy.convert_gguf MODEL.gguf FOLDER\n")
        return 2
    try:
        convert(Path(arguments[0]), Path(arguments[1]))
    except (ModelError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
