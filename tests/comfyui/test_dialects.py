"""Each dialect of the zoo through LoadFP8Checkpoint in a real ComfyUI: one forward of a trained FLUX.2."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file
from zoo import CORE, ZOO

# Beside the thirteen of the design: other scales, other number formats, other layouts.
MORE = (
    "plain-e5m2", "comfy-rows", "comfy-net", "legacy-prefixed", "legacy-e5m2", "lightx2v-transposed",
    "lightx2v-square-transposed", "ltx-mixed", "musubi-rows", "kijai-input", "ctq-rows", "ctq-blocks", "quanto-e5m2",
    "torchao-rows", "fnuz", "modelopt-bytes", "fbgemm", "mxfp8", "nvfp4", "int8", "int8-rows",
    "int8-convrot", "int8-blockwise-64", "int8-fast-convrot", "svdquant", "awq-w4a16", "nunchaku", "nvfp4-lightx2v",
    "nvfp4-modelopt-svd", "nvfp4-convrot", "nunchaku-fp4", "nunchaku-fp4-joined",
)  # fmt: skip
DIALECTS = (*CORE, *MORE)
REFUSED = ("modelopt-native", "sdnq-no-config", "nunchaku-fp4-wide-scales", "transformer-engine", "nvfp4-bare")
# Relative error of one forward, by format or name: two mantissa bits against three; four bits with a scale for 16.
ALLOWED = {"float8_e5m2": 0.10, "nvfp4": 0.25, "svdquant_w4a4": 0.25, "awq_w4a16": 0.25, "nunchaku-fp4-joined": 0.25}


@pytest.fixture(scope="module")
def measured(contract, base, figure, digits) -> dict:
    files = {name: written(name, base, digits) for name in (*DIALECTS, *REFUSED)}
    answers = contract("dialects", files=files)
    figure("one forward of digits-flux2, relative error:   core      ours   FP8 GEMM  dialect")
    for name, row in answers.items():
        core = row["core"] if isinstance(row["core"], str) else f"{row['core']:.3g}"
        ours, gemm = row.get("error", float("nan")), row.get("gemm") or float("nan")
        figure(f"  {name:30} {core:>20} {ours:9.3g} {gemm:10.3g}  {row.get('dialect', 'refused')}")
    return answers


def written(name: str, base: Path, digits: dict) -> str:
    """Name under models/diffusion_models of the dialect's safetensors file."""
    folder = base / "models" / "diffusion_models"
    (folder / name).mkdir()
    path = ZOO[name].write(digits, folder / name / f"{name}.safetensors")
    return str((path if path.is_file() else next(path.glob("*.safetensors"))).relative_to(folder))


@pytest.fixture(scope="module")
def digits(base) -> dict:
    return load_file(base / "models" / "diffusion_models" / "digits-flux2-bf16.safetensors")


@pytest.mark.parametrize("name", DIALECTS)
def test_forward(measured, name):
    row = measured[name]
    assert "refused" not in row, row
    allowed = ALLOWED.get(name) or ALLOWED.get(ZOO[name].format, 0.06)
    assert row["error"] <= allowed
    assert row["gemm"] is None or row["gemm"] <= allowed


def test_the_fp8_gemm_was_run_for_the_scales_it_takes(measured):
    """Per tensor and per row; blocks, groups, fnuz codes and core's own formats have none on a CPU."""
    ran = {name for name in DIALECTS if measured[name]["gemm"] is not None}
    assert {"ltx", "lightx2v-rows", "quanto-alone", "kijai-e5m2", "flux-fp8-api", "plain-e4m3"} <= ran


@pytest.mark.parametrize("name", DIALECTS)
def test_report_names_the_dialect(measured, name):
    row = measured[name]
    assert row["dialect"] and row["dialect"] in row["report"]
    assert re.search(ZOO[name].words, row["report"], re.IGNORECASE)


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_is_one_sentence_that_names_the_file(measured, name):
    sentence = measured[name]["refused"]
    assert sentence.startswith("Refused: ")
    assert re.search(ZOO[name].words, sentence)
    assert "\n" not in sentence
    assert ".safetensors" in sentence
