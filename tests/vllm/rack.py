"""A real vLLM server on one port, which may be killed and started again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from online_learning.bench.serve_vllm import RunningVllm, kill, running_vllm


class Rack:
    """One server of one model."""

    def __init__(self, python: Path, model: Path, log: Path) -> None:
        self._python, self._model, self._log = python, model, log
        self._stack = ExitStack()
        self.running: RunningVllm | None = None

    @property
    def url(self) -> str:
        assert self.running is not None
        return self.running.url

    def start(self, port: int = 0) -> None:
        server = running_vllm(self._python, self._model, self._log, port=port)
        self.running = self._stack.enter_context(server)

    def kill(self) -> int:
        """SIGKILL; returns the port."""
        assert self.running is not None
        kill(self.running.process)
        return int(self.url.rpartition(":")[2])

    def close(self) -> None:
        self._stack.close()
