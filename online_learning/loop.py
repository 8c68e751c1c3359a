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
from typing import Any

import numpy as np

from bot.conversation import BASE_VERSION, Decision
from bot.domain import Domain
from bot.errors import AdapterError, ConflictError, StoreError
from bot.feedback.rules import Rules
from bot.feedback.settle import only_settler, rules_in_force, settle
from bot.feedback.store import Store, UpdateRow
from bot.policy.adapters import LEARNER, AdapterStore
from bot.policy.causal import CausalPart
from bot.settings import Settings
from online_learning.advantages import Credit
from online_learning.checkpoint import LearnerState, load_checkpoint, save_checkpoint
from online_learning.drawing import Batch, Drawing
from online_learning.evidence import collect_evidence, hear_verdicts
from online_learning.gate import Thresholds, Verdict, judge
from online_learning.metrics import MetricsLog, finite
from online_learning.offline import ConversationTests
from online_learning.publish import Weights, publish
from online_learning.reach import Reach
from online_learning.update import CURRENT, Learner

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
        self.drawing = Drawing(settings, store, adapters, domain, rules, learner, need_writer=self._attach_writer)
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
        self.drawing.refused = set(state.refused) if state else set()

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
        batch = self.drawing.draw(until, self._cursor(), self._version, rng)
        if not batch.credits or not batch.num_fresh:
            self._commit(batch, number, "skipped", self._version, {"refused": dict(batch.refused)})
            return None
        self.tests.refresh()
        before, tests_before = self.learner.snapshot(), self.tests.results(CURRENT)
        rows = self.drawing.heard(until, self.config.holdout_rows, holdout=True).judged
        sound = {row.id for row in self._rescoring([row.decision for row in rows])}
        rows = [row for row in rows if row.decision.id in sound]
        recent = [row.decision for row in batch.credits[-RECENT_STATES:]]
        champion = {"held_out": self.learner.score([row.decision for row in rows], CURRENT)}
        champion["recent"] = self.learner.score(recent, CURRENT, leave_out_own=True)
        reach = Reach(recent, champion["recent"], *self.thresholds.distances(len(rows)))
        verdicts = hear_verdicts(self.learner, self.store, batch.since, self._rescoring)
        try:
            earned = self._augment(batch.credits)
            metrics: dict[str, Any] = finite(
                self.learner.update(earned, rng, self._progress, self._version, list(batch.words.values()), reach)
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
        state = LearnerState(version, tuple(sorted(self.drawing.refused)))
        save_checkpoint(self.settings.learner, checkpoint, self.learner, state, self.config.keep_checkpoints)
        drawn = (*batch.lineage["decision_ids"], *batch.words)
        row = UpdateRow(time.time(), batch.until, checkpoint, outcome, version, metrics, drawn)
        self.store.commit_update(row)
        self.metrics_log.write(number, metrics)

    def _rescoring(self, decisions: Sequence[Decision]) -> list[Decision]:
        return self.drawing.rescoring(decisions, self._version)

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
