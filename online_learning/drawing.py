"""The rows of one update: what was rated since, what of it may teach, and what it earned.

    window -> admit (consent, quorum, caps) -> fresh ones and a share of the older -> credit -> re-score -> Batch

A row whose log-probabilities do not come out again under the version that made it (invariant 1) neither teaches nor judges.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bot.conversation import Decision, Generated
from bot.domain import Domain
from bot.feedback.rules import Rules
from bot.feedback.settle import rules_in_force
from bot.feedback.store import Rated, Store
from bot.policy.adapters import AdapterStore
from bot.policy.cases import Cases, make_cases
from bot.settings import Settings
from online_learning.advantages import Credit, credit
from online_learning.batch import admit
from online_learning.demonstrations import Caps, all_spelled, demonstrated
from online_learning.evidence import rescore
from online_learning.update import Learner
from online_learning.words import Heard, heard_apart

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one update."""

    until: int
    """Reward seq this update consumes up to."""
    since: float
    """Epoch s of the oldest reply in the window; 0 while the window holds all there are."""
    credits: list[Credit]
    refused: Mapping[str, int]
    """Reason -> rows that may not teach."""
    num_fresh: int
    rescore_error: float
    """Of the fresh rows that were accepted, in nats."""
    cases: Cases | None
    """What the next version remembers; None where cases are off."""

    words: Mapping[str, Generated]
    """Case id -> an operator's own words."""
    words_refused: Mapping[str, int]

    @property
    def lineage(self) -> dict[str, Any]:
        """What the update learned from."""
        ids = [row.decision.id for row in self.credits]
        return {"decision_ids": ids, "num_decisions": len(ids), "case_ids": list(self.words), "cursor": self.until}

    def staleness(self, version: str) -> float:
        """How many versions before `version` the rows were made, in the mean."""
        return float(np.mean([int(version[1:]) - int(row.decision.version[1:]) for row in self.credits]))


class Drawing:
    """Draws batches for one home's learner."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        adapters: AdapterStore,
        domain: Domain,
        rules: Rules,
        learner: Learner,
        *,
        need_writer: Callable[[], None],
    ) -> None:
        """`need_writer`: sees to it that the learner has a causal part; called where there is text to learn from."""
        self._settings = settings
        self._store = store
        self._adapters = adapters
        self._domain = domain
        self._rules = rules
        self._learner = learner
        self._config = learner.config
        self._need_writer = need_writer
        self.refused: set[str] = set()
        """Ids of decisions that do not re-score."""
        self._verified: set[str] = set()

    def draw(self, until: int, cursor: int, version: str, rng: np.random.Generator) -> Batch:
        """The window's rows that may teach: all fresh ones, past `cursor`, and a random share of the older. `version`: whose
        weights the learner holds."""
        learn = self._settings.learn
        heard = self.heard(until, learn.window)
        admitted = admit(heard.rows, quorum=learn.quorum, cap_per_person_topic=learn.cap_per_person_topic)
        is_full = len(heard.rows) == learn.window
        since = min(row.decision.created_at for row in heard.rows) if is_full else 0.0
        fresh = [row for row in admitted.rows if row.reward.seq > cursor]
        old = [row for row in admitted.rows if row.reward.seq <= cursor]
        room = max(0, self._config.rows_per_update - len(fresh))
        chosen = [*(old[i] for i in sorted(rng.permutation(len(old))[:room])), *fresh]
        topics = {row.decision.act for row in admitted.rows}
        earned = [heard.tell(row) for row in self._credits(chosen, topics)]
        errors = self._check([row.decision for row in earned], version)
        accepted = [row for row in earned if row.decision.id not in self.refused]
        worst = max((errors.get(row.decision.id, 0.0) for row in accepted), default=0.0)
        refused = dict(admitted.refused) | {"rescore": len(self.refused)}
        words, words_refused = self._own_words(topics)
        cases = self._cases(admitted.rows)
        return Batch(until, since, accepted, refused, len(fresh), worst, cases, words, words_refused)

    def _own_words(self, topics: AbstractSet[str]) -> tuple[dict[str, Generated], dict[str, int]]:
        """What operators wrote themselves, by case, and what was left out; nothing where no rated reply was generated, since
        then nobody has use for it. `topics`: see `_credits`."""
        learn, policy = self._settings.learn, self._settings.policy
        if not self._config.words_weight:
            return {}, {}
        caps = Caps(
            topics=None if learn.quorum == 1 else topics,
            per_author_topic=learn.cap_per_person_topic,
            per_conversation=self._config.words_per_conversation,
            rows=self._config.words_rows_per_update,
        )
        found = demonstrated(self._store, self._domain, caps)
        if any(row.was_generated for row in found.rows):
            self._need_writer()
        if self._learner.writer is None:
            return {}, {}
        words = self._learner.writer.vocabulary
        return all_spelled(found, words, temperature=policy.text_temperature, max_tokens=policy.max_reply_tokens)

    def heard(self, until: int, limit: int, *, holdout: bool = False) -> Heard:
        """The window's rated rows, and what their raters meant."""
        return heard_apart(self._store.window(until, limit, holdout=holdout), rules_in_force(self._store, self._rules))

    def _cases(self, rows: Sequence[Rated]) -> Cases | None:
        """The rows that may teach, as evidence: consent, caps and quorum hold for cases as for weights."""
        kept = [row for row in rows if row.decision.id not in self.refused]
        if not kept or not self._settings.learn.case_weight:
            return None
        return make_cases(
            self._settings.learn.case_weight,
            self._learner.model.encoder.pool([row.decision.query_ids for row in kept]),
            [row.decision.act for row in kept],
            [self._config.reward_scale * (row.reward.value or 0.0) for row in kept],
            [row.decision.id for row in kept],
        )

    def _check(self, decisions: Sequence[Decision], version: str) -> dict[str, float]:
        """Re-score what was not yet: a row that does not (invariant 1) neither teaches nor judges. Errors in nats."""
        unseen = [row for row in decisions if row.id not in self._verified and row.id not in self.refused]
        if any(row.generated for row in unseen):
            self._need_writer()
        errors = rescore(self._learner, self._adapters, unseen, version, self._config.text_slack)
        off = {decision_id for decision_id, error in errors.items() if not error <= self._config.rescore_tolerance}
        if off:
            log.warning("%d of %d rows do not re-score: they neither teach nor judge", len(off), len(unseen))
        self.refused |= off
        self._verified |= errors.keys() - off
        return errors

    def rescoring(self, decisions: Sequence[Decision], version: str) -> list[Decision]:
        """Those that may judge."""
        self._check(decisions, version)
        return [row for row in decisions if row.id not in self.refused]

    def _credits(self, rows: Sequence[Rated], topics: AbstractSet[str]) -> list[Credit]:
        """Turn-level credit over the rows' whole conversations; `topics` are the acts that have their quorum.

        An outcome travels back to turns that nobody rated; it must not carry a topic around its quorum.
        """
        conversations = dict.fromkeys(row.decision.conversation_id for row in rows)
        decisions = self._store.decisions_of(conversations)
        scale, baseline = self._config.reward_scale, self._config.baseline
        rewards = [replace(row.reward, value=scale * (row.reward.value or 0.0)) for row in rows]
        if baseline is None:
            values = self._learner.values(decisions)
        else:
            values = dict.fromkeys((decision.id for decision in decisions), baseline)
        config = self._config
        found = credit(decisions, rewards, values, gamma=config.gamma, lam=config.gae_lambda)
        return [
            row
            for row in found
            if row.decision.train_ok and (self._settings.learn.quorum == 1 or row.decision.act in topics)
        ]
