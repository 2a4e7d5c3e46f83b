"""The heat map drawn by the server."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest
from PIL import Image
from scaled_fp8.quant.kernels.registry import KERNELS
from scaled_fp8.quant.nn.report import Report, Row
from scaled_fp8.quant.quality.heatmap import COLOURS, EMPTY, colours, draw_errors, draw_report, place, sections
from scaled_fp8.quant.quality.sqnr import NOISE_COLOUR, ramp
from scaled_fp8.quant.weights.granularity import GRANULARITIES

PLACES = json.loads((Path(__file__).parents[2] / "web" / "places.json").read_text())
ROW = Row(
    layer="b.0.q", kernel="upcast", reason="as asked", format="float8_e4m3fn", granularity="per-tensor", shape=(8, 16),
    activation="as they are", calls=2, ran={"upcast": 2},
)  # fmt: skip


def rows(*names: str) -> tuple[Row, ...]:
    return tuple(replace(ROW, layer=name) for name in names)


@pytest.mark.parametrize("name", PLACES)
def test_place_is_that_of_the_panel(name: str) -> None:
    assert list(place(name)) == PLACES[name]


def test_sections_hold_every_layer_once() -> None:
    given = rows("b.10.q", "b.2.q", "b.2.k", "in", "a.0.q")
    found = sections({row.layer: row for row in given})
    assert [(part.name, part.blocks, part.labels) for part in found] == [
        ("a", (0,), ("q",)), ("b", (2, 10), ("k", "q")), ("", (0,), ("in",)),
    ]  # fmt: skip
    held = [row.layer for part in found for row in part.rows.values()]
    assert sorted(held) == sorted(row.layer for row in given)


@pytest.mark.parametrize("by", ["kernel", "granularity"])
def test_each_layer_is_a_cell_of_its_colour(by: str) -> None:
    names = [f"b.{block}.{label}" for block in range(7) for label in ("q", "k", "v")]
    fast = {"b.3.k", "b.5.v"}
    given = tuple(
        replace(row, kernel="scaled_mm per-row", granularity="per-row") if row.layer in fast else row
        for row in rows(*names)
    )
    picture = draw_report(Report(given), by=by)
    seen = {colour: count for count, colour in picture.getcolors(1 << 16)}
    few, many = (seen[rgb(COLOURS[getattr(row, by)])] for row in (given[names.index("b.3.k")], given[0]))
    cell = 16 * 16
    assert (few, many) == ((2 + 1) * cell, (19 + 1) * cell)  # and one swatch in the legend


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def test_missing_layers_stay_empty() -> None:
    picture = draw_report(Report(rows("b.0.q", "b.1.k")))
    assert {rgb(EMPTY), rgb(COLOURS["upcast"])} <= {colour for _, colour in picture.getcolors(1 << 16)}


@pytest.mark.parametrize("count", [0, 1, 2000])
def test_any_number_of_layers_fits(count: int) -> None:
    picture = draw_report(Report(rows(*(f"blocks.{i}.q" for i in range(count)))))
    assert picture.mode == "RGB"
    assert 640 <= picture.width <= 8000


def test_every_kernel_and_granularity_has_a_colour_of_its_own() -> None:
    names = [kernel.name for kernel in KERNELS]
    assert {*names, *GRANULARITIES} <= COLOURS.keys()
    assert len({COLOURS[name] for name in names}) == len(names)


def test_unknown_names_get_colours_of_their_own() -> None:
    found = colours(["odd", "upcast", "rare"])
    assert found["upcast"] == COLOURS["upcast"]
    assert len(set(found.values())) == 3


def cells_of(picture: Image.Image, colour: str) -> int:
    """Pixels of a colour, in cells of 16 by 16."""
    return {pixel: count for count, pixel in picture.getcolors(1 << 16)}.get(rgb(colour), 0) // 256


def test_errors_colour_each_layer_and_flag_noise() -> None:
    given = Report(rows(*(f"b.{i}.q" for i in range(6))))
    errors = {"b.0.q": 20.0, "b.1.q": 40.0, "b.2.q": inf, "b.3.q": -50.0, "b.4.q": nan}
    picture = draw_errors(given, errors)
    # a layer each at the ends, one without error that shares the last colour, and their entries in the legend
    assert cells_of(picture, ramp(0)) == 2
    assert cells_of(picture, ramp(1)) == 4
    # crossed out, so that a little less than two layers and an entry is red
    assert cells_of(picture, NOISE_COLOUR) == 2
    assert cells_of(picture, EMPTY) == 2


def test_a_model_like_the_other_has_one_colour() -> None:
    picture = draw_errors(Report(rows("b.0.q", "b.1.q")), {"b.0.q": inf, "b.1.q": inf})
    assert cells_of(picture, ramp(1)) == 3 and cells_of(picture, ramp(0)) == 0
