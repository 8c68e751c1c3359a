"""What the studio plots: every measure is named, has a meaning, and is one that the learner or the store gives."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from ui.metrics import METRICS
from ui.studio import container

ROOT = Path(__file__).parents[2]
OF_THE_STORE = {"success", "thumbs", "reward", "thumbs_over_time"}
"""Measures by version or by time; all others are the learner's, once an update."""


def test_every_measure_says_what_it_means_in_one_line() -> None:
    """A title without a meaning would be a number nobody can use."""
    assert all(metric.title and metric.meaning.endswith(".") for metric in METRICS.values())
    assert all(len(metric.meaning) < 100 for metric in METRICS.values())


def test_the_learners_measures_are_those_of_the_page_of_metrics() -> None:
    """The same names, explained there at length."""
    documented = set(re.findall(r"(?m)^\| `(\w+)` \|", (ROOT / "docs/metrics.md").read_text()))
    assert METRICS.keys() - OF_THE_STORE <= documented


def test_the_page_plots_what_is_named_and_nothing_else() -> None:
    """A name that the script asks for and nobody explains would break the page."""
    script = (ROOT / "ui/static/studio_learning.js").read_text()
    asked = set(re.findall(r'(?:byVersion|byUpdate|this\.#plot)\("(\w+)"', script))
    assert asked == METRICS.keys()


def test_the_page_hands_the_words_to_its_script() -> None:
    """As JSON in an attribute, escaped."""
    found = re.search(r'data-config="([^"]*)"', container())
    assert found is not None
    config = json.loads(html.unescape(found.group(1)))
    assert config["metrics"]["entropy"]["unit"] == "nats"
