"""How the benchmarks read what they hear: each fault they report is one that they would notice."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.settings import load_settings
from online_learning.bench.product import options_of, percentiles, throw_away
from online_learning.bench.swap import Stream, _gaps

WHOLE = Stream("m1", {"v000001"}, [0, 1, 2], "In five days.", [1.0, 1.1, 1.2], {"id": "m1"})


@pytest.mark.parametrize("indexes", [[0, 2], [1, 0], [0, 1, 1], [0, -1]])
def test_a_piece_that_is_missing_doubled_or_elsewhere_is_out_of_order(indexes: list[int]) -> None:
    """Control: the same without the fault is in order. -1 stands for a piece of another message."""
    assert WHOLE.is_in_order
    assert not replace(WHOLE, indexes=indexes).is_in_order


@pytest.mark.parametrize("versions", [{"v000001", "v000002"}, set()])
def test_a_reply_of_two_versions_or_none_is_mixed(versions: set[str]) -> None:
    """Invariant 2 as the browser sees it."""
    assert not WHOLE.is_mixed
    assert replace(WHOLE, versions=versions).is_mixed


def test_gaps_around_a_swap_are_told_from_the_others() -> None:
    """Pieces at 0, 0.1, 5.0 and 5.2; a swap at 0.05 is in the first gap, and 1 s after it nothing counts any more."""
    stream = replace(WHOLE, arrived=[0.0, 0.1, 5.0, 5.2])
    near, far = _gaps([stream], [0.05])
    assert near == pytest.approx([0.1, 4.9])
    assert far == pytest.approx([0.2])


def test_percentiles_of_nothing_are_unknown_not_zero() -> None:
    """1..5 have a median of 3."""
    assert percentiles([1, 2, 3, 4, 5], 10.0, (50,)) == {"p50": 30.0}
    assert percentiles([]) == {"p50": None, "p95": None}


def test_options_reach_the_child_processes_as_given() -> None:
    """A value may hold an equals sign."""
    given: Any = ["learn.quorum=2", "causal_model=/models/a=b"]
    assert options_of(argparse.Namespace(set=given)) == {"learn.quorum": "2", "causal_model": "/models/a=b"}
    assert options_of(argparse.Namespace(set=None)) == {}


def test_a_benchmark_never_touches_the_home_it_was_started_in(tmp_path: Path) -> None:
    """It works in a demo home of its own, and leaves nothing."""
    settings = load_settings({"home": tmp_path / "mine"}, {})
    with throw_away(settings, tiny=False) as elsewhere:
        assert elsewhere.home != settings.home
        assert elsewhere.learn.settle_s == 3.0
        folder = elsewhere.home.parent
        assert folder.is_dir()
    assert not folder.exists()
    assert not settings.home.exists()
