"""The learner's process: settled rewards in, versions out. Serving never waits for it, and it may die at any point.

    settle -> enough fresh rewards? -> window -> admit -> re-score -> credit -> PPO -> gate -> publish -> commit -> pointer

Exactly once: the row that commits an update holds the reward cursor, the checkpoint's name and the version, and is
written after both folders are durable. The pointer moves last; a crash in between is finished at the next start.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bot.conversation import BASE_VERSION, Decision, Generated
from bot.domain import Domain
from bot.errors import AdapterError, ConflictError, StoreError
from bot.feedback.rules import Rules
from bot.feedback.settle import only_settler, rules_in_force, settle
from bot.feedback.store import Rated, Store, UpdateRow
from bot.policy.adapters import LEARNER, AdapterStore
from bot.policy.cases import Cases, make_cases
from bot.policy.causal import CausalPart
from bot.settings import Settings
from online_learning.advantages import Credit, credit
from online_learning.batch import admit
from online_learning.checkpoint import LearnerState, load_checkpoint, save_checkpoint
from online_learning.demonstrations import Caps, all_spelled, demonstrated
from online_learning.evidence import collect_evidence, hear_verdicts, rescore
from online_learning.gate import Thresholds, Verdict, judge
from online_learning.metrics import MetricsLog, finite
from online_learning.offline import ConversationTests
from online_learning.publish import Weights, publish
from online_learning.update import CURRENT, Learner
from online_learning.words import Heard, heard_apart

log = logging.getLogger(__name__)

RECENT_STATES = 128
"""Rows on which the distance of a candidate is measured."""


Watch = Callable[[Verdict], None]
"""Told of each verdict while the candidate is still in the learner. Nothing comes back from whoever watches."""


def nobody(_: Verdict) -> None:
    """Watches nothing."""


Augment = Callable[[Sequence[Credit]], list[Credit]]
"""The rows that teach, and more of them in other wordings."""


class Stopped(Exception):
    """Asked to stop in the middle of an update; nothing of it is kept."""


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


class Loop:
    """One home's learner."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        adapters: AdapterStore,
        domain: Domain,
        rules: Rules,
        learner: Learner,
        tests: ConversationTests,
        *,
        load_writer: Callable[[], CausalPart],
        thresholds: Thresholds | None = None,
        watch: Watch = nobody,
        augment: Augment = list,
    ) -> None:
        self.settings = settings
        self.store = store
        self.adapters = adapters
        self.domain = domain
        self.rules = rules
        self.learner = learner
        self.tests = tests
        self.thresholds = thresholds or Thresholds()
        self.config = learner.config
        self._load_writer = load_writer
        self._watch = watch
        self._augment = augment
        self.weights = Weights(adapters, learner)
        self.metrics_log = MetricsLog(settings.learner / "tensorboard")
        self.stop = threading.Event()
        self._version = BASE_VERSION
        self._refused: set[str] = set()
        self._verified: set[str] = set()
        self._ticket = 0

    # --- life -----------------------------------------------------------------------------------------------------
    def resume(self) -> None:
        """Continue where the last committed update left off, and finish what a crash interrupted."""
        last = self.store.last_update()
        published = [row for row in self.store.updates() if row.outcome == "published"]
        newest = max((row.version for row in published), default=BASE_VERSION)
        self.adapters.discard_unreferenced(keep=newest)
        if last is not None and last.outcome == "published":
            self._finish_pointer(last)
        self._follow_champion()
        state = load_checkpoint(self.settings.learner, last.checkpoint if last else "", self.learner, self._version)
        self._refused = set(state.refused) if state else set()

    def _finish_pointer(self, last: UpdateRow) -> None:
        """Move the pointer as the last update would have, unless somebody moved it or froze learning since."""
        canary = self.adapters.canary()
        said = {entry["event"] for entry in self.adapters.history() if entry["version"] == last.version}
        if "withdrawn" in said or (canary is not None and canary.version == last.version):
            return
        moves = [e for e in self.adapters.history() if e["event"] == "champion" and e["at"] >= last.at]
        # The history is written before the pointer: an entry alone does not say that the version serves.
        is_ours = all(entry["version"] == last.version for entry in moves)
        if is_ours and not self.adapters.frozen and self.adapters.champion().version != last.version:
            self._point_to(last.version, "passed the gate (finished after a restart)")

    def run(self) -> None:
        """Until `stop` is set."""
        failed = False
        while not self.stop.is_set():
            try:
                if failed:  # Weights may be ahead of what was committed: back to what the store and the folder say.
                    self._version = ""
                    self.resume()
                worked, failed = self.step(), False
            except Stopped:
                return
            except ConflictError:
                worked = True
            except (StoreError, OSError) as error:
                log.warning("%s; trying again", error)
                worked, failed = False, True
            if not worked:
                self.stop.wait(self.settings.learn.poll_s)

    def step(self) -> bool:
        """Settle, and update if there is enough to learn from. Returns whether an update was made."""
        ticket = self._next_ticket() if self.settings.learn.lockstep else None
        if ticket is not None and ticket == self._ticket:
            return False
        # While people judge a candidate, rewards gather: what is learned next is learned from what they keep.
        canary = self.adapters.canary()
        if canary is None or canary.version != self._version:
            self._follow_champion()
        self._settle()
        fresh = self.store.last_reward_seq() - self._cursor()
        is_due = fresh >= self.settings.learn.update_every and not self.adapters.frozen and canary is None
        if is_due:
            self.update(self.store.last_reward_seq())
        self._ticket = ticket or 0
        self._say("frozen" if self.adapters.frozen else "waiting", fresh=0 if is_due else fresh)
        return is_due

    def _settle(self) -> None:
        """Rewards of what was said since; somebody who applies new rules may be computing them just now."""
        with only_settler(self.store) as is_ours:
            if is_ours:
                settle(self.store, self.rules, time.time(), self.settings.learn.settle_s)

    def _next_ticket(self) -> int:
        """In lockstep, work only when the simulator says so: a seed reproduces the run."""
        return int((self.store.status("lockstep") or {}).get("ticket", 0))

    def _cursor(self) -> int:
        last = self.store.last_update()
        return last.cursor if last else 0

    def _follow_champion(self) -> None:
        """Learn from what serves: after a rollback, from the version rolled back to."""
        champion = self.adapters.champion().version
        if champion == self._version:
            return
        if champion != BASE_VERSION and (self.adapters.folder(champion) / "causal").is_dir():
            self._attach_writer()
        try:
            self.weights.load(champion)
        except AdapterError as error:  # The server refuses it too: both begin anew, from the fresh install.
            log.warning("cannot go on from the champion: %s", error)
            self.weights.load(BASE_VERSION)
        self._version = champion

    # --- one update -------------------------------------------------------------------------------------------------
    def update(self, until: int) -> Verdict | None:
        """Draw rows, train, judge, publish or restore, commit. None when there was nothing to learn from."""
        started = time.perf_counter()
        last = self.store.last_update()
        number = (last.seq if last else 0) + 1
        rng = np.random.default_rng([self.settings.seed or 0, number])
        batch = self._draw(until, rng)
        if not batch.credits or not batch.num_fresh:
            self._commit(batch, number, "skipped", self._version, {"refused": dict(batch.refused)})
            return None
        self.tests.refresh()
        before, tests_before = self.learner.snapshot(), self.tests.results(CURRENT)
        rows = self._heard(until, self.config.holdout_rows, holdout=True).judged
        sound = {row.id for row in self._rescoring([row.decision for row in rows])}
        rows = [row for row in rows if row.decision.id in sound]
        recent = [row.decision for row in batch.credits[-RECENT_STATES:]]
        champion = {"held_out": self.learner.score([row.decision for row in rows], CURRENT)}
        champion["recent"] = self.learner.score(recent, CURRENT, leave_out_own=True)
        verdicts = hear_verdicts(self.learner, self.store, batch.since, self._rescoring)
        try:
            earned = self._augment(batch.credits)
            metrics: dict[str, Any] = finite(
                self.learner.update(earned, rng, self._progress, self._version, list(batch.words.values()))
            )
            self.learner.remember(batch.cases)
            self._progress("gate", 0, 1)
            tests = (self.tests.results(CURRENT), tests_before)
            evidence = collect_evidence(
                self.learner, rows, recent, champion, tests, self.tests.must_pass, batch.rescore_error, verdicts
            )
        except BaseException:
            # Half-trained weights must never pass for the champion's: rows would seem not to re-score.
            self.learner.restore(before)
            raise
        verdict = judge(evidence, self.thresholds)
        metrics |= {"rows": len(batch.credits), "twins": len(earned) - len(batch.credits)}
        metrics |= {"words_rows": len(batch.words), "words_refused": dict(batch.words_refused)}
        metrics |= {
            "fresh": batch.num_fresh,
            "refused": dict(batch.refused),
            "staleness": batch.staleness(self._version),
        }
        metrics |= {"gate": {"passed": verdict.passed, "reasons": list(verdict.reasons), **verdict.report}}
        metrics["seconds"] = time.perf_counter() - started
        self._watch(verdict)
        self._finish(batch, number, verdict, metrics, before)
        return verdict

    def _draw(self, until: int, rng: np.random.Generator) -> Batch:
        """The window's rows that may teach: all fresh ones and a random share of the older."""
        learn = self.settings.learn
        heard = self._heard(until, learn.window)
        admitted = admit(heard.rows, quorum=learn.quorum, cap_per_person_topic=learn.cap_per_person_topic)
        is_full, cursor = len(heard.rows) == learn.window, self._cursor()
        since = min(row.decision.created_at for row in heard.rows) if is_full else 0.0
        fresh = [row for row in admitted.rows if row.reward.seq > cursor]
        old = [row for row in admitted.rows if row.reward.seq <= cursor]
        room = max(0, self.config.rows_per_update - len(fresh))
        chosen = [*(old[i] for i in sorted(rng.permutation(len(old))[:room])), *fresh]
        topics = {row.decision.act for row in admitted.rows}
        earned = [heard.tell(row) for row in self._credits(chosen, topics)]
        errors = self._check([row.decision for row in earned])
        accepted = [row for row in earned if row.decision.id not in self._refused]
        worst = max((errors.get(row.decision.id, 0.0) for row in accepted), default=0.0)
        refused = dict(admitted.refused) | {"rescore": len(self._refused)}
        words, words_refused = self._own_words(topics)
        cases = self._cases(admitted.rows)
        return Batch(until, since, accepted, refused, len(fresh), worst, cases, words, words_refused)

    def _own_words(self, topics: AbstractSet[str]) -> tuple[dict[str, Generated], dict[str, int]]:
        """What operators wrote themselves, by case, and what was left out; nothing where no rated reply was generated, since
        then nobody has use for it. `topics`: see `_credits`."""
        learn, policy = self.settings.learn, self.settings.policy
        if not self.config.words_weight:
            return {}, {}
        caps = Caps(
            topics=None if learn.quorum == 1 else topics,
            per_author_topic=learn.cap_per_person_topic,
            per_conversation=self.config.words_per_conversation,
            rows=self.config.words_rows_per_update,
        )
        found = demonstrated(self.store, self.domain, caps)
        if any(row.was_generated for row in found.rows):
            self._attach_writer()
        if self.learner.writer is None:
            return {}, {}
        words = self.learner.writer.vocabulary
        return all_spelled(found, words, temperature=policy.text_temperature, max_tokens=policy.max_reply_tokens)

    def _heard(self, until: int, limit: int, *, holdout: bool = False) -> Heard:
        return heard_apart(self.store.window(until, limit, holdout=holdout), rules_in_force(self.store, self.rules))

    def _cases(self, rows: Sequence[Rated]) -> Cases | None:
        """The rows that may teach, as evidence: consent, caps and quorum hold for cases as for weights."""
        kept = [row for row in rows if row.decision.id not in self._refused]
        if not kept or not self.settings.learn.case_weight:
            return None
        return make_cases(
            self.settings.learn.case_weight,
            self.learner.model.encoder.pool([row.decision.query_ids for row in kept]),
            [row.decision.act for row in kept],
            [self.config.reward_scale * (row.reward.value or 0.0) for row in kept],
            [row.decision.id for row in kept],
        )

    def _check(self, decisions: Sequence[Decision]) -> dict[str, float]:
        """Re-score what was not yet: a row that does not (invariant 1) neither teaches nor judges. Errors in nats."""
        unseen = [row for row in decisions if row.id not in self._verified and row.id not in self._refused]
        if any(row.generated for row in unseen):
            self._attach_writer()
        errors = rescore(self.learner, self.adapters, unseen, self._version, self.config.text_slack)
        off = {decision_id for decision_id, error in errors.items() if not error <= self.config.rescore_tolerance}
        if off:
            log.warning("%d of %d rows do not re-score: they neither teach nor judge", len(off), len(unseen))
        self._refused |= off
        self._verified |= errors.keys() - off
        return errors

    def _rescoring(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Those that may judge."""
        self._check(decisions)
        return [row for row in decisions if row.id not in self._refused]

    def _credits(self, rows: Sequence[Rated], topics: AbstractSet[str]) -> list[Credit]:
        """Turn-level credit over the rows' whole conversations; `topics` are the acts that have their quorum.

        An outcome travels back to turns that nobody rated; it must not carry a topic around its quorum.
        """
        conversations = dict.fromkeys(row.decision.conversation_id for row in rows)
        decisions = self.store.decisions_of(conversations)
        scale, baseline = self.config.reward_scale, self.config.baseline
        rewards = [replace(row.reward, value=scale * (row.reward.value or 0.0)) for row in rows]
        if baseline is None:
            values = self.learner.values(decisions)
        else:
            values = dict.fromkeys((decision.id for decision in decisions), baseline)
        config = self.config
        found = credit(decisions, rewards, values, gamma=config.gamma, lam=config.gae_lambda)
        return [
            row
            for row in found
            if row.decision.train_ok and (self.settings.learn.quorum == 1 or row.decision.act in topics)
        ]

    def _finish(
        self, batch: Batch, number: int, verdict: Verdict, metrics: Mapping[str, Any], before: dict[str, Any]
    ) -> None:
        """Publish or restore, commit, and only then move the pointer."""
        if self._overtaken(self._version):
            self.learner.restore(before)
            log.info("update %d dropped: learning was frozen or another version chosen meanwhile", number)
            return
        if not verdict.passed:
            self.learner.restore(before)
            log.info("update %d refused: %s", number, "; ".join(verdict.reasons))
            self._commit(batch, number, "refused", self._version, metrics)
            return
        parent = self._version
        version = publish(
            self.adapters,
            self.learner,
            self.domain,
            temperature=self.settings.policy.temperature,
            parent=parent,
            rules_hash=rules_in_force(self.store, self.rules).rules_hash,
            lineage=batch.lineage,
            gate=verdict.report,
        )
        self._version = version
        self._commit(batch, number, "published", version, metrics)
        if not self._overtaken(parent):
            self._point_to(version, f"passed the gate of update {number}")
        self.adapters.prune(self._num_kept())
        log.info("published %s in %.1f s", version, metrics["seconds"])

    def _point_to(self, version: str, reason: str) -> None:
        """Everybody's version from now on, or first that of a share of conversations."""
        if share := self.settings.rollout.canary_share:
            self.adapters.set_canary(version, share, reason, LEARNER)
        else:
            self.adapters.set_champion(version, reason, LEARNER)

    def _num_kept(self) -> int:
        """Versions that keep their weights: no fewer than rows of the window or of the gate can come from."""
        learn = self.settings.learn
        gate_rows = self.config.holdout_rows / learn.holdout_share if learn.holdout_share else 0
        return max(learn.keep_versions, math.ceil(max(learn.window, gate_rows) / learn.update_every))

    def _overtaken(self, parent: str) -> bool:
        """Whether an operator froze learning or moved the pointer away from `parent`: their word stands."""
        return self.adapters.frozen or self.adapters.champion().version != parent

    def _commit(self, batch: Batch, number: int, outcome: str, version: str, metrics: Mapping[str, Any]) -> None:
        checkpoint = f"checkpoint-{number:06d}"
        state = LearnerState(version, tuple(sorted(self._refused)))
        save_checkpoint(self.settings.learner, checkpoint, self.learner, state, self.config.keep_checkpoints)
        drawn = (*batch.lineage["decision_ids"], *batch.words)
        row = UpdateRow(time.time(), batch.until, checkpoint, outcome, version, metrics, drawn)
        self.store.commit_update(row)
        self.metrics_log.write(number, metrics)

    # --- the causal part, loaded when there is text to learn from -----------------------------------------------------
    def _attach_writer(self) -> None:
        if self.learner.writer is None:
            self.learner.attach_writer(self._load_writer())
            self.weights.keep_born()

    # --- telling ----------------------------------------------------------------------------------------------------
    def _progress(self, what: str, done: int, total: int) -> None:
        if self.stop.is_set():
            raise Stopped
        self._say("updating", what=what, done=done, total=total)

    def _say(self, state: str, **more: Any) -> None:
        """Heartbeat for the studio page, readiness checks and the simulator."""
        record = {"state": state, "at": time.time(), "version": self._version, "ticket": self._ticket, **more}
        self.store.put_status("learner", record)
