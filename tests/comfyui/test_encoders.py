"""Narrow builds of every text encoder of this ComfyUI, in every class of dialect, beside core on what the file means.

The default is a slice; SCALED_FP8_FAMILIES=all takes every encoder and dialect, "SDXL,Qwen 3 4B" those.
"""

from __future__ import annotations

import os

import pytest
from small_encoders import DROPPED_BY_CORE, ENCODERS

WISH = os.environ.get("SCALED_FP8_FAMILIES", "")
DIALECTS = ("marker", "header", "ltx", "rows", "blocks", "cast") if WISH else ("marker", "ltx", "cast")
SLICE = (*DROPPED_BY_CORE, "UMT5-XXL", "Qwen 3 4B", "Llama 3 8B")
NAMES = tuple(ENCODERS) if WISH == "all" else tuple(name for name in ENCODERS if name in WISH.split(",")) or SLICE
DROPPED = tuple(name for name in DROPPED_BY_CORE if name in NAMES)
# bf16 rounds a weight by at most 2^-9 of itself; conditioning passes up to 64 layers of it
WEIGHT, CONDITIONING = 0.004, 0.03


@pytest.fixture(scope="module")
def swept(sweep, figure) -> dict:
    answered = sweep("encoders", NAMES, DIALECTS)
    figures = answered["figures"]
    cases = [case for found in figures.values() for case in found.values()]
    right = sum(not wrong(case) for case in cases)
    figure(f"text encoders: {len(figures)} in {len(DIALECTS)} ways: {right} of {len(cases)} right")
    for name in DROPPED:
        core, here = figures[name]["marker"]["core"], figures[name]["marker"]["weights"]
        figure(f"{name} in core's own format: a weight is {core:.0f} times its size off in core, {here:.4f} here")
    return answered


def wrong(case: dict) -> str:
    """What is wrong with a case, "" for nothing."""
    if "refused" in case:
        return case["refused"]
    if case["weights"] > WEIGHT:
        return f"{case['where']} is off by {case['weights']:.3g}"
    if case.get("error", 0) > CONDITIONING:
        return f"the conditioning is off by {case['error']:.3g}"
    return "; ".join(case["log"])


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", NAMES)
def test_right(swept, name, dialect):
    assert not wrong(swept["figures"][name][dialect])


@pytest.mark.parametrize("name", DROPPED)
def test_core_drops_the_scales_of_its_own_format(swept, name):
    """Where this fails, core has learnt it: then the README's sentence about it goes."""
    assert swept["figures"][name]["marker"]["core"] > 10


def test_every_encoder_of_this_comfyui_was_looked_at(swept):
    assert not swept["new"], "add it to ENCODERS, or with the reason to TOO_LARGE"
