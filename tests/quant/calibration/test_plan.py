"""Plans and curves as files: read as they were written, edited, damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scaled_fp8.quant import Refused
from scaled_fp8.quant.calibration.curve import Curve, Point, draw_curve
from scaled_fp8.quant.calibration.plan import Plan, PlanRow, read_plan, write_plan

MARK = '{"scaled_fp8_plan": 1'
CURVE = Curve((
    Point("mixed", "", 4.5, 450, 0.05), Point("mixed", "", 8.0, 800, 0.01), Point("mixed", "", 16.0, 1600, 0.0),
    Point("uniform", "int8", 8.0, 800, 0.02), Point("chosen", "6 bits", 6.0, 600, 0.02),
))  # fmt: skip
ROWS = (
    PlanRow("blocks.0.q", "nvfp4", "group", 100, 0.016, "error feedback"),
    PlanRow("blocks.0.k", "keep", "", 500, 0.012, "as it is"),
)
PLAN = Plan("model.safetensors", "6 bits", "", "errors of weights", 0.02, 600, 6.0, ROWS, CURVE)


def test_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.json", PLAN)
    assert read_plan(tmp_path / "plan.json") == PLAN
    lines = (tmp_path / "plan.json").read_text().splitlines()
    assert sum('"layer"' in line for line in lines) == len(ROWS) == sum(line.count('"layer"') for line in lines)


def edited(tmp_path: Path, **changes) -> Path:
    write_plan(tmp_path / "plan.json", PLAN)
    found = json.loads((tmp_path / "plan.json").read_text())
    found["rows"][0] |= changes
    (tmp_path / "plan.json").write_text(json.dumps(found))
    return tmp_path / "plan.json"


def test_may_be_edited(tmp_path: Path) -> None:
    row = read_plan(edited(tmp_path, format="int8", granularity="per-row")).row("model.blocks.0.q")
    assert row is not None and row.format == "int8"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "int3"}, "'int3'; choose keep or one of"),
        ({"granularity": "block"}, r"plan\.json: blocks\.0\.q .*'block' is none of nvfp4's"),
        ({"colour": "red"}, "is damaged: colour is unknown"),
        ({"bytes": "many"}, "is damaged: bytes should be an int and is 'many'"),
        ({"error": float("nan")}, "NaN, which is not JSON; correct it"),
    ],
)
def test_a_wrong_edit_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(Refused, match=message):
        read_plan(edited(tmp_path, **changes))


@pytest.mark.parametrize("rest", ["", "[]", "{}", '{"scaled_fp8_plan": 2}', MARK + "}", MARK + ', "rows": 3}'])
def test_other_files_are_refused(tmp_path: Path, rest: str) -> None:
    (tmp_path / "plan.json").write_text(rest)
    with pytest.raises(Refused, match=r"plan\.json: "):
        read_plan(tmp_path / "plan.json")


@pytest.mark.parametrize("part", ["rows", "curve", "budget"])
def test_a_plan_without_a_part_says_which(tmp_path: Path, part: str) -> None:
    path = edited(tmp_path)
    left = {name: value for name, value in json.loads(path.read_text()).items() if name != part}
    path.write_text(json.dumps(left))
    with pytest.raises(Refused, match=f"is damaged: {part} is missing; plan anew"):
        read_plan(path)


def test_table_tells_each_layers_share_of_the_error() -> None:
    table = PLAN.table()
    assert "64%" in table and "36%" in table and "6 bits" in table


def test_picture_has_a_mark_for_each_kind() -> None:
    colours = {colour for _, colour in draw_curve(CURVE).getcolors(1 << 20)}
    assert {(90, 143, 214), (136, 136, 136), (214, 69, 61)} <= colours
    assert draw_curve(Curve(())).size == draw_curve(replace(CURVE, points=CURVE.points[2:3])).size


def test_a_plan_of_no_layer_is_refused(tmp_path: Path) -> None:
    path = edited(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": []}))
    with pytest.raises(Refused, match=r"plan\.json: plans no layer"):
        read_plan(path)
