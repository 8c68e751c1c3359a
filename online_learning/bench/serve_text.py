"""`rejoinder bench text`: tokens a second of generated replies with an adapter attached, beside `model.generate()`.

Same prompts, same weights, same arithmetic, in turn within each repeat, so that a busy machine is as busy for all; medians
over the repeats. Times hold everything from the rendered prompt to the last token: reading, masks and text besides.
The limits are of this machine, measured in the same run: at one reply every weight must be read once a token; at sixteen
the multiplications count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from peft import get_peft_model, set_peft_model_state_dict
from tqdm import tqdm

from bot.conversation import State, Turn
from bot.domain import Domain, load_domain
from bot.policy.adapted import lora_config
from bot.policy.causal import CausalPart
from bot.policy.decoder import Decoder, pick_dtype
from bot.policy.download import find_or_fetch
from bot.policy.factors import read_factors
from bot.policy.threads import use_threads
from bot.policy.types import TextRequest
from bot.policy.vocabulary import MAX_PROMPT_TOKENS, Vocabulary
from bot.policy.weights import write_part
from bot.policy.writer import Writer
from bot.render import reply_prompt
from bot.settings import Settings
from online_learning.bench.product import throw_away
from online_learning.bench.serve_vllm import measure_vllm, running_vllm, vllm_python

BATCHES = (1, 8, 16)
ON_CUDA = (*BATCHES, 64)
VLLM_BATCHES = (1, 16)
RANK = 16
NOISE = 0.02
"""Standard deviation of the adapter's random weights."""
TEMPERATURE = 0.7
ADAPTER = "measured"
T = TypeVar("T")


class Endless:
    """A vocabulary that ends no reply, as its peers are told to: all write the same number of tokens."""

    def __init__(self, real: Vocabulary) -> None:
        self._real = real
        self.stop_ids: frozenset[int] = frozenset()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def main(settings: Settings, args: argparse.Namespace) -> int:
    """`--repeats`, `--vllm`."""
    with throw_away(settings, tiny=args.tiny) as home:
        print(json.dumps(run_text(home, repeats=args.repeats, vllm=args.vllm or vllm_python(settings))))
    return 0


def run_text(settings: Settings, *, repeats: int = 5, num_tokens: int = 64, vllm: Path | None = None) -> dict[str, Any]:
    """Tokens a second by batch size: `tokens_per_s` (ours), `peer` (name -> the same), `share_of_limit`, `ratio`.

    `known`: the same with prompts that were read before, by ours and by vLLM, which keep what they read. `vllm`: the
    interpreter of an environment with vLLM (`deploy/vllm-cpu.sh`).
    """
    threads = torch.get_num_threads()
    use_threads(1)
    causal, domain = CausalPart(find_or_fetch("causal", settings)), load_domain(settings.domain)
    batches = ON_CUDA if causal.device.type == "cuda" else BATCHES
    prompts = prompts_of(domain, max(batches))
    dtype = pick_dtype(settings.engine.dtype, causal.device)
    decoder, words = _decoder(causal, dtype, num_tokens, max(batches)), Endless(causal.vocabulary)
    runs: dict[str, Callable[[], float]] = {
        f"{name} {batch}": partial(_ours, decoder, words, prompts[:batch], num_tokens, threads, knows=name == "known")
        for name in ("ours", "known")
        for batch in batches
    }
    for name, peer in {
        "adapter": _generator(settings, causal, dtype, adapted=True),
        "base": _generator(settings, causal, dtype, adapted=False),
    }.items():
        for batch in batches:
            runs[f"generate_{name} {batch}"] = partial(_apart, partial(peer, prompts[:batch], num_tokens), threads)
    # One request after the other has the rate of one request.
    runs["one_at_a_time 8"] = runs["generate_adapter 1"]
    found: dict[str, list[float]] = {name: [] for name in runs}
    for measure in runs.values():  # Once for nothing: the first call allocates.
        measure()
    for _ in tqdm(range(repeats), unit="repeat", file=sys.stderr, disable=None):
        for name, measure in runs.items():
            found[name].append(measure())
    rates = {name: round(median(values), 1) for name, values in found.items()}
    ids, model = [causal.vocabulary.prompt_ids(prompt) for prompt, _ in prompts], find_or_fetch("causal", settings)
    vllm_found = _vllm(vllm, causal, ids, model, num_tokens=num_tokens, repeats=repeats)
    return _report(rates, _apart(partial(_limits, causal, dtype), threads), dtype, vllm_found, threads)


def _report(
    rates: dict[str, float], limits: dict[str, float], dtype: torch.dtype, vllm: dict[str, Any], threads: int
) -> dict[str, Any]:
    by_name: dict[str, dict[str, float]] = {}
    for name, rate in rates.items():
        kind, batch = name.split()
        by_name.setdefault(kind, {})[batch] = rate
    ours, known = by_name.pop("ours"), by_name.pop("known")
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "threads": threads,
        "tokens_per_s": ours,
        "known": known,
        "peer": by_name | {"vllm": vllm},
        "ratio": {
            "generate_adapter": _ratios(ours, by_name["generate_adapter"]),
            "one_at_a_time_8": round(ours["8"] / by_name["one_at_a_time"]["8"], 2),
            **{f"vllm_{name}": _ratios(ours, vllm[name]) for name in ("adapter", "base") if name in vllm},
            **{f"vllm_{name}_known": _ratios(known, vllm["known"][name]) for name in vllm.get("known", {})},
        },
        "limit_tokens_per_s": {name: round(value, 1) for name, value in limits.items()},
        "share_of_limit": {batch: round(known[batch] / limits[batch], 3) for batch in limits},
    }


def _ratios(ours: dict[str, float], peer: dict[str, float]) -> dict[str, float]:
    return {batch: round(ours[batch] / rate, 2) for batch, rate in peer.items()}


def prompts_of(domain: Domain, count: int) -> list[tuple[str, str]]:
    """Rendered prompts, as the product makes them, and the source of each: first questions of articles, round and round."""
    articles = list(domain.articles.values())
    found = []
    for i in range(count):
        article = articles[i % len(articles)]
        state = State("bench", (Turn("user", article.questions[i // len(articles) % len(article.questions)]),))
        found.append((reply_prompt(state, domain.persona, (article.answer,)), article.answer))
    return found


# --- ours -------------------------------------------------------------------------------------------------------------
def _decoder(causal: CausalPart, dtype: torch.dtype, num_tokens: int, num_slots: int) -> Decoder:
    causal.model.create(ADAPTER, lora_config(RANK, 2 * RANK))
    generator = torch.Generator().manual_seed(0)
    weights = causal.model.weights(ADAPTER)
    causal.model.set_weights(
        ADAPTER, {key: NOISE * torch.randn(value.shape, generator=generator) for key, value in weights.items()}
    )
    decoder = Decoder(causal.model.base, dtype=dtype, num_slots=num_slots, num_positions=MAX_PROMPT_TOKENS + num_tokens)
    decoder.add(
        ADAPTER,
        decoder.prepare(read_factors(causal.model.config(ADAPTER), causal.model.weights(ADAPTER), decoder.maps)),
    )
    return decoder


def _ours(
    decoder: Decoder,
    words: Any,
    prompts: Sequence[tuple[str, str]],
    num_tokens: int,
    threads: int,
    *,
    knows: bool,
) -> float:
    """By a writer of this measurement alone, whose thread ends with it. `knows`: it read the prompts before; else it has
    read nothing yet, and only what these prompts begin with in common is read once."""
    writer = Writer(words, decoder, num_threads=threads)
    try:
        rate = _write(writer, prompts, num_tokens)
        return _write(writer, prompts, num_tokens) if knows else rate
    finally:
        writer.close()


def _apart(measure: Callable[[], T], threads: int) -> T:
    """In a thread that ends with it: OpenMP's helpers of the peers must not slow ours down, nor ours theirs."""

    def run() -> T:
        use_threads(threads)
        return measure()

    with ThreadPoolExecutor(1) as alone:
        return alone.submit(run).result()


def _write(writer: Writer, prompts: Sequence[tuple[str, str]], num_tokens: int) -> float:
    async def one(number: int, prompt: str, source: str) -> int:
        # Not `reply_request`: the peers write exactly `num_tokens`, so ours may not end with its sentence before.
        request = TextRequest(prompt, (source,), number, num_tokens, TEMPERATURE, chat=str(number))
        pieces = [piece async for piece in writer.write(request, ADAPTER, ())]
        assert pieces[-1].generated is not None, "the last piece carries the record"
        return len(pieces[-1].generated.token_ids)

    async def together() -> float:
        started = time.perf_counter()
        counts = await asyncio.gather(*(one(i, *pair) for i, pair in enumerate(prompts)))
        return sum(counts) / (time.perf_counter() - started)

    return asyncio.run(together())


# --- peers ------------------------------------------------------------------------------------------------------------
def _generator(
    settings: Settings, causal: CausalPart, dtype: torch.dtype, *, adapted: bool
) -> Callable[[Sequence[tuple[str, str]], int], float]:
    """`model.generate()` of transformers, with the same adapter by PEFT or without."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(find_or_fetch("causal", settings), dtype=dtype)
    if adapted:
        model = get_peft_model(model, lora_config(RANK, 2 * RANK))
        set_peft_model_state_dict(model, causal.model.weights(ADAPTER))
    model.eval().to(causal.device)

    @torch.inference_mode()
    def generate(prompts: Sequence[tuple[str, str]], num_tokens: int) -> float:
        started = time.perf_counter()
        rows = [causal.vocabulary.prompt_ids(prompt) for prompt, _ in prompts]
        width = max(map(len, rows))
        ids_B_T = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=causal.device)
        mask_B_T = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=causal.device)
        out_B_T = model.generate(
            input_ids=ids_B_T,
            attention_mask=mask_B_T,
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            do_sample=True,
            temperature=TEMPERATURE,
            pad_token_id=0,
        )
        return float(len(rows) * (out_B_T.shape[1] - width) / (time.perf_counter() - started))

    return generate


def _vllm(
    python: Path | None,
    causal: CausalPart,
    ids: Sequence[tuple[int, ...]],
    model: Path,
    *,
    num_tokens: int,
    repeats: int,
) -> dict[str, Any]:
    """`serve_vllm.measure_vllm` with the same weights, adapter and prompts, read anew and (`known`) read before."""
    if python is None:
        return {"reason": "no environment with vLLM: deploy/vllm-cpu.sh FOLDER makes one, --vllm FOLDER/bin/python"}
    with tempfile.TemporaryDirectory() as scratch:
        adapter, log = Path(scratch) / "adapter", Path(scratch) / "vllm.log"
        write_part(adapter, causal.model.weights(ADAPTER), causal.model.config(ADAPTER), causal.name)
        with running_vllm(python, model, log, grounded=False) as server:
            measure = partial(measure_vllm, server.url, ids, adapter=adapter, batch_sizes=VLLM_BATCHES)
            fresh, known = (
                asyncio.run(measure(num_tokens=num_tokens, repeats=repeats, fresh=fresh)) for fresh in (True, False)
            )
    return fresh | {"known": {name: known[name] for name in ("adapter", "base")}}


# --- limits -----------------------------------------------------------------------------------------------------------
def _limits(causal: CausalPart, dtype: torch.dtype) -> dict[str, float]:
    """Tokens a second that nothing on this machine could exceed: reading the weights once a token at one reply, two
    operations a weight and token at sixteen."""
    num_weights = sum(p.numel() for name, p in causal.model.base.named_parameters() if "lora_" not in name)
    num_bytes = num_weights * torch.empty((), dtype=dtype).element_size()
    return {
        "1": _bandwidth(causal.device) / num_bytes,
        "16": _matmul_flops(dtype, causal.device) / (2 * num_weights),
    }


def _bandwidth(device: torch.device) -> float:
    """Bytes a second read from memory: the best of five sums over 256 MB (on a GPU 4 GB: it has a cache of 50 MB, and a
    call costs what reading 60 MB does)."""
    num_bytes = 2**32 if device.type == "cuda" else 2**28
    block = torch.ones(num_bytes // 4, device=device)
    return num_bytes / min(_timed(block.sum, device) for _ in range(5))


def _matmul_flops(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a square product: the best of five."""
    size = 8192 if device.type == "cuda" else 2048
    square = torch.randn(size, size, device=device).to(dtype)
    return 2 * size**3 / min(_timed(lambda: square @ square, device) for _ in range(5))


def _timed(call: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
