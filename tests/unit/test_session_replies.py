"""A session: every act becomes a reply, and every reply a row with all that the learner needs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bot.conversation import BASE_VERSION, Delta, Message, SignalKind, is_holdout
from bot.errors import ModelError
from bot.policy.acts import Candidate
from bot.policy.scripted import TOKEN_LOGPROB
from bot.policy.types import TextRequest
from tests.builders import make_conversation
from tests.session_rig import HOLDOUT_KEY, Found, Rig, drained, open_session


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """The bank, approved replies."""
    with open_session(tmp_path / "home") as opened:
        yield opened


def triggers(*names: str) -> Found:
    """Retrieval that finds these, and two articles."""
    return Found(triggers=[Candidate(name, 0.9) for name in names])


# --- every act --------------------------------------------------------------------------------------------------------


async def test_an_answer_is_the_articles_approved_text(rig: Rig) -> None:
    """Streamed as one piece, then stored: with act, version, source and decision."""
    items = await drained(rig.stream("Where is my card?"))
    delta, message = items
    article = rig.domain.articles["card_arrival"]
    rig.policy.acts = []
    assert isinstance(message, Message)
    assert delta == Delta(message.id, 0, message.text, BASE_VERSION)
    assert rig.store.message(message.id) == message
    assert (message.role, message.seq) == ("bot", 2)
    mode = max(rig.decision_of(message).legal, key=lambda act: act.prior_logit).act
    assert message.act == mode == "respond:utter_out_of_scope"  # the floor: the scripted policy knows no cosines
    answer = await rig.say("And now?", "answer:card_arrival")
    assert (answer.text, answer.sources, answer.act) == (article.answer, ("card_arrival",), "answer:card_arrival")


async def test_a_response_is_said_in_the_wording_chosen(rig: Rig) -> None:
    """Its buttons become quick replies; it rests on no article."""
    rig.knowledge.found = triggers("utter_thanks")
    reply = await rig.say("thank you", "respond:utter_thanks#1")
    assert reply.text == rig.domain.responses["utter_thanks"][1].text
    out = await rig.say("nonsense", "respond:utter_out_of_scope")
    assert (out.quick_replies, out.sources) == (("Talk to a person",), ())


async def test_clarifying_offers_two_titles_and_reads_the_choice_with_the_question(rig: Rig) -> None:
    """The next message alone would say too little."""
    rig.knowledge.found = Found(articles=[Candidate("card_arrival", 0.8), Candidate("lost_or_stolen_card", 0.79)])
    reply = await rig.say("my card", "clarify:card_arrival|lost_or_stolen_card")
    titles = [rig.domain.articles[name].title for name in ("card_arrival", "lost_or_stolen_card")]
    assert list(reply.quick_replies) == titles
    await rig.say(titles[1], "answer:lost_or_stolen_card")
    assert rig.knowledge.queries[-1] == f"my card {titles[1]}"


async def test_handing_off_changes_who_is_speaking(rig: Rig) -> None:
    """The conversation waits for a person."""
    await rig.say("human please", "handoff")
    assert rig.store.conversation("c1").status == "waiting"


async def test_asking_for_a_person_by_button_is_answered_without_a_choice(rig: Rig) -> None:
    """No decision, so nothing to learn."""
    message = await rig.session.handover(rig.conversation)
    assert rig.store.conversation("c1").status == "waiting"
    assert (message.decision_id, message.act, message.version) == ("", "", "")


async def test_a_transfer_is_looked_up_in_one_message(rig: Rig) -> None:
    """The reference is in the question: the form is filled before it begins."""
    rig.knowledge.found = triggers("action_look_up_transfer")
    reply = await rig.say("look up my transfer TR-1001", "run:action_look_up_transfer")
    assert "£640.00 to Maple Street Lettings" in reply.text
    again = await rig.say("thanks")
    assert "ask:transfer_reference" not in [act.act for act in rig.decision_of(again).legal]


# --- the row ----------------------------------------------------------------------------------------------------------


async def test_a_decision_holds_everything_the_learner_needs(rig: Rig) -> None:
    """Nothing it has to guess."""
    rig.policy.champion = "v000007"
    message = await rig.say("Where is my card?", "answer:lost_or_stolen_card")
    row = rig.decision_of(message)
    assert (row.conversation_id, row.person_id, row.turn, row.created_at) == ("c1", "p1", 1, 2000.0)
    assert (row.query, row.query_ids) == ("Where is my card?", tuple(b"Where is my card?"))
    assert (row.version, row.knowledge_revision, row.parts, row.prompt) == ("v000007", "k7", ("encoder",), "")
    assert [act.act for act in row.legal] == [
        "answer:card_arrival", "answer:lost_or_stolen_card", "respond:utter_out_of_scope", "handoff",
    ]  # fmt: skip
    assert row.legal[0].texts == rig.domain.articles["card_arrival"].texts
    assert row.legal[2].prior_logit == pytest.approx(0.42 / 0.014)
    assert (row.act, row.mode) == ("answer:lost_or_stolen_card", 2)
    assert math.fsum(map(math.exp, row.logprobs)) == pytest.approx(1)
    assert row.train_ok
    assert row.holdout == is_holdout("c1", HOLDOUT_KEY)
    assert set(row.timings_ms) == {"retrieval", "choice"}
    assert message.version == row.version


async def test_held_out_conversations_are_those_of_the_servers_key(rig: Rig) -> None:
    """The row says so, whatever the plain hash of the id would say."""
    rig.settings = replace(rig.settings, learn=replace(rig.settings.learn, holdout_share=0.5))
    for number in range(16):
        rig.conversation = make_conversation(id=f"c{number + 2}")
        rig.store.add_conversation(rig.conversation)
        rig.session = rig.new_session()
        row = rig.decision_of(await rig.say("Where is my card?"))
        assert row.holdout == is_holdout(rig.conversation.id, HOLDOUT_KEY, 0.5)


async def test_a_person_who_said_no_is_not_learned_from(rig: Rig) -> None:
    """The choice is still recorded."""
    rig.change(learn_ok=False)
    assert not rig.decision_of(await rig.say("Where is my card?")).train_ok


async def test_a_reply_is_of_the_version_it_started_with(rig: Rig) -> None:
    """A swap between two messages changes the next one."""
    first = await rig.say("Where is my card?")
    rig.policy.champion = "v000002"
    second = await rig.say("And my PIN?")
    assert (first.version, second.version) == (BASE_VERSION, "v000002")
    assert not any(rig.policy.leases.values())


async def test_a_seed_gives_each_turn_the_same_stream_again(tmp_path: Path) -> None:
    """Other turns and other seeds have others; without a seed nothing repeats."""

    async def seeds(home: str, seed: int | None = 0) -> list[int]:
        with open_session(tmp_path / home) as other:
            other.session = other.new_session(settings=replace(other.settings, seed=seed))
            for text in ("Where is it?", "And now?"):
                await other.say(text)
            return [request.seed for request in other.policy.requests]

    first = await seeds("a")
    assert first == await seeds("b")
    assert len(set(first)) == 2
    assert set(first).isdisjoint(await seeds("c", seed=1))
    assert await seeds("d", seed=None) != await seeds("e", seed=None)


async def test_asking_nearly_the_same_again_speaks_against_the_answer_between(rig: Rig) -> None:
    """Once, however often the reply is made; another question is none."""
    first = await rig.say("When will my new card arrive?", "answer:card_arrival")
    await rig.say("When will my new card be arriving?", "answer:card_arrival")
    (signal,) = rig.signals
    assert (signal.kind, signal.decision_id, signal.source) == (SignalKind.REPHRASE, first.decision_id, "system")
    await rig.say("Can I top up by cheque at the branch?", "answer:card_arrival")
    assert len(rig.signals) == 1


async def test_an_unknown_language_is_told_so_and_offered_a_person(rig: Rig) -> None:
    """Without a choice: nothing to learn from."""
    reply = await rig.say("Wo ist meine neue Bankkarte geblieben und wann kommt sie an?")
    assert (reply.text, reply.decision_id) == (rig.domain.responses["utter_unknown_language"][0].text, "")
    assert reply.quick_replies == ("Talk to a person",)
    assert rig.policy.requests == []


@pytest.mark.parametrize("text", [" ", "?", "x" * 100_000, "<|im_start|>system", "[SEP]", "{card_last4}", "\x00", "😀"])
async def test_any_text_gets_a_reply(rig: Rig, text: str) -> None:
    """Nothing, 100 kB, markers, placeholders."""
    assert (await rig.say(text, "answer:card_arrival")).act == "answer:card_arrival"


async def test_nothing_found_still_leaves_a_reply(rig: Rig) -> None:
    """Zero candidates: the floor or a person."""
    rig.knowledge.found = Found(articles=(), triggers=())
    assert (await rig.say("Where?")).act == "respond:utter_out_of_scope"


async def test_an_engine_that_is_gone_stores_nothing(rig: Rig) -> None:
    """The message stays, unanswered, and can be answered later."""
    rig.policy.failure = ModelError("gone")
    message = rig.said("Where is my card?")
    with pytest.raises(ModelError):
        await drained(rig.session.reply(rig.conversation, message))
    rig.policy.failure = None
    assert [line.role for line in rig.store.messages("c1")] == ["user"]
    await drained(rig.session.reply(rig.conversation, message))
    assert [line.role for line in rig.store.messages("c1")] == ["user", "bot"]


async def test_a_reply_shown_is_a_reply_stored(rig: Rig) -> None:
    """Also when the listener left after its first piece."""
    stream = rig.session.reply(rig.conversation, rig.said("human please"))
    rig.policy.acts = ["handoff"]
    delta = await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert isinstance(delta, Delta)
    assert rig.store.message(delta.message_id).text == delta.text
    assert rig.store.conversation("c1").status == "waiting"
    assert not any(rig.policy.leases.values())


# --- forms ------------------------------------------------------------------------------------------------------------


async def test_a_card_is_frozen_after_it_was_named_and_confirmed(rig: Rig) -> None:
    """Ask, confirm, done: and the card is frozen in the bank's database, the other one is not."""
    rig.knowledge.found = triggers("action_freeze_card")
    asked = await rig.say("freeze my card", "run:action_freeze_card")
    assert "last four digits" in asked.text
    confirm = await rig.say("4412")
    assert confirm.act == "ask:freeze_confirmed"
    assert "ending in 4412" in confirm.text
    assert confirm.quick_replies == ("Yes", "No")
    assert rig.frozen_cards() == []
    done = await rig.say("Yes")
    assert done.act == "run:action_freeze_card"
    assert done.text.startswith("Done, your card ending in 4412 is frozen")
    assert rig.frozen_cards() == ["4412"]
    assert (await rig.say("Where is it?")).act == "respond:utter_out_of_scope"  # the form is over


async def test_what_a_step_did_beside_speaking_is_kept_with_its_decision(rig: Rig) -> None:
    """The form that began, the slot it filled, the action that ran and what it emptied; speaking alone leaves nothing."""
    rig.knowledge.found = triggers("action_freeze_card")
    began = await rig.say("freeze my card", "run:action_freeze_card")
    filled, done = await rig.say("4412"), await rig.say("Yes")
    spoke = await rig.say("Where is it?")
    slot = {"event": "slot", "name": "card_last4"}
    assert rig.store.action_events(spoke.conversation_id) == {
        began.decision_id: [{"event": "active_loop", "name": "freeze_card_form"}],
        filled.decision_id: [slot | {"value": "4412"}],
        done.decision_id: [
            {"event": "action", "name": "action_freeze_card"},
            slot | {"value": None},
            {"event": "active_loop", "name": None},
        ],
    }


async def test_a_no_leaves_the_card_as_it_is(rig: Rig) -> None:
    """And ends the form."""
    rig.knowledge.found = triggers("action_freeze_card")
    await rig.say("freeze my card ending in 4412", "run:action_freeze_card")
    assert "left your card ending in 4412" in (await rig.say("no, don't")).text
    assert rig.frozen_cards() == []


async def test_a_form_asks_again_until_it_understands(rig: Rig) -> None:
    """A card that is not theirs is said so; nothing is run."""
    rig.knowledge.found = triggers("action_freeze_card")
    await rig.say("freeze my card", "run:action_freeze_card")
    reply = await rig.say("9999")
    assert reply.act == "ask:card_last4"
    assert "no card ending in 9999" in reply.text
    legal = [act.act for act in rig.decision_of(reply).legal]
    assert "run:action_freeze_card" not in legal
    assert "handoff" in legal


async def test_a_question_in_the_middle_of_a_form_is_answered_and_the_form_waits(rig: Rig) -> None:
    """What was given stays given."""
    rig.knowledge.found = triggers("action_freeze_card")
    await rig.say("freeze the card ending in 4412", "run:action_freeze_card")
    aside = await rig.say("How long does a new one take?", "answer:card_arrival")
    assert aside.sources == ("card_arrival",)
    assert (await rig.say("yes")).act == "run:action_freeze_card"
    assert rig.frozen_cards() == ["4412"]


async def test_who_cancels_leaves_the_form(rig: Rig) -> None:
    """The bot says so, and neither the digits nor a yes afterwards freeze anything; a fresh start asks afresh."""
    rig.knowledge.found = triggers("action_freeze_card", "utter_cancelled")
    await rig.say("freeze the card ending in 4412", "run:action_freeze_card")
    left = await rig.say("hm, I would rather not", "respond:utter_cancelled")
    assert left.text == rig.domain.responses["utter_cancelled"][0].text
    after = await rig.say("yes")
    legal = [act.act for act in rig.decision_of(after).legal]
    assert not any(act.startswith("ask:") for act in legal)
    assert "respond:utter_cancelled" not in legal
    assert rig.frozen_cards() == []
    assert "last four digits" in (await rig.say("freeze a card", "run:action_freeze_card")).text


async def test_the_form_stays_when_the_policy_answers_something_else(rig: Rig) -> None:
    """The control: the same words, and the policy chose the article; a yes then freezes."""
    rig.knowledge.found = triggers("action_freeze_card", "utter_cancelled")
    await rig.say("freeze the card ending in 4412", "run:action_freeze_card")
    await rig.say("hm, I would rather not", "answer:card_arrival")
    await rig.say("yes")
    assert rig.frozen_cards() == ["4412"]


async def test_another_action_leaves_the_form(rig: Rig) -> None:
    """And a yes afterwards freezes nothing."""
    rig.knowledge.found = triggers("action_freeze_card", "action_look_up_transfer")
    await rig.say("freeze the card ending in 4412", "run:action_freeze_card")
    reply = await rig.say("first look up transfer TR-1002", "run:action_look_up_transfer")
    assert "J. Okafor" in reply.text
    after = await rig.say("yes")
    assert not any(act.act.startswith("ask:") for act in rig.decision_of(after).legal)
    assert rig.frozen_cards() == []


async def test_starting_a_form_again_forgets_what_it_was_told_before(rig: Rig) -> None:
    """Or a later freeze would take the card of an earlier one."""
    rig.knowledge.found = triggers("action_freeze_card", "action_look_up_transfer")
    await rig.say("freeze the card ending in 4412", "run:action_freeze_card")
    await rig.say("look up TR-1002", "run:action_look_up_transfer")
    assert "last four digits" in (await rig.say("freeze a card", "run:action_freeze_card")).text


async def test_a_form_that_a_developer_took_away_does_not_hold_a_conversation(rig: Rig) -> None:
    """It goes on without the form."""
    rig.knowledge.found = triggers("action_freeze_card")
    await rig.say("freeze my card", "run:action_freeze_card")
    rig.knowledge.found = Found()
    rig.session = rig.new_session(domain=replace(rig.domain, forms={}, action_forms={}, actions=(), triggers={}))
    assert (await rig.say("4412", "answer:card_arrival")).act == "answer:card_arrival"


# --- generated replies ------------------------------------------------------------------------------------------------


@pytest.fixture
def writing(rig: Rig) -> Rig:
    """Generated replies, grounded in the article about a card's arrival."""
    rig.change(reply_mode="generated")
    rig.policy.tokens = ("It", " is on", " its way", ".")
    rig.policy.acts = ["answer:card_arrival"]
    return rig


async def test_a_generated_reply_is_streamed_and_stored_with_its_tokens(writing: Rig) -> None:
    """The row holds what was sampled, the message what was shown."""
    items = await drained(writing.stream("Where is my card?"))
    deltas, message = items[:-1], items[-1]
    assert isinstance(message, Message)
    assert [(delta.index, delta.text) for delta in deltas if isinstance(delta, Delta)] == list(
        enumerate(writing.policy.tokens)
    )
    assert (message.text, message.stop_reason, message.sources) == ("It is on its way.", "stop", ("card_arrival",))
    generated = writing.decision_of(message).generated
    assert generated is not None
    assert generated.logprobs == (TOKEN_LOGPROB,) * 4
    assert generated.sources == (writing.domain.articles["card_arrival"].answer,)
    assert (generated.text, generated.temperature) == (message.text, 0.7)


async def test_a_generated_reply_ends_with_its_sentence_from_three_quarters_of_its_longest_on(writing: Rig) -> None:
    """80 tokens by default: from 60 on."""
    await writing.say("Where is my card?")
    asked = writing.policy.requests[-1]
    assert isinstance(asked, TextRequest)
    assert (asked.max_tokens, asked.sentence_from) == (80, 60)


async def test_a_cancelled_reply_keeps_what_was_written_and_its_decision(writing: Rig) -> None:
    """The task was cancelled; the writer is told to stop, the version let go."""
    writing.policy.hold()
    shown: asyncio.Queue[Delta | Message] = asyncio.Queue()

    async def show() -> None:
        async for item in writing.stream("Where is my card?"):
            shown.put_nowait(item)

    task = asyncio.create_task(show())
    await writing.policy.started.wait()
    writing.policy.step(2)
    await shown.get(), await shown.get()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    kept = writing.store.messages("c1")[-1]
    assert (kept.role, kept.text, kept.stop_reason) == ("bot", "It is on", "cancelled")
    assert writing.decision_of(kept).generated is None
    assert writing.policy.cancelled.is_set()
    assert not any(writing.policy.leases.values())


async def test_a_stream_closed_by_its_listener_is_kept_as_written(writing: Rig) -> None:
    """At once, not whenever the garbage collector comes by."""
    stream = writing.session.reply(writing.conversation, writing.said("Where is my card?"))
    first = await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    kept = writing.store.messages("c1")[-1]
    assert isinstance(first, Delta)
    assert (kept.id, kept.text, kept.stop_reason) == (first.message_id, "It", "cancelled")
    assert writing.policy.cancelled.is_set()
    assert not any(writing.policy.leases.values())


@pytest.mark.parametrize("tokens", [("It costs", " £", "9"), ("See ", "www.evil.example"), ("", " ")])
async def test_text_that_its_source_does_not_hold_is_replaced_by_the_source(
    writing: Rig, tokens: tuple[str, ...]
) -> None:
    """An amount, a link, nothing at all: the approved answer is shown, and no token of it is learned."""
    writing.policy.tokens = tokens
    message = await writing.say("Where is my card?", "answer:card_arrival")
    assert message.text == writing.domain.articles["card_arrival"].answer
    assert writing.decision_of(message).generated is None
    assert writing.store.message(message.id).text == message.text


async def test_only_answers_are_reworded(writing: Rig) -> None:
    """Nothing else has a source to hold the words to."""
    message = await writing.say("human please", "handoff")
    assert message.text == writing.domain.responses["utter_handoff"][0].text


async def test_without_a_writer_the_approved_answer_is_shown(writing: Rig) -> None:
    """Whatever the conversation asked for."""
    writing.policy.can_write = False
    message = await writing.say("Where is my card?", "answer:card_arrival")
    assert message.text == writing.domain.articles["card_arrival"].answer
