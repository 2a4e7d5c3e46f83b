"""Small builds of every architecture of this ComfyUI, in every class of dialect, beside core on what the file means.

The default is a slice; SCALED_FP8_FAMILIES=all takes every architecture and dialect, "Flux,SDXL" those.
"""

from __future__ import annotations

import os

import pytest
from architectures import SMALL, TOO_LARGE

WISH = os.environ.get("SCALED_FP8_FAMILIES", "")
DIALECTS = ("marker", "header", "ltx", "rows", "blocks", "cast", "saved") if WISH else ("ltx", "cast", "saved")
# No biases, tables and gates beside Linears, sizes in the header, names of its own, split weights.
SLICE = ("AuraFlow", "CosmosT2V", "CosmosT2IPredict2", "HiDream", "LTXV", "SDXL", "HunyuanVideo", "PixelDiTT2I")
NAMES = tuple(SMALL) if WISH == "all" else tuple(name for name in SMALL if name in WISH.split(",")) or SLICE
# bf16 rounds a weight by at most 2^-9 of itself; a forward of it twice, through every layer
WEIGHT, FORWARD = 0.004, 0.02


@pytest.fixture(scope="module")
def swept(sweep, figure) -> dict:
    answered = sweep("families", NAMES, DIALECTS)
    cases = [case for found in answered["figures"].values() for case in found.values()]
    right = sum(not wrong(case) for case in cases)
    figure(
        f"small builds: {len(answered['figures'])} architectures in {len(DIALECTS)} ways: {right} of {len(cases)} right"
    )
    return answered


def wrong(case: dict) -> str:
    """What is wrong with a case, "" for nothing."""
    if "refused" in case:
        return case["refused"]
    if case["weights"] > WEIGHT:
        return f"{case['where']} is off by {case['weights']:.3g}"
    if not case["error"] <= FORWARD:
        return f"the forward is off by {case['error']:.3g}"
    return "; ".join(case["log"]) or ("" if case.get("settings", True) else "core knows it as another kind of model")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", NAMES)
def test_right(swept, name, dialect):
    if name not in swept["figures"]:
        pytest.skip(f"this ComfyUI has no {name}")
    assert not wrong(swept["figures"][name][dialect])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_dequantized_is_named(swept, name):
    """Of the weights that a file has in FP8, those that no layer holds scaled are in the report."""
    for dialect, case in swept["figures"].get(name, {}).items():
        if dialect != "saved" and case["kept"] < case["of"]:
            assert "Dequantized while loading" in case["report"], dialect


def test_every_architecture_of_this_comfyui_was_looked_at(swept):
    assert not swept["new"], "add it to SMALL, or with the reason to TOO_LARGE"
    assert not set(SMALL) & set(TOO_LARGE)
