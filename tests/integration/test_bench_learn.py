"""`bench learn`: the stream is what a server would have served, seeds resume, peers hear the same thumbs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bot.cli import main as rejoinder
from bot.identity import home_secret
from bot.policy.adapters import AdapterStore
from bot.policy.encoder import EncoderPart
from bot.policy.engine import Engine
from bot.policy.model import PolicyModel
from bot.policy.types import ActRequest
from online_learning.bench.peers import Bandit, Cases, Retriever, judge, probe, run_peer
from online_learning.bench.scenario import Material, Phase, Plan, Scenario, in_blocks, plain, warm_started
from online_learning.bench.stream import Stream, bench_settings
from online_learning.bench.views import Embeddings, View
from online_learning.evaluate import Question
from online_learning.simulate.users import TURNS_PER_USER, turns
from online_learning.statistics import seeded
from tests.learner_rig import ARTICLES, QUICK, Home, open_home, tiny_models

QUESTIONS = [Question(f"{text} {word}", name) for name, (_, texts) in ARTICLES.items() for text in texts
             for word in ("please", "now", "today", "thanks", "quickly", "again", "sir")]  # fmt: skip
PLAN = Plan("clean", 1.0, 64, 64, 0)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def home(tmp_path: Path, models: Path) -> Iterator[Home]:
    with open_home(tmp_path, models, learn={"update_every": 16}) as opened:
        yield opened


def streamed(home: Home, plan: Plan = PLAN) -> Stream:
    settings = bench_settings(home.settings, home.settings.home, plan.seed)
    scenario = plain(Material(home.domain, QUESTIONS, QUESTIONS), plan)
    return Stream(settings, home.store, scenario, plan, QUICK)


def test_the_stream_serves_what_the_engine_would(home: Home) -> None:
    """Under every version that was published: the same distribution and, from the same seed, the same act."""
    outcome = streamed(home).run((), lambda *_: None)
    assert outcome.updates.count("published") >= 2
    decisions = [home.store.decision(f"d{number}") for number in range(64)]
    assert len({decision.version for decision in decisions}) >= 2
    adapters = AdapterStore(home.settings.adapters, home_secret(home.settings.home))
    model, temperature = PolicyModel(EncoderPart(Path(home.settings.model))), home.settings.policy.temperature
    engine = Engine(model, adapters, temperature=temperature)

    async def served() -> None:
        for number, decision in enumerate(decisions):
            seed = int(seeded(0, f"act {number}").integers(2**62))
            async with engine.lease(decision.version) as lease:
                choice = await lease.choose(ActRequest(decision.query, decision.prompt, decision.legal, seed))
            assert choice.query_ids == decision.query_ids
            assert choice.logprobs == pytest.approx(decision.logprobs, abs=1e-4)
            assert choice.chosen == decision.chosen
        await engine.close()

    asyncio.run(served())


def test_people_who_are_asked_rate_the_replies_that_ask(home: Home) -> None:
    """Nobody else does; at most one a person, whose five turns are one conversation."""
    stream = streamed(home, Plan("clean", 0.0, 70, 70, 0, asked=1.0))
    rated = stream.run((), lambda *_: None).rated
    asked = {n for n in range(70) if home.store.message(f"m-d{n}").ask_rating}
    assert rated == asked
    assert 0 < len(rated) <= 14
    assert len({number // TURNS_PER_USER for number in rated}) == len(rated)


def test_without_asking_nobody_is_asked(home: Home) -> None:
    """And at rate 0 nobody rates (the control)."""
    assert streamed(home, Plan("clean", 0.0, 32, 32, 0)).run((), lambda *_: None).rated == frozenset()
    assert not any(home.store.message(f"m-d{n}").ask_rating for n in range(32))


def test_checkpoints_count_turns_where_the_plan_ends_by_turns(home: Home) -> None:
    """Half of 64 turns are rated: after 32 turns there are about 16 thumbs, and the policy is judged."""
    points = streamed(home, Plan("clean", 0.5, 64, 64, 0)).run((32,), lambda *_: None).points
    assert [point.num_turns for point in points] == [0, 32, 64]
    assert 0 < points[1].num_thumbs < 32


def test_labels_are_learned_as_rows_like_any_other(home: Home) -> None:
    """An operator's word enters by decisions and thumbs: every row re-scores, none is refused, a wrong reply has its
    right one beside it, and no act that was not drawn is ever shown to the gate, which weighs by propensities."""
    settings = bench_settings(home.settings, home.settings.home, 0)
    scenario = warm_started(plain(Material(home.domain, QUESTIONS, QUESTIONS), PLAN), QUESTIONS[:48])
    outcome = Stream(settings, home.store, scenario, PLAN, QUICK).run((), lambda *_: None)
    told = [home.store.decision(f"wd{number}") for number in range(48)]
    wrong = [row for row, asked in zip(told, QUESTIONS, strict=False) if row.act != f"answer:{asked.answer}"]
    fixed = home.store.decisions(f"{row.id}-right" for row in told)
    assert set(fixed) == {f"{row.id}-right" for row in wrong if not row.holdout}
    assert fixed
    assert any(row.holdout for row in told)
    assert not any(row.holdout for row in fixed.values())
    rights = {f"wd{n}-right": f"answer:{question.answer}" for n, question in enumerate(QUESTIONS[:48])}
    assert all(row.act == rights[row.id] for row in fixed.values())
    assert all(update.metrics["refused"]["rescore"] == 0 for update in home.store.updates())
    assert len(outcome.rights) == outcome.num_thumbs == 64  # Labels are neither turns nor thumbs.
    assert [point.phase for point in outcome.points] == [0, 0, 1, 1]
    assert any(set(fixed) & set(update.lineage) for update in home.store.updates())


def test_a_seed_gives_the_same_stream_twice(tmp_path: Path, models: Path) -> None:
    """Accuracies, acts and thumbs; another seed asks in another order (the control)."""
    found = []
    for number, seed in enumerate((3, 3, 4)):
        with open_home(tmp_path / str(number), models, learn={"update_every": 16}) as home:
            outcome = streamed(home, Plan("mild", 0.5, 70, 64, seed)).run((32,), lambda *_: None)
            found.append((outcome.rights, outcome.num_thumbs, outcome.points[-1].marks["served"].tolist()))
    assert found[0] == found[1] != found[2]


# --- the command ------------------------------------------------------------------------------------------------------


def files(home: Home) -> dict[str, Path]:
    """Knowledge, questions and evaluation rows on disk."""
    kb = [{"intent": name, "exemplar": text} for name, (_, texts) in ARTICLES.items() for text in texts]
    rows = [{"text": question.text, "intent": question.answer} for question in QUESTIONS]
    found = {}
    for name, lines in {"kb": kb, "online": rows, "eval": rows[::3]}.items():
        found[name] = home.settings.home.parent / f"{name}.jsonl"
        found[name].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return found


def bench(home: Home, *extra: str) -> int:
    """`rejoinder bench learn` on the tiny models."""
    where, given = str(home.settings.home), [f"--{name}={path}" for name, path in files(home).items()]
    sets = [f"--set={key}={getattr(home.settings, key)}" for key in ("domain", "model", "causal_model")]
    return rejoinder(["--home", where, "--json", *sets, "bench", "learn", *given, *extra])


def test_the_last_line_holds_the_figures_and_a_finished_seed_is_not_run_again(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run reads what the first one kept (here: changed by hand, which it then repeats) and adds a seed."""
    assert bench(home, "--thumbs=64", "--noise=clean", "--rate=1") == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"setting", "thumbs", "turns", "start", "accuracy", "accuracy_served", "ci", "seeds"} <= first.keys()
    assert {"refused_by_gate", "peers", "thumbs_per_second"} <= first.keys()
    assert first["peers"].keys() == {"retriever", "cases", "bandit", "probe"}
    assert (first["thumbs"], first["seeds"]) == (64, 1)
    assert first["peers"]["retriever"] == first["start"]
    kept = next((home.settings.home / "bench-learn").glob("*/seed-0.json"))
    record = json.loads(kept.read_text())
    record["curve"][-1]["accuracy"] = 0.125
    kept.write_text(json.dumps(record))
    assert bench(home, "--thumbs=64", "--noise=clean", "--rate=1", "--seeds=2") == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["by_seed"][0] == 0.125
    assert again["seeds"] == len(again["by_seed"]) == 2
    assert bench(home, "--thumbs=64", "--noise=clean", "--rate=1", "--set=learn.case_weight=0.1") == 0
    other = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert other["by_seed"] != [0.125]  # Another setting is another cell.
    assert (kept.parent / "curve.png").stat().st_size > 1000
    assert (kept.parent / "curve.csv").read_text().startswith("seed,turns,thumbs,accuracy")


def outside(home: Home) -> Path:
    """Questions that no article answers, enough for 40 turns."""
    path = home.settings.home.parent / "outside.jsonl"
    path.write_text("".join(json.dumps({"text": f"sing me song {i} of the sea"}) + "\n" for i in range(40)))
    return path


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("drift", {"new_before", "new_after", "old_before", "old_after", "old_diff_ci"}),
        ("scope", {"oos_right", "in_scope_handed_over", "peers_scope"}),
        ("second", {"thumbs_only", "second_diff", "second_diff_ci", "second_signals"}),
        ("wording", {"liked_picky_before", "liked_picky_after", "liked_others_after", "liked_picky_diff_ci"}),
    ],
)
def test_every_setting_reports_its_own_figures_beside_the_common_ones(
    home: Home, capsys: pytest.CaptureFixture[str], setting: str, expected: set[str]
) -> None:
    """Each through the real store, rules and learner; peers hear the same people; a curve over turns at rate 0.5."""
    extra = [f"--oos={outside(home)}"] if setting == "scope" else []
    assert bench(home, "--turns=40", "--rate=0.5", "--noise=clean", f"--setting={setting}", *extra) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report.keys() >= expected | {"setting", "thumbs", "start", "accuracy", "ci", "peers", "checkpoints"}
    assert report["setting"] == f"clean, rate 0.5, {setting}"
    assert report["turns"] == 40
    assert 0 < report["thumbs"] < 40
    assert all(0 <= report[name] <= 1 for name in expected if isinstance(report[name], float))


def test_asking_is_named_in_the_setting_and_somebody_must_rate(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """At rate 0 only those rate who are asked: with no asking, or a share of none, that is nobody."""
    assert bench(home, "--turns=64", "--rate=0", "--asked=1", "--noise=clean") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["setting"] == "clean, rate 0, asked 1"
    assert 0 < report["thumbs"] <= 13
    for extra in (["--rate=0"], ["--rate=0", "--asked=1", "--set=learn.ask_share=0"]):
        assert bench(home, "--turns=64", *extra) == 2
        assert "expected --rate above 0" in capsys.readouterr().err


def test_the_accuracy_after_labels_is_reported_beside_the_start(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """`start` is the retriever's; the same files serve as labels."""
    labels = files(home)["eval"]
    assert bench(home, "--thumbs=32", "--noise=clean", f"--warmstart={labels}") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["start"] == report["peers"]["retriever"]
    assert report["warm"] == report["checkpoints"][0]["accuracy"]
    assert report["warm_labels"] == 24


def test_out_of_scope_questions_belong_to_their_setting(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither without the other."""
    assert bench(home, "--setting=scope") == 2
    assert bench(home, f"--oos={outside(home)}") == 2
    assert "expected --oos F with --setting scope only" in capsys.readouterr().err


def test_too_few_rows_are_refused_in_one_line(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2; nothing is repeated to make up for them."""
    assert bench(home, "--thumbs=1000") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "expected 1000 rows or more, got 70" in said[-1]


# --- peers ------------------------------------------------------------------------------------------------------------


STATES = {"a": [1.0, 0.0], "a again": [0.995, 0.1], "far": [0.0, 1.0]}
ACTS = ("answer:x", "answer:y", "answer:z")
JUDGED = [Question("a again", "y"), Question("far", "z")]


def view(text: str) -> View:
    """Two questions side by side, a third apart; three candidates of the same similarity."""
    state = np.array(STATES[text])
    return View((state / np.linalg.norm(state)).astype(np.float32), np.array([0, 1, 2]), np.array([0.5, 0.5, 0.5]))


SEEN = Embeddings(ACTS, [{text: view(text) for text in STATES}], 0.02)


def asked(home: Home, questions: list[Question], plan: Plan) -> Scenario:
    """One phase, in the order of `simulate.users`."""
    domain = replace(home.domain, articles=dict.fromkeys("xyz", next(iter(home.domain.articles.values()))))
    talk = partial(turns, questions, plan.num_turns, plan.rate, plan.seed)
    return Scenario((Phase(domain, questions, lambda: in_blocks(talk())),), JUDGED)


def test_cases_move_similar_questions_and_leave_others() -> None:
    """One liked and one disliked answer: mean reward 0, kernel 1 on the question itself, so 0.5 +- 0.3 * 1 / 2."""
    peer = Cases()
    peer.learn([view("a"), view("a")], np.array([0, 1]), np.array([1.0, -1.0]))
    own, near, far = peer.scores([view("a"), view("a again"), view("far")])
    assert own == pytest.approx([0.65, 0.35, 0.5])
    assert near[0] > 0.6
    assert near[1] < 0.4
    assert far == pytest.approx([0.5, 0.5, 0.5], abs=1e-3)


def test_a_bandit_and_cases_learn_from_thumbs_what_a_retriever_never_does(home: Home) -> None:
    """Clean thumbs on two questions with one right answer each, which similarity cannot tell."""
    plan = Plan("clean", 1.0, 120, 120, 0)
    scenario = asked(home, [Question("a", "y"), Question("far", "z")] * 60, plan)
    for peer, reached in ((Bandit(3), 1.0), (Cases(), 1.0), (Retriever(), 0.0)):
        assert run_peer(peer, SEEN, scenario, plan).accuracy == reached


def test_peers_hear_the_operator_too(home: Home) -> None:
    """Two corrections, and nobody else ever speaks."""
    scenario = asked(home, JUDGED, PLAN)
    told = warm_started(scenario, [Question("a", "y"), Question("far", "z")]).phases[0]
    only = replace(scenario, phases=(told,))
    assert run_peer(Cases(), SEEN, only, PLAN).accuracy == 1.0
    assert run_peer(Retriever(), SEEN, only, PLAN).accuracy == 0.0


def test_the_probe_is_told_every_label(home: Home) -> None:
    """And so gets right what lies apart."""
    scenario = asked(home, JUDGED, PLAN)
    taught = probe([(view("a"), "answer:y"), (view("far"), "answer:z")], SEEN)
    assert judge(taught, SEEN, scenario, 0)["right"].tolist() == [1.0, 1.0]
    assert judge(Retriever(), SEEN, scenario, 0)["right"].tolist() == [0.0, 0.0]
