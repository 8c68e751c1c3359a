"""Who is written next: conversations take turns, running replies are not held up by prompts, slots stay without gaps."""

from __future__ import annotations

from bot.policy.scheduler import Job, Reading, Scheduler


def job(chat: str = "a", num_prompt: int = 10, deadline_at: float | None = None) -> Job:
    return Job(chat, num_prompt, deadline_at)


def scheduler_with(*jobs: Job, num_slots: int = 2, step_tokens: int = 8, idle_tokens: int = 100) -> Scheduler:
    built = Scheduler(num_slots, step_tokens, idle_tokens)
    for one in jobs:
        built.add(one)
    return built


def test_conversations_take_turns_however_much_one_of_them_asks() -> None:
    """Three of a busy chat, then one each of two others: the busy one's second reply waits for both."""
    busy, others = [job("busy") for _ in range(3)], [job("b"), job("c")]
    scheduler = scheduler_with(*busy, *others, num_slots=5)
    assert scheduler.admit() == [busy[0], others[0], others[1], busy[1], busy[2]]
    assert [one.slot for one in scheduler.running] == [0, 1, 2, 3, 4]


def test_within_a_conversation_the_first_asked_is_the_first_served() -> None:
    """And who finds no slot waits."""
    jobs = [job() for _ in range(3)]
    scheduler = scheduler_with(*jobs)
    assert scheduler.admit() == jobs[:2]
    assert scheduler.num_waiting == 1
    scheduler.remove(jobs[0])
    assert scheduler.admit() == [jobs[2]]


def test_a_long_prompt_is_read_in_pieces_beside_running_replies() -> None:
    """8 tokens a step: one goes to the reply, seven to the prompt of 16, which takes three steps."""
    running, long = job(num_prompt=1), job("b", num_prompt=16)
    scheduler = scheduler_with(running, long)
    scheduler.admit()
    running.num_read = 1
    plans = [scheduler.plan() for _ in range(3)]
    assert [writing for writing, _ in plans] == [[running]] * 3
    assert [reading for _, reading in plans] == [[Reading(long, 0, 7)], [Reading(long, 7, 14)], [Reading(long, 14, 16)]]
    assert scheduler.plan() == ([running, long], [])


def test_when_nobody_is_written_for_prompts_are_read_at_once() -> None:
    """The control of the test above: nobody waits for the next token."""
    long, next_one = job(num_prompt=70), job("b", num_prompt=50)
    scheduler = scheduler_with(long, next_one)
    scheduler.admit()
    assert scheduler.plan() == ([], [Reading(long, 0, 70), Reading(next_one, 0, 30)])


def test_prompts_go_on_even_when_replies_fill_the_step() -> None:
    """One token a step at least."""
    running, other = job(num_prompt=0), job("b", num_prompt=3)
    scheduler = scheduler_with(running, other, step_tokens=1)
    scheduler.admit()
    assert scheduler.plan() == ([running], [Reading(other, 0, 1)])


def test_prompts_keep_a_quarter_of_the_step_however_many_replies_run() -> None:
    """Seven replies in a step of eight: two tokens of the prompt, not one."""
    running, waiting = [job(str(number), num_prompt=0) for number in range(7)], job("b", num_prompt=10)
    scheduler = scheduler_with(*running, waiting, num_slots=8)
    scheduler.admit()
    assert scheduler.plan() == (running, [Reading(waiting, 0, 2)])


def test_the_last_slot_takes_over_the_one_that_became_free() -> None:
    """Of three, the first leaves: the third moves from slot 2 to slot 0. The last leaves: nobody moves."""
    jobs = [job(chat) for chat in "abc"]
    scheduler = scheduler_with(*jobs, num_slots=3)
    scheduler.admit()
    assert scheduler.remove(jobs[0]) == (2, 0)
    assert [one.slot for one in jobs] == [None, 1, 0]
    assert scheduler.remove(jobs[1]) is None
    assert list(scheduler.running) == [jobs[2]]


def test_a_waiting_job_leaves_without_a_trace() -> None:
    """Its conversation's other jobs keep their order."""
    jobs = [job() for _ in range(3)]
    scheduler = scheduler_with(*jobs, num_slots=1)
    scheduler.remove(jobs[1])
    assert (scheduler.admit(), scheduler.num_waiting) == ([jobs[0]], 1)
    scheduler.remove(jobs[2])
    assert scheduler.num_waiting == 0


def test_those_past_their_deadline_are_named_waiting_or_running() -> None:
    """At 5 seconds: a deadline of 5 is past, one of 6 and none at all are not."""
    jobs = [job("a", deadline_at=5.0), job("b", deadline_at=6.0), job("c"), job("d", deadline_at=4.0)]
    scheduler = scheduler_with(*jobs)
    scheduler.admit()
    assert scheduler.expired(5.0) == [jobs[0], jobs[3]]
