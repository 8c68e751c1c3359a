"""A canary's road: who gets it, when people's word ends it, and that looking often raises no false alarm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bot.conversation import BASE_VERSION, SignalKind
from bot.errors import AdapterError, NotFound
from bot.feedback.store import Store, Tally
from bot.policy.adapters import AdapterStore, Canary
from bot.policy.scripted import ScriptedPolicy
from bot.rollout import BY, Rollout, decide, difference, half_width, is_chosen, thumbs
from bot.settings import RolloutSettings
from tests.builders import make_conversation, make_decision, make_message, make_signal
from tests.service_rig import Clock
from tests.session_rig import open_session
from tests.version_folder import SECRET, publish_bytes

KEY = b"k" * 32


def make_tally(**overrides: Any) -> Tally:
    """100 conversations, 80 of them rated, three thumbs of four up; half of 40 were solved."""
    fields: dict[str, Any] = {"version": "v000002", "conversations": 100, "replies": 300}
    fields |= {"rated": 80, "up": 60.0, "up_squares": 60.0, "outcomes": 40, "solved": 20.0}
    return Tally(**fields | overrides)


@dataclass(slots=True)
class Rig:
    """A home with a champion v000001 and a published v000002, a scripted policy, and a rollout that follows."""

    store: Store
    adapters: AdapterStore
    policy: ScriptedPolicy
    rollout: Rollout
    clock: Clock

    def chats(self, version: str, count: int, thumb: int) -> None:
        """Conversations in which a version gave one reply that got this thumb."""
        for i in range(count):
            name = f"{version}-{i}-{thumb}"
            self.store.add_conversation(make_conversation(id=name))
            decision = make_decision(id=f"d{name}", conversation_id=name, version=version, created_at=self.clock())
            reply = make_message(id=f"m{name}", conversation_id=name, role="bot", decision_id=decision.id)
            self.store.add_reply(reply, decision)
            signal = {"key": name, "conversation_id": name, "decision_id": decision.id, "value": float(thumb)}
            self.store.add_signal(make_signal(**signal))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Promoted after 40 conversations."""
    clock, policy = Clock(), ScriptedPolicy(champion="v000001")
    adapters = AdapterStore(tmp_path / "adapters", SECRET, clock)
    for _ in range(2):
        publish_bytes(adapters)
    adapters.set_champion("v000001", "test", "test")
    with Store(tmp_path / "rejoinder.db") as store:
        rollout = Rollout(policy, adapters, store, RolloutSettings(min_conversations=40), KEY)
        yield Rig(store, adapters, policy, rollout, clock)


# --- the rule ---------------------------------------------------------------------------------------------------------
def test_a_candidate_waits_for_its_conversations_and_is_then_promoted() -> None:
    """As good as the champion: 199 of 200 conversations wait, 200 are enough."""
    for conversations, expected in ((199, "wait"), (200, "promote")):
        assert decide(make_tally(conversations=conversations), make_tally(), 200).what == expected


def test_significantly_worse_thumbs_withdraw_before_the_time_is_up() -> None:
    """30 % up of 80 against 75 % of 80: -45 points; the standard error of the difference is about 7."""
    verdict = decide(make_tally(up=24.0, up_squares=24.0), make_tally(version="v000001"), 1000)

    assert verdict.what == "withdraw"
    assert verdict.reason.startswith("thumbs up: 30% of 80 against 75% of 80, 95 % interval -")


def test_significantly_worse_success_withdraws_where_thumbs_do_not() -> None:
    """None of 40 solved, against half of 40; the thumbs are alike."""
    assert decide(make_tally(solved=0.0), make_tally(), 10).reason.startswith("solved: 0% of 40 against 50% of 40")


def test_a_little_worse_is_no_reason() -> None:
    """72.5 % against 75 %, and fewer than MIN_RATED tell nothing at all, however bad."""
    assert decide(make_tally(up=58.0, up_squares=58.0), make_tally(), 100).what == "promote"
    assert difference(thumbs(make_tally(rated=29, up=0.0, up_squares=0.0)), thumbs(make_tally())) is None


def test_without_enough_ratings_a_candidate_is_never_promoted() -> None:
    """29 rated, and none of its outcomes known: it waits for others, and is withdrawn after five times the conversations."""
    unheard = {"rated": 29, "up": 0.0, "up_squares": 0.0, "outcomes": 0, "solved": 0.0}
    for conversations, expected in ((200, "wait"), (999, "wait"), (1000, "withdraw")):
        verdict = decide(make_tally(conversations=conversations, **unheard), make_tally(), 200)
        assert verdict.what == expected
        assert verdict.reason.startswith("never compared: expected 30 rated conversations of each, got 29 and 80")


def test_looking_at_every_conversation_raises_few_false_alarms_and_finds_what_is_worse() -> None:
    """Trust goal C2. Both arms 70 % up, 600 conversations, a look after each: at most 5 % of 400 canaries are withdrawn
    (a plain 95 % interval, the control, withdraws several times as many); 20 points worse is found in 9 of 10."""
    rng = np.random.default_rng(0)

    def ever_withdrawn(true_up: float, scale: float = 1.0) -> float:
        ours, theirs = (np.cumsum(rng.random((400, 300)) < p, axis=1) for p in (true_up, 0.7))
        n = np.arange(1, 301)
        middle, both = (ours - theirs) / n, ours / n * (1 - ours / n) + theirs / n * (1 - theirs / n)
        variance = both / n + 2 * 0.25 / n / n
        half = 1.96 * np.sqrt(variance) if scale == 0 else np.array([_half(int(2 * k)) for k in n]) * np.sqrt(variance)
        return float(((middle + half < 0) & (n >= 30)).any(axis=1).mean())

    assert ever_withdrawn(0.7) <= 0.05
    assert ever_withdrawn(0.7, scale=0) > 0.1
    assert ever_withdrawn(0.5) >= 0.9


def _half(n: int) -> float:
    return half_width(n, 1.0)


def test_a_conversation_always_goes_the_same_way_and_the_share_holds() -> None:
    """A quarter of 4,000, within four standard errors (27 each); another key or version draws anew."""
    ids = [f"c{i}" for i in range(4000)]
    chosen = [is_chosen(name, "v000002", KEY, 0.25) for name in ids]

    assert chosen == [is_chosen(name, "v000002", KEY, 0.25) for name in ids]
    assert abs(sum(chosen) - 1000) < 110
    assert chosen != [is_chosen(name, "v000002", b"other", 0.25) for name in ids]
    assert chosen != [is_chosen(name, "v000003", KEY, 0.25) for name in ids]
    assert all(is_chosen(name, "v000002", KEY, 1.0) for name in ids)


# --- the road ---------------------------------------------------------------------------------------------------------
async def test_without_a_canary_everybody_gets_the_champion(rig: Rig) -> None:
    """None means: no version of one's own."""
    await rig.rollout.step()

    assert rig.rollout.version_for("c1") is None


async def test_a_canary_is_held_while_it_is_one(rig: Rig) -> None:
    """Leased, so that the engine keeps it loaded; let go when it is withdrawn."""
    rig.adapters.set_canary("v000002", 1.0, "test", "test")
    await rig.rollout.step()
    assert (rig.rollout.version_for("c1"), rig.policy.leases["v000002"]) == ("v000002", 1)

    rig.adapters.withdraw("test")
    await rig.rollout.step()
    assert (rig.rollout.version_for("c1"), rig.policy.leases["v000002"]) == (None, 0)


async def test_a_canary_that_people_like_becomes_champion(rig: Rig) -> None:
    """After 40 conversations; what was said before it began does not count."""
    rig.chats("v000002", 50, -1)
    rig.clock.now += 10
    rig.adapters.set_canary("v000002", 0.5, "test", "test")
    rig.clock.now += 10
    rig.chats("v000002", 39, 1)
    rig.chats("v000001", 39, 1)
    await rig.rollout.step()
    assert rig.adapters.champion().version == "v000001"

    rig.store.add_conversation(make_conversation(id="last"))
    rig.store.add_reply(
        make_message(id="last", conversation_id="last", role="bot", decision_id="last"),
        make_decision(id="last", conversation_id="last", version="v000002", created_at=rig.clock()),
    )
    await rig.rollout.step()
    champion = rig.adapters.champion()
    assert (champion.version, champion.by, rig.adapters.canary()) == ("v000002", BY, None)
    assert champion.reason == "not worse in 40 conversations"


async def test_while_learning_is_frozen_a_canary_is_not_promoted(rig: Rig) -> None:
    """It stays what it is, and becomes champion once learning goes on."""
    rig.adapters.set_canary("v000002", 0.5, "test", "test")
    rig.chats("v000002", 40, 1)
    rig.chats("v000001", 40, 1)
    rig.adapters.freeze("a look first", "ana")
    await rig.rollout.step()
    assert (rig.adapters.champion().version, rig.adapters.canary() is None) == ("v000001", False)

    rig.adapters.unfreeze("looked", "ana")
    await rig.rollout.step()
    assert rig.adapters.champion().version == "v000002"


async def test_an_operators_lessons_are_no_votes_for_the_champion(rig: Rig) -> None:
    """A lesson is a decision of the champion with a thumb up, made out of a correction of its mistake."""
    lesson = make_decision(id="lesson", conversation_id="l", person_id="operator:ana", version="v000001")
    rig.store.add_conversation(make_conversation(id="l", person_id="operator:ana"))
    rig.store.add_reply(make_message(id="ml", conversation_id="l", role="bot", decision_id="lesson"), lesson)
    rig.store.add_signal(make_signal(key="l", conversation_id="l", decision_id="lesson", value=1.0))
    rig.chats("v000001", 2, -1)

    tally = rig.store.tallies("v000002", "v000001", 0.0)["v000001"]
    assert (tally.conversations, tally.rated, tally.up) == (2, 2, 0.0)


async def test_a_canary_that_people_dislike_is_withdrawn(rig: Rig) -> None:
    """35 conversations each, all down against all up."""
    rig.adapters.set_canary("v000002", 0.5, "test", "test")
    rig.chats("v000002", 35, -1)
    rig.chats("v000001", 35, 1)
    await rig.rollout.step()

    assert (rig.adapters.champion().version, rig.adapters.canary()) == ("v000001", None)
    last = rig.adapters.history()[-1]
    assert (last["event"], last["version"], last["by"]) == ("withdrawn", "v000002", BY)
    assert last["reason"].startswith("thumbs up: 0% of 35 against 100% of 35")


async def test_outcomes_speak_too(rig: Rig) -> None:
    """Nobody rates a reply, but with the canary no problem is solved."""
    rig.adapters.set_canary("v000002", 0.5, "test", "test")
    for version, solved in (("v000002", 0.0), ("v000001", 1.0)):
        rig.chats(version, 35, 0)
        for i in range(35):
            fields = {"key": f"o-{version}-{i}", "conversation_id": f"{version}-{i}-0", "decision_id": ""}
            rig.store.add_signal(make_signal(kind=SignalKind.OUTCOME, value=solved, **fields))
    await rig.rollout.step()

    assert rig.adapters.canary() is None
    assert rig.adapters.history()[-1]["reason"].startswith("solved: 0% of 35")


async def test_a_canary_that_cannot_be_loaded_is_withdrawn(rig: Rig) -> None:
    """The engine refuses it: the champion goes on alone, and the history says why."""

    class Refusing(ScriptedPolicy):
        def lease(self, version: str | None = None) -> Any:
            raise AdapterError("canary log-probabilities are off")

    rollout = Rollout(Refusing(), rig.adapters, rig.store, RolloutSettings(), KEY)
    rig.adapters.set_canary("v000002", 1.0, "test", "test")
    await rollout.step()

    assert (rollout.version_for("c1"), rig.adapters.canary()) == (None, None)
    assert "could not be loaded" in rig.adapters.history()[-1]["reason"]


async def test_a_canary_whose_words_turn_out_to_be_damaged_is_withdrawn_once_with_the_reason(rig: Rig) -> None:
    """Seen by the first reply that is written: everybody gets the champion from that moment on, and at the next look the
    pointer goes, once. The control: a fault of another version changes nothing."""
    rig.adapters.set_canary("v000002", 1.0, "test", "test")
    await rig.rollout.step()
    rig.policy.faults["v000001"] = "somebody else's"
    await rig.rollout.step()
    assert rig.rollout.version_for("c1") == "v000002"

    rig.policy.faults["v000002"] = "canary's words are off by 0.3"
    assert rig.rollout.version_for("c1") is None
    for _ in range(3):
        await rig.rollout.step()
    said = [line for line in rig.adapters.history() if line["event"] == "withdrawn"]
    assert (rig.adapters.canary(), rig.policy.leases["v000002"], len(said)) == (None, 0, 1)
    assert said[0]["reason"] == "it is not what was trained: canary's words are off by 0.3"
    assert rig.adapters.champion().version == "v000001"


async def test_the_session_asks_which_version_a_conversation_gets(tmp_path: Path) -> None:
    """One conversation is on the candidate, another with the champion; rows say which."""
    with open_session(tmp_path / "home") as rig:
        rig.session = rig.new_session(version_for={"c1": "v000002"}.get)
        assert (await rig.say("Where is my card?")).version == "v000002"
        rig.session = rig.new_session()
        assert (await rig.say("Where is my card?")).version == BASE_VERSION


# --- the pointer ------------------------------------------------------------------------------------------------------
def test_another_champion_ends_the_canary(rig: Rig) -> None:
    """It was compared with the one before. A rollback ends it too."""
    publish_bytes(rig.adapters)
    moves: tuple[Callable[[], object], ...] = (
        lambda: rig.adapters.promote("v000003", "by hand"),
        rig.adapters.rollback,
    )
    for move in moves:
        rig.adapters.set_canary("v000002", 0.1, "test", "test")
        move()
        assert rig.adapters.canary() is None
        assert rig.adapters.history()[-1]["event"] == "withdrawn"


def test_a_canary_is_verified_kept_by_pruning_and_replaced_by_the_next(rig: Rig) -> None:
    """Also: a share is one, and what is not there cannot be withdrawn."""
    with pytest.raises(NotFound):
        rig.adapters.set_canary("v000009", 0.1, "test", "test")
    with pytest.raises(AdapterError, match="share"):
        rig.adapters.set_canary("v000002", 0.0, "test", "test")
    with pytest.raises(NotFound, match="expected a canary"):
        rig.adapters.withdraw("test")
    rig.adapters.set_canary("v000002", 0.1, "test", "test")
    for _ in range(3):
        publish_bytes(rig.adapters)
    assert "v000002" not in rig.adapters.prune(1)

    rig.adapters.set_canary("v000005", 0.2, "next", "test")
    assert rig.adapters.canary() == Canary("v000005", rig.clock(), 0.2, "next", "test")
    assert "v000002" in rig.adapters.prune(1)
