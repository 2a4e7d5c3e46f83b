"""Narrow builds of every text encoder of this ComfyUI, in every class of dialect, beside core on what the file means.

The default is a slice; SCALED_FP8_FAMILIES=all takes every encoder and dialect, "SDXL,Qwen 3 4B" those.
"""

from __future__ import annotations

import pytest
from small_encoders import DROPPED_BY_CORE, ENCODERS
from sweeps import WISH, Bound, asked

DIALECTS = ("marker", "header", "ltx", "rows", "blocks", "cast") if WISH else ("marker", "ltx", "cast")
NAMES = asked(ENCODERS, (*DROPPED_BY_CORE, "UMT5-XXL", "Qwen 3 4B", "Llama 3 8B"))
DROPPED = tuple(name for name in DROPPED_BY_CORE if name in NAMES)
# up to 64 layers of rounded weights
BOUND = Bound("conditioning", 0.03)


@pytest.fixture(scope="module")
def swept(sweep, figure) -> dict:
    answered = sweep("encoders", NAMES, DIALECTS)
    figures = answered["figures"]
    figure(f"text encoders: {BOUND.summary(figures)}")
    for name in DROPPED:
        core, here = figures[name]["marker"]["core"], figures[name]["marker"]["weights"]
        figure(f"{name} in core's own format: a weight is {core:.0f} times its size off in core, {here:.4f} here")
    return answered


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", NAMES)
def test_right(swept, name, dialect):
    assert not BOUND.wrong(swept["figures"][name][dialect])


@pytest.mark.parametrize("name", DROPPED)
def test_core_drops_the_scales_of_its_own_format(swept, name):
    """Where this fails, core has learnt it: then the README's sentence about it goes."""
    assert swept["figures"][name]["marker"]["core"] > 10


@pytest.mark.parametrize("name", NAMES)
def test_conversion_knows_what_core_drops(swept, name):
    """It refuses to write these, and inspect names them."""
    case = swept["figures"][name]["marker"]
    assert case["told"] == (case["core"] > 10)


def test_every_encoder_of_this_comfyui_was_looked_at(swept):
    assert not swept["new"], "add it to ENCODERS, or with the reason to TOO_LARGE"
