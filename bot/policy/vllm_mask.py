"""Runs inside the vLLM server: next tokens are kept to those that the sources allow, by the very mask we write under.

    PYTHONPATH=CHECKOUT vllm serve ... --logits-processors bot.policy.vllm_mask:GroundedWords

Then the log-probabilities that the server reports (`--logprobs-mode processed_logprobs`) are those that the learner
recomputes. Requests without our arguments are left alone. Of ours only `bot.policy.vocabulary` and what that needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from bot.policy.vocabulary import KNOWN_ARG, WRITTEN_ARG, AllowedNext, Vocabulary

Masking = Callable[[list[int], list[int], Tensor], Tensor]
"""(prompt ids, output ids, logits [V]) -> logits [V]; vLLM tells by the three arguments that it wants the prompt too."""


class GroundedWords(AdapterLogitsProcessor):
    """vLLM's per-request interface (docs.vllm.ai, "Custom Logits Processors"): a mask for each request that asks for it."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self._vocabulary = Vocabulary(vllm_config.model_config.tokenizer)

    def is_argmax_invariant(self) -> bool:
        """A mask changes which token is best."""
        return False

    def new_req_logits_processor(self, params: Any) -> Masking | None:
        """The mask of one request; None when it does not ask for one."""
        arguments = params.extra_args or {}
        if WRITTEN_ARG not in arguments:
            return None
        num_written = int(arguments[WRITTEN_ARG])
        allowed = AllowedNext(self._vocabulary, frozenset(arguments.get(KNOWN_ARG) or ()))

        def mask(prompt_ids: list[int], output_ids: list[int], logits_V: Tensor) -> Tensor:
            written = [*(prompt_ids[-num_written:] if num_written else ()), *output_ids]
            allowed_V = torch.from_numpy(allowed.after(written)).to(logits_V.device)
            return logits_V.masked_fill_(~allowed_V, -torch.inf)

        return mask
