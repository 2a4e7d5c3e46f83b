"""Charts of a report: every step and every layer is drawn once, in the colour that its figure has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import inf, nan

import pytest
from scaled_fp8.quant import LayerError
from scaled_fp8.quant.quality.charts import CELL, ceiling, curve, heat_map, legend, text
from scaled_fp8.quant.quality.sqnr import NOISE_COLOUR, ramp


def layer(name: str, decibel: float) -> LayerError:
    return LayerError(name, (8, 8), "bfloat16", "float8_e4m3fn per-row", decibel, 0.1)


def cells(drawn: str) -> Iterator[tuple[str, int, int]]:
    """Colour and place of each cell."""
    for colour, path in re.findall(r'<path fill="(#\w+)" d="([^"]+)"', drawn):
        yield from ((colour, int(x), int(y)) for x, y in re.findall(r"M(\d+) (\d+)h", path))


def told(drawn: str) -> dict[str, str]:
    found = re.findall(r'<script type="application/json" class="cells">(.*?)</script>', drawn)
    return {place: said for part in found for place, said in json.loads(part).items()}


def test_each_layer_is_a_cell_of_its_colour() -> None:
    given = [layer(f"blocks.{i}.{part}", 20.0 + i) for i in range(13) for part in ("q", "k")]
    given[3] = layer("blocks.1.k", -40.0)
    given[4] = layer("blocks.2.q", inf)
    drawn = heat_map(given)
    colours = {(x, y): colour for colour, x, y in cells(drawn)}
    assert len(colours) == len(given)
    of = {said.split(":")[0]: colours[tuple(map(int, place.split(",")))] for place, said in told(drawn).items()}
    assert of["blocks.1.k"] == NOISE_COLOUR and of["blocks.2.q"] == ramp(1.0)
    assert of["blocks.0.q"] == of["blocks.0.k"] == ramp(0.0) and of["blocks.12.q"] == ramp(1.0)
    assert drawn.count('class="cross"') == 1


def test_blocks_go_across_and_layers_down() -> None:
    drawn = heat_map([layer(f"blocks.{i}.{part}", 30.0) for i in (0, 1, 10) for part in ("k", "q")])
    places = {said.split(":")[0]: tuple(map(int, place.split(","))) for place, said in told(drawn).items()}
    assert places["blocks.10.k"][0] - places["blocks.0.k"][0] == 2 * CELL
    assert places["blocks.0.q"] == (places["blocks.0.k"][0], places["blocks.0.k"][1] + CELL)


def test_two_thousand_layers_are_few_elements() -> None:
    given = [layer(f"blocks.{i // 40}.linear{i % 40}", 20 + (i * 7919 % 2000) / 100) for i in range(2000)]
    drawn = heat_map(given)
    assert len(list(cells(drawn))) == len(told(drawn)) == 2000
    assert drawn.count("<path") < 150 and "<rect" not in drawn


def test_the_legend_says_what_is_there() -> None:
    assert "identical" in legend([layer("a", inf)]) and "dB</li>" in legend([layer("a", 30.0)])
    assert "identical" not in legend([layer("a", 30.0)])
    assert all(NOISE_COLOUR in legend(given) for given in ([], [layer("a", nan)]))


def test_every_step_is_a_point_and_the_last_is_said() -> None:
    drawn = curve([0.0, 0.01, 0.02, nan, 0.04])
    heights = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', drawn)]
    assert len(heights) == 4 and heights == sorted(heights, reverse=True)
    # in proportion: the second is half as high as the third
    assert heights[0] - heights[1] == pytest.approx((heights[0] - heights[2]) / 2, abs=0.11)
    assert "5 steps" in drawn and "0.04" in drawn


@pytest.mark.parametrize("steps", [[0.0], [0.5], [inf, 1.0], [nan], [1e-30, 1e30]], ids=str)
def test_any_steps_are_drawn_with_finite_places(steps: list[float]) -> None:
    places = re.findall(r'\b(?:cx|cy|x|y)="([^"]+)"', curve(steps))
    assert all(re.fullmatch(r"-?[\d.]+", place) for place in places)


@pytest.mark.parametrize("value", [0.0206, 0.99, 1.0, 7.3, 123456.0, 1e-9])
def test_the_axis_ends_above_the_largest_value_and_not_far(value: float) -> None:
    assert value <= ceiling(value) * (1 + 1e-9) and ceiling(value) <= value * 1.5


def test_text_is_text() -> None:
    assert text('<b onload="x">&\u202e\x1b') == "&lt;b onload=&quot;x&quot;&gt;&amp;\\u202e\\x1b"
