"""Threads that compute: who has OpenMP's helpers, and who goes before whom.

On a CPU each thread that computes gets helpers of its own from OpenMP. While all of a process together are more than the
processors, OpenMP puts a helper to sleep between any two products instead of letting it wait, and a step of the decoder
with two threads takes longer than with one (33 against 17 ms; the helpers' only owner: 14.5 ms). So one thread has helpers.
"""

from __future__ import annotations

import os
import sys
import threading

import torch

GENTLE_NICENESS = 10
"""Of a thread that yields to others: about a ninth of their share where processors are short."""


def use_threads(num_threads: int) -> None:
    """Torch threads of the calling thread; those that begin later get one, unless they ask for more. 0 leaves what is."""
    if num_threads:
        torch.set_num_threads(num_threads)
        torch.get_num_threads()  # At its first look a thread takes what was set last, by whatever thread: this is it.
    if num_threads > 1:
        other = threading.Thread(target=torch.set_num_threads, args=(1,))
        other.start()
        other.join()


def yield_to_others() -> None:
    """A lower priority for the calling thread alone, and no helpers (Linux, where a thread has a priority of its own)."""
    use_threads(1)
    if sys.platform == "linux":
        thread = threading.get_native_id()
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(19, now + GENTLE_NICENESS))
