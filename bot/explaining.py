"""Why a choice fell as it did: the stored choice scored again without its case and without learned weights. No web."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bot.conversation import BASE_VERSION, Decision, LegalAct
from bot.feedback.desk_records import CaseUse
from bot.feedback.store import Store
from bot.policy.types import ActRequest, Policy


@dataclass(frozen=True, slots=True)
class ActShare:
    """How probable one act was, part by part of what made the choice."""

    act: str
    retriever: float
    """To a fresh install: what retrieval and the domain's priors say."""
    with_case: float
    """After the case that spoke, if one did."""
    served: float
    """After the weights that were learned: the propensity."""


@dataclass(frozen=True, slots=True)
class Why:
    """What moved a choice away from the fresh install."""

    acts: tuple[ActShare, ...]
    case: CaseUse | None
    moved_by: str
    """What made the served act the most probable one: `retriever`, `case`, `weights`, or `chance` where it is not."""


async def explain(store: Store, policy: Policy, decision_id: str) -> Why:
    """What moved a choice away from what a fresh install would have done. Raises NotFound."""
    decision = await asyncio.to_thread(store.decision, decision_id)
    plain = await asyncio.to_thread(without_case, store, decision)
    case = await asyncio.to_thread(_case_of, store, decision)
    async with policy.lease(BASE_VERSION) as lease:
        bare = await lease.choose(ActRequest(decision.query, decision.prompt, plain, 0))
        told = (
            bare if case is None else await lease.choose(ActRequest(decision.query, decision.prompt, decision.legal, 0))
        )
    retriever = {act.act: logprob for act, logprob in zip(plain, bare.logprobs, strict=True)}
    shares = tuple(
        ActShare(act.act, math.exp(retriever.get(act.act, -math.inf)), math.exp(with_case), math.exp(served))
        for act, with_case, served in zip(decision.legal, told.logprobs, decision.logprobs, strict=True)
    )
    with_case_act = decision.legal[told.mode].act if case else ""
    return Why(shares, case, _moved_by(decision, plain[bare.mode].act, with_case_act))


def without_case(store: Store, decision: Decision) -> tuple[LegalAct, ...]:
    """The legal acts as they would have been, had no case spoken."""
    use = _case_of(store, decision)
    return decision.legal if use is None else tuple(_unmoved(decision.legal, use))


def _case_of(store: Store, decision: Decision) -> CaseUse | None:
    uses = store.desk.case_uses(decision.conversation_id)
    return next((use for use in uses if use.decision_id == decision.id), None)


def _unmoved(legal: Sequence[LegalAct], use: CaseUse) -> Iterator[LegalAct]:
    for act in legal:
        if act.act != use.act:
            yield act
        elif abs(rest := act.prior_logit - use.prior_logit) > 1e-9 or not use.act.startswith("answer:case_"):
            yield replace(act, prior_logit=rest)


def _moved_by(decision: Decision, retriever: str, with_case: str) -> str:
    """Which part brought the served act to the top first."""
    if decision.legal[decision.mode].act != decision.act:
        return "chance"
    if retriever == decision.act:
        return "retriever"
    return "case" if with_case == decision.act else "weights"
