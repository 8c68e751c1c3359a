"""docs/metrics.md explains every number that the learner, the gate and the server give."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from bot.metrics import Metrics
from online_learning.algorithms import ALGORITHMS, LossInputs
from online_learning.algorithms.own_words import own_words
from online_learning.config import LOSS_CONFIGS, LikelihoodConfig, PPOConfig
from tests.loss_inputs import random_loss_inputs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/metrics.md").read_text()
DOCUMENTED = {name for row in re.findall(r"(?m)^\| (`[^|]+) \|", PAGE) for name in re.findall(r"`(\w+)`", row)}


def loss_metrics() -> set[str]:
    """What the loss reports, with generated text in the batch: one row, two acts, one token."""
    one, acts = torch.zeros(1), torch.tensor([[0.5, 0.5]]).log()
    token, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    batch = LossInputs(
        act_logprobs_B_A=acts.clone().requires_grad_(),
        legal_mask_B_A=torch.ones(1, 2, dtype=torch.bool),
        chosen_B=torch.tensor([0]),
        mu_logprob_B=acts[:, 0],
        prox_logprobs_B_A=acts,
        champion_logprobs_B_A=acts,
        start_logprobs_B_A=acts,
        advantages_B=one,
        returns_B=one,
        values_B=one.clone().requires_grad_(),
        weights_B=one + 1,
        token_logprobs_B_T=token.clone().requires_grad_(),
        token_mask_B_T=mask,
        token_mu_B_T=token,
        token_prox_B_T=token,
        token_champion_B_T=token,
    )
    tokens = {name: None for name in LossInputs.__dataclass_fields__ if name.startswith("token_")}
    acts_only = ALGORITHMS["likelihood"](replace(batch, **tokens), LikelihoodConfig())
    return {
        *ALGORITHMS["ppo"](batch, PPOConfig()).metrics,
        *acts_only.metrics,
        *own_words(token, token, mask, 0.1).metrics,
    }


def keys_added_to(source: str, *variables: str) -> Iterator[str]:
    """Constant keys that a module puts into dicts of these names: `x["k"] = ...`, `x |= {"k": ...}`, `... | {"k": ...}`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key)))]):
                yield from [key] if name in variables else []
            case ast.AugAssign(target=ast.Name(id=name), op=ast.BitOr(), value=ast.Dict(keys=keys)):
                yield from (k.value for k in keys if name in variables and isinstance(k, ast.Constant))
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.BinOp(op=ast.BitOr(), right=ast.Dict(keys=keys))):
                yield from (k.value for k in keys if name in variables and isinstance(k, ast.Constant))


def keys_of(source: str, *functions: str) -> set[str]:
    """Constant keys of the dict literals inside these functions."""
    bodies = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name in functions]
    dicts = [node for body in bodies for node in ast.walk(body) if isinstance(node, ast.Dict)]
    return {key.value for found in dicts for key in found.keys if isinstance(key, ast.Constant)}


def learner_metrics() -> set[str]:
    """Names from the loss, from an update and from the loop around it."""
    sources = [(ROOT / f"online_learning/{name}.py").read_text() for name in ("update", "loop")]
    heard = keys_of((ROOT / "online_learning/hearing.py").read_text(), "as_heard")
    return loss_metrics() | heard | {key for source in sources for key in keys_added_to(source, "metrics", "means")}


def test_every_learner_metric_is_explained() -> None:
    """A new name in the loss, the update or the loop needs a line."""
    assert learner_metrics() - DOCUMENTED == set()


def test_what_each_algorithm_adds_is_explained() -> None:
    """By the loss of every rung of the ladder, and TRPO's own step; nothing is explained that none of them says."""
    _, batch = random_loss_inputs()
    acts_only = replace(batch, **{name: None for name in LossInputs.__dataclass_fields__ if name.startswith("token_")})
    found = {
        key for name, algorithm in ALGORITHMS.items() for key in algorithm(acts_only, LOSS_CONFIGS[name]()).metrics
    }
    found |= keys_of((ROOT / "online_learning/algorithms/trpo.py").read_text(), "trpo_step", "line_search")
    table = PAGE.split("## What single algorithms add")[1].split("\n## ")[0]

    assert {"conservative", "trust_kl"} <= found
    assert found - DOCUMENTED == set()
    explained = {name for row in re.findall(r"(?m)^\| (`[^|]+) \|", table) for name in re.findall(r"`(\w+)`", row)}
    assert explained <= found


def test_no_learner_metric_is_explained_that_no_longer_exists() -> None:
    """The first table and the code name the same things."""
    table = PAGE.split("## The learner, once an update")[1].split("\n## ")[0]

    assert set(re.findall(r"(?m)^\| `(\w+)` \|", table)) == learner_metrics()


def test_the_names_are_really_found() -> None:
    """The control: one name from each place where names are given."""
    assert {"clip_fraction", "text_kl_champion", "grad_norm", "epochs", "rows", "gate", "seconds"} <= learner_metrics()


def test_every_line_of_the_gates_report_is_explained() -> None:
    """The report stands in each manifest, for people to read."""
    source = (ROOT / "online_learning/gate.py").read_text()
    found = keys_of(source, "_report", "_comparison_report")

    assert {"kl_start", "points", "conversations"} <= found
    assert found - DOCUMENTED == set()


def test_every_prometheus_metric_is_explained() -> None:
    """And none is explained that no longer exists."""
    served = {family.name for family in Metrics().registry.collect()}

    assert served == {name for name in DOCUMENTED if name.startswith("rejoinder_")}
