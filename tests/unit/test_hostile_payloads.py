"""The hostile texts themselves: enough of them, each its own, each storable."""

from __future__ import annotations

import csv
import io
from collections import Counter

from tests.hostile import MAX_CHARS, PAYLOADS, formula_cells


def test_there_are_two_hundred_of_six_kinds_and_no_two_are_alike() -> None:
    """Counted by kind, so that nobody thins one out unnoticed."""
    kinds = Counter(payload.kind for payload in PAYLOADS)
    expected = {"markup": 96, "link": 40, "template": 14, "direction": 21, "huge": 10, "formula": 30}
    assert (kinds, len({payload.text for payload in PAYLOADS})) == (expected, 211)


def test_every_payload_is_a_message_that_the_product_takes() -> None:
    """Short enough, no NUL, and its marker is in it."""
    for payload in PAYLOADS:
        assert len(payload.text) <= MAX_CHARS
        assert payload.marker in payload.text
        assert "\0" not in payload.text


def test_formula_cells_are_found_and_numbers_and_defused_cells_are_not() -> None:
    """A control for whoever tests an export."""
    formulas = [payload.text for payload in PAYLOADS if payload.kind == "formula"]
    written = io.StringIO()
    csv.writer(written).writerows([[text, "-1.5", f"'{text}", "plain"] for text in formulas])
    assert formula_cells(written.getvalue()) == formulas
