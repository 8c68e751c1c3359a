"""Groups requests that arrive while a worker thread is busy, and runs each group as one batch. No tensors.

One request alone runs at once; under load batches grow by themselves up to `max_batch`. A request that is cancelled
before its batch starts is dropped from it. An error in a batch goes to each of its requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class MicroBatcher(Generic[In, Out]):
    """Runs `work(items) -> results` on `executor`; results stand in the order of items."""

    def __init__(
        self, executor: Executor, work: Callable[[Sequence[In]], Sequence[Out]], *, max_batch: int = 32
    ) -> None:
        self._executor = executor
        self._work = work
        self._max_batch = max_batch
        self._waiting: deque[tuple[In, asyncio.Future[Out]]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self.num_batches = 0
        self.num_items = 0

    async def submit(self, item: In) -> Out:
        """Wait for this item's result. Raises whatever `work` raised for its batch."""
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        while batch := self._take():
            items = [item for item, _ in batch]
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._executor, self._work, items)
            except Exception as error:  # noqa: BLE001 - the worker's boundary: each request gets the error as its own
                for _, future in batch:
                    _settle(future, error=error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                _settle(future, result=result)

    def _take(self) -> list[tuple[In, asyncio.Future[Out]]]:
        batch: list[tuple[In, asyncio.Future[Out]]] = []
        while self._waiting and len(batch) < self._max_batch:
            item, future = self._waiting.popleft()
            if not future.cancelled():
                batch.append((item, future))
        self.num_batches += bool(batch)
        self.num_items += len(batch)
        return batch


def _settle(future: asyncio.Future[Out], *, result: Out | None = None, error: Exception | None = None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]
