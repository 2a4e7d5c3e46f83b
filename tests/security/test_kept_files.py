"""Files that this package keeps and others may have edited or exchanged: plans, calibrations, settings, manifests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from scaled_fp8.quant import Refused, open_source, read_settings
from scaled_fp8.quant.calibration.budget import budget_of
from scaled_fp8.quant.calibration.plan import read_plan
from scaled_fp8.quant.calibration.store import HEADER, read_calibration
from scaled_fp8.quant.conversion.manifest import MANIFEST, Manifest
from scaled_fp8.quant.files.locks import LOCK, only_job

ROW = {"layer": "a", "format": "int8", "granularity": "", "bytes": 1, "error": 0.1, "why": ""}
POINT = {"kind": "mixed", "name": "x", "bits": 4.0, "bytes": 5, "error": 0.1}
PLAN = {"scaled_fp8_plan": 1, "source": "m", "budget": "7 bits", "calibration": "", "measure": "x", "error": 0.1,
        "bytes": 10, "bits": 7.0, "rows": [ROW], "curve": [POINT]}  # fmt: skip
ENTRY = {"state": "done", "said": "x", "source": {"a": None}, "results": {"b": None}, "seconds": 1.0}
KEPT = {"version": 1, "asked": {"format": "int8"}, "files": {"a": ENTRY}}
HEADERS = {"version": 1, "steps": 1, "prompts": 1}
RECORD = {"a.shape": torch.tensor([4, 8]), "a.sample": torch.ones(64), "a.squares": torch.eye(8)[None].clone(),
          "a.amax": torch.tensor(1.0), "a.rows": torch.tensor(5)}  # fmt: skip
ODD: tuple[Any, ...] = (None, [], {}, float("nan"), float("inf"), True, 10**400, -(10**30), [[]], "x")
TENSORS = {
    "NaN": torch.tensor(float("nan")), "two": torch.tensor([1.0, 2.0]), "none": torch.empty(0), "-3": torch.tensor(-3),
    "FP8": torch.zeros(2).to(torch.float8_e4m3fn), "bool": torch.tensor([True, False]),
    "large": torch.tensor([2**62, 2**62]), "turned": torch.tensor([8, 4]), "NaNs": torch.full((64,), float("nan")),
    "inf": torch.full((1, 8, 8), float("inf")), "complex": torch.zeros(1, 8, 8, dtype=torch.complex64),
    "-1": torch.full((1, 8, 8), -1.0),
}  # fmt: skip


def read_back(folder: Path, plan: dict[str, Any]) -> str:
    (folder / "plan.json").write_text(json.dumps(plan))
    return read_plan(folder / "plan.json").table()


def test_what_nobody_touched_is_read(tmp_path: Path) -> None:
    assert "int8" in read_back(tmp_path, PLAN)
    assert calibrated(tmp_path, {}, json.dumps(HEADERS))["a"].shape == (4, 8)
    assert kept(tmp_path, KEPT).entries["a"].said == "x"


@pytest.mark.parametrize("key", [key for key in PLAN if key not in ("rows", "curve")])
def test_a_plan_is_shown_or_refused(tmp_path: Path, key: str) -> None:
    shown_or_refused(lambda value: read_back(tmp_path, PLAN | {key: value}))


@pytest.mark.parametrize(("part", "key"), [("rows", key) for key in ROW] + [("curve", key) for key in POINT])
def test_a_line_of_a_plan_is_shown_or_refused(tmp_path: Path, part: str, key: str) -> None:
    (line,) = PLAN[part]  # type: ignore[misc]
    shown_or_refused(lambda value: read_back(tmp_path, PLAN | {part: [line | {key: value}]}))


def shown_or_refused(attempt: Callable[[Any], object]) -> None:
    """What is no text is refused wherever it is; nothing else is raised."""
    for value in ODD:
        try:
            attempt(value)
        except Refused as refusal:
            assert str(refusal).isprintable()
        else:
            assert isinstance(value, str | bool) or value == {}


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 100_000, "", '{"scaled_fp8_plan": 1, "scaled_fp8_plan": 1}'])
def test_what_is_no_plan_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(Refused):
        read_plan(tmp_path / "plan.json")


def test_a_layer_is_planned_once(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="twice"):
        read_back(tmp_path, PLAN | {"rows": [ROW, ROW | {"layer": "model.diffusion_model.a", "format": "nvfp4"}]})


def calibrated(folder: Path, changed: dict[str, torch.Tensor], header: str) -> Any:
    save_file(RECORD | changed, folder / "c.safetensors", {HEADER: header})
    return read_calibration(folder / "c.safetensors")


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("part", [*RECORD, "a.factor"])
def test_a_damaged_record_is_a_sentence(tmp_path: Path, part: str, kind: str) -> None:
    with pytest.raises(Refused, match="calibrate"):
        calibrated(tmp_path, {part: TENSORS[kind]}, json.dumps(HEADERS)).of("a", torch.ones(4, 8))


@pytest.mark.parametrize("header", [
    '{"version": 1, "steps": 1e400, "prompts": 1}', '{"version": Infinity, "steps": 1, "prompts": 1}', "[" * 99_999,
    "[]", "null", '{"version": 1, "steps": "x", "prompts": 1}', '{"version": 1, "steps": -5, "prompts": 1}', "9" * 5000,
    *(f'{{"version": 1, "steps": 1, "prompts": 1, "levels": {levels}}}'
      for levels in ("[]", "3", '{"int4": "x"}', '{"int4": -1}', '{"int4": NaN}', '{"int4": 1e400}', '{"int4": null}')),
], ids=range(15))  # fmt: skip
def test_a_calibration_that_is_none_is_a_sentence(tmp_path: Path, header: str) -> None:
    with pytest.raises(Refused, match="is no calibration"):
        calibrated(tmp_path, {}, header)


def kept(folder: Path, content: dict[str, Any]) -> Manifest:
    (folder / MANIFEST).write_text(json.dumps(content))
    return Manifest(str(folder), KEPT["asked"])  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["version", "asked", "files"])
def test_a_manifest_is_read_or_refused(tmp_path: Path, key: str) -> None:
    shown_or_refused(lambda value: kept(tmp_path, KEPT | {key: value}))


def test_a_job_of_others_is_told_in_a_few_words(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="was started with format") as refusal:
        kept(tmp_path, KEPT | {"asked": {"format": "\x1b[2J" * 10**5}})
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 700


@pytest.mark.parametrize("key", ENTRY)
def test_an_entry_of_a_manifest_is_read_or_refused(tmp_path: Path, key: str) -> None:
    shown_or_refused(lambda value: kept(tmp_path, KEPT | {"files": {"a": ENTRY | {key: value}}}))


@pytest.mark.parametrize("text", [
    "a = " + "[" * 9000, "x=" + "{a=" * 5000, "[quantization]\n" + "a." * 50_000 + "b=1", "\x00", "a = '" + "x" * 10**6,
], ids=range(5))  # fmt: skip
def test_settings_that_are_none_are_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(Refused, match="TOML|bytes"):
        read_settings(tmp_path / "s.toml")


@pytest.mark.parametrize("read", [read_settings, read_plan, read_calibration])
def test_pipes_and_devices_are_not_opened(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "f.safetensors")
    for path in (tmp_path / "f.safetensors", Path("/dev/zero"), tmp_path):
        with pytest.raises(Refused):
            read(path)


@pytest.mark.parametrize("text", ["9" * 400 + " bits", "error " + "9" * 400, "x" * 10**6, "1." + "0" * 400 + "x"])
def test_budgets_that_are_none_are_a_short_sentence(text: str) -> None:
    with pytest.raises(Refused, match="budget") as refusal:
        budget_of(text)
    assert len(str(refusal.value)) < 200


def test_a_lock_follows_no_link_and_may_be_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(Refused, match="cannot be opened"), only_job(str(tmp_path)):
        pass
    (tmp_path / LOCK).unlink()
    with only_job(str(tmp_path)):
        (tmp_path / LOCK).unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_scale_in_a_map_that_float32_has_not(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(4, 4).to(torch.float8_e4m3fn)}, tmp_path / "m.pt")
    torch.save({"a": 10**400}, tmp_path / "m_map.pt")
    with pytest.raises(Refused, match="not a tensor"):
        open_source(tmp_path / "m.pt")
