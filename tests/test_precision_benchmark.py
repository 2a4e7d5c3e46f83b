"""The table of precision: what it says follows from the errors in it, and the document holds what was stored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.precision import table
from benchmarks.precision.table import DOCUMENT, MARK, Found, figures, markdown, stored


def found(**changes: object) -> Found:
    errors = {f"{way}-{format}": 0.03 for way in ("nearest", "fed") for format in table.UNIFORM}
    errors |= {f"searched-{format}": 0.02 for format in table.SEARCHED}
    budgets = {
        bits: {"bits": float(bits), "formats": {"int8": 1}, "measured": 0.01, "by moments": 0.011}
        for bits in table.BITS
    }
    made = Found(
        "a", "b", {}, errors, {format: 8.0 if format == "int8" else 4.5 for format in table.UNIFORM}, budgets,
        {"bits": 6.0, "error": 0.02, "ours": 0.01}, {},
    )  # fmt: skip
    return replace(made, **changes)


def row(one: Found, part: str) -> tuple[str, bool]:
    ((value, met),) = [(value, met) for what, _, value, met in figures(one) if part in what]
    return value, met


def test_a_prediction_is_off_by_the_worst_of_all_budgets() -> None:
    assert row(found(), "by moments") == ("9%", True)
    worse = found().budgets | {"6": {"bits": 6.0, "formats": {}, "measured": 0.02, "by moments": 0.01}}
    assert row(found(budgets=worse), "by moments") == ("100%", False)


def test_a_gain_is_in_decibels() -> None:
    assert row(found(), "first and last") == ("6.0 dB", True)
    assert not row(found(first_and_last={"bits": 6.0, "error": 0.011, "ours": 0.01}), "first and last")[1]


def test_no_gain_is_told_where_no_block_is_between() -> None:
    same = found(first_and_last={"bits": 8.0, "error": 0.01, "ours": 0.01})
    assert not [what for what, *_ in figures(same) if "first and last" in what]


def test_a_budget_is_compared_with_uniform_formats_of_at_most_its_size() -> None:
    better = found().errors | {"fed-int8": 0.005}
    assert row(found(errors=better), "best uniform") == ("2.00", False)  # 8 and 10 bits are no better than INT8
    assert row(found(), "best uniform") == ("0.33", True)


def test_the_document_holds_what_is_stored() -> None:
    text = DOCUMENT.read_text()
    assert stored(), "python -m benchmarks.precision was never run"
    for one in stored():
        assert markdown(one) in text.split(MARK)[1], "run: python -m benchmarks.precision"


@pytest.mark.parametrize("one", stored(), ids=lambda one: one.subject)
def test_every_figure_that_was_wanted_is_told(one: Found) -> None:
    said = markdown(one)
    for limit in (*table.NO_DATA.values(), *table.CALIBRATED.values(), *table.BUDGETS.values()):
        assert f"<= {limit:g}" in said
