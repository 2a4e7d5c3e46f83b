"""The table of precision: what it says follows from the errors in it, and the document holds what was stored."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.precision import large, table
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


def test_what_core_loads_has_the_same_bits_or_has_not() -> None:
    saved = {name: {"bytes": 8, "error": 0.01, "off": 0.0} for name in ("int8", "budget")}
    assert row(found(saved=saved), "saved in 2 ways") == ("the same bits", True)
    saved["budget"]["off"] = 1e-6
    assert row(found(saved=saved), "saved in 2 ways") == ("1.0e-06 off", False)
    assert "| budget | 0.00 | 0.0100 |" in markdown(found(saved=saved))


def test_levels_are_told_where_they_were_measured() -> None:
    assert "int4 0.90, int8 1.00" in markdown(found(levels={"int4": 0.9, "int8": 1.0}))
    assert "over the sum" not in markdown(found())


def test_others_rounding_is_compared_in_error_and_time() -> None:
    peer = {"error": 0.03, "seconds": 50.0, "bytes": 8, "ours": 0.02, "our seconds": 1.0, "our bytes": 8}
    assert row(found(peers={"int8": peer}), "learned rounding") == ("1.50", True)
    assert row(found(peers={"int8": peer}), "our time") == ("0.020", True)
    assert row(found(peers={"int8": peer | {"our seconds": 10.0}}), "our time") == ("0.200", False)


def test_a_measured_curve_has_each_format_and_budget() -> None:
    points = table.measured_curve(found()).points
    assert {(point.name, point.bits, point.error) for point in points if point.name} == {
        (name, 8.0 if name == "int8" else 4.5, 0.03) for name in table.UNIFORM
    }
    assert [(point.bits, point.error) for point in points if not point.name] == [
        (float(bits), 0.01) for bits in table.BITS
    ]


def test_a_large_model_takes_what_its_layers_take() -> None:
    second = {name: large.Cost(1.0, 10**9) for name in large.FLUX.linears}
    costs = {part: dict(second) for part in large.PARTS} | {"int8": dict.fromkeys(large.ENDS, large.Cost(0.5, 10**9))}
    rows = {part: (time, memory) for part, time, memory in large.rows(costs)}
    hours = len(large.FLUX.linears) * large.EACH / 3600
    assert rows["plan"] == (f"{hours:.1f} h", "1.00 GB")
    assert rows[f"convert to {large.REFERENCE}"] == (f"{hours:.1f} h", "1.00 GB")
    assert rows["convert to int8"][0] == f"{hours / 2:.1f} h"
    # 21504 x 3072 in bf16, times 8, and 2 GB
    assert large.bound() == 21504 * 3072 * 2 * 8 + 2 * 10**9


def test_moments_of_a_large_model_leave_half_a_gigabyte_for_python_and_torch() -> None:
    assert large.whole_watch().nbytes <= large.bound() - 5 * 10**8
    costs = {part: dict.fromkeys(large.FLUX.linears, large.Cost(1.0, 5 * 10**8)) for part in large.PARTS}
    assert large.calibrating(costs) == large.whole_watch().nbytes + 5 * 10**8 <= large.bound()
    assert large.whole_watch(8 * 10**9).size > large.whole_watch().size


def test_the_document_holds_what_is_stored() -> None:
    text = DOCUMENT.read_text()
    assert stored(), "python -m benchmarks.precision was never run"
    for one in stored():
        assert markdown(one) in text.split(MARK)[1], "run: python -m benchmarks.precision"
        assert (DOCUMENT.parent / table.picture(one)).exists(), "run: python -m benchmarks.precision"
    if (costs := large.stored()) is not None:
        assert large.markdown(costs) in text, "run: python -m benchmarks.precision.large"


@pytest.mark.parametrize("one", stored(), ids=lambda one: one.subject)
def test_every_figure_that_was_wanted_is_told(one: Found) -> None:
    said = markdown(one)
    for limit in (*table.NO_DATA.values(), *table.CALIBRATED.values(), *table.BUDGETS.values()):
        assert f"<= {limit:g}" in said
