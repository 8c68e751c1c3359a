"""From the learner's weights to a version on disk, and back."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from bot.conversation import BASE_VERSION, Generated, LegalAct
from bot.domain import Domain
from bot.policy.adapted import BASE
from bot.policy.adapters import AdapterStore
from bot.policy.cases import save_cases
from bot.policy.causal import CausalPart
from bot.policy.manifest import CanaryProbe, Manifest, TextProbe
from bot.policy.model import ActRow, PolicyModel
from bot.policy.weights import read_version, write_part
from online_learning.update import CURRENT, Learner

log = logging.getLogger(__name__)

NUM_PROBES = 3
PROBE_ACTS = 4
PROBE_TOKENS = 8
"""Words of the text probe: a server repeats them between two tokens of running streams."""


def publish(
    adapters: AdapterStore,
    learner: Learner,
    domain: Domain,
    *,
    temperature: float,
    parent: str,
    rules_hash: str,
    lineage: Mapping[str, Any],
    gate: Mapping[str, Any],
) -> str:
    """Write and seal the current weights as the next version. It does not serve yet. Returns its name."""
    staged = adapters.stage()
    _write_parts(staged, learner)
    base_models = {"encoder": learner.model.encoder.name}
    if learner.writer is not None:
        base_models["causal"] = learner.writer.name
    manifest = Manifest(
        version=adapters.next_version(),
        parent=parent,
        created_at=time.time(),
        base_models=base_models,
        rules_hash=rules_hash,
        lineage=lineage,
        gate=gate,
        probes=canary_probes(learner.model, domain, temperature),
        text_probes=text_probes(learner.writer, domain) if learner.writer is not None else (),
    )
    return adapters.publish(staged, manifest)


def _write_parts(staged: Path, learner: Learner) -> None:
    names = {"encoder": learner.model.encoder.name}
    if learner.writer is not None:
        names["causal"] = learner.writer.name
    for part, adapted in learner.adapted.items():
        write_part(staged / part, adapted.weights(CURRENT), adapted.config(CURRENT), names[part].partition(":")[0])
    value = {key: tensor.contiguous().cpu() for key, tensor in learner.value.state_dict().items()}
    save_file(value, staged / "value.safetensors")
    if CURRENT in learner.model.cases:
        save_cases(staged / "cases.safetensors", learner.model.cases[CURRENT])


@torch.no_grad()
def canary_probes(model: PolicyModel, domain: Domain, temperature: float) -> tuple[CanaryProbe, ...]:
    """Choices between the domain's own articles (no user's words) with the log-probabilities of these weights."""
    articles = list(domain.articles.values())
    probes = []
    for i in range(min(NUM_PROBES, len(articles))):
        nearby = [articles[(i + j) % len(articles)] for j in range(min(PROBE_ACTS, len(articles)))]
        probes.append(_probe(model, nearby[0].questions[0], [article.texts for article in nearby], temperature))
    return tuple(probes)


def _probe(model: PolicyModel, query: str, acts: Sequence[tuple[str, ...]], temperature: float) -> CanaryProbe:
    legal = tuple(LegalAct(f"probe:{i}", texts) for i, texts in enumerate(acts))
    prompt = '[["user", "probe"]]' if model.causal is not None else ""
    row = ActRow(model.encoder.tokenize(query), legal, temperature, prompt)
    logprobs = {name: model.score([row], [name]).logprobs_B_A[0].tolist() for name in (CURRENT, BASE)}
    return CanaryProbe(query, tuple(acts), temperature, prompt, tuple(logprobs[CURRENT]), tuple(logprobs[BASE]))


@torch.no_grad()
def text_probes(writer: CausalPart, domain: Domain) -> tuple[TextProbe, ...]:
    """The beginning of the first article's answer to its first question, as these weights would say it."""
    article = next(iter(domain.articles.values()))
    # Without a system text, some chat templates put a long one of their own there.
    prompt_ids = writer.prompt_ids(json.dumps([("system", article.title), ("user", article.questions[0])]))
    token_ids = tuple(writer.tokenizer(article.answer, add_special_tokens=False)["input_ids"][:PROBE_TOKENS])
    reply = Generated(prompt_ids, token_ids, (), 1.0, (article.answer,), "", "length")
    current, base = (tuple(writer.token_logprobs([reply], [name])[0][0].tolist()) for name in (CURRENT, BASE))
    return (TextProbe(replace(reply, logprobs=current), base),)


class Weights:
    """Puts published versions into the learner; the base version is the weights it was born with."""

    def __init__(self, adapters: AdapterStore, learner: Learner) -> None:
        self._adapters = adapters
        self._learner = learner
        self._born: dict[str, dict[str, Tensor]] = {}
        self.keep_born()

    def keep_born(self) -> None:
        """Remember the untrained weights of parts that are new."""
        for name, part in self._learner.adapted.items():
            self._born.setdefault(name, part.weights(CURRENT))

    def load(self, version: str) -> None:
        """Make `version` the current weights and forget the optimizers' momentum. Raises AdapterError, NotFound.

        A version made under other settings (`learn.layers`, `learn.peft`, a rank) goes on with what it was made with,
        unless the present settings include it.
        """
        learner, found = self._learner, dict[str, tuple[dict[str, Tensor], LoraConfig]]()
        value = {key: torch.zeros_like(tensor) for key, tensor in learner.value.state_dict().items()}
        learner.remember(None)
        if version != BASE_VERSION:
            files = read_version(self._adapters, version)
            value = files.value or value
            learner.remember(files.cases)
            found["encoder"] = files.encoder, files.encoder_config
            if files.causal is not None and files.causal_config is not None:
                found["causal"] = files.causal, files.causal_config
        for name, part in learner.adapted.items():
            tensors, config = found.get(name, ({}, None))
            same_kind = config is None or _kind(config) == _kind(part.config(CURRENT))
            if config is not None and not (same_kind and _fits(tensors, self._born[name])):
                log.warning("%s: learning what this version has learned, which is not what the settings say", version)
                part.delete(CURRENT)
                part.create(CURRENT, config, trainable=True)
                self._born[name] = part.weights(CURRENT)
            part.set_weights(CURRENT, self._born[name] | tensors)
        learner.value.load_state_dict(value)
        learner.reset_optimizers()


def _kind(config: LoraConfig) -> tuple[Any, ...]:
    """What makes the same tensors another function: where the adapter begins, how it is scaled, what it is applied to."""
    return config.alora_invocation_tokens, config.use_rslora, config.use_dora


def _fits(tensors: Mapping[str, Tensor], born: Mapping[str, Tensor]) -> bool:
    """Whether an adapter can hold the weights, with others beside them that have learned nothing yet."""
    return all(name in born and born[name].shape == tensor.shape for name, tensor in tensors.items())
