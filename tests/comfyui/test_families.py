"""Small builds of every architecture of this ComfyUI, in every class of dialect, beside core on what the file means.

The default is a slice; SCALED_FP8_FAMILIES=all takes every architecture and dialect, "Flux,SDXL" those.
"""

from __future__ import annotations

import pytest
from architectures import SMALL, TOO_LARGE
from sweeps import WISH, Bound, asked

WRITTEN_HERE = ("saved", "converted")
DIALECTS = ("marker", "header", "ltx", "rows", "blocks", "cast") if WISH else ("ltx", "cast")
DIALECTS += WRITTEN_HERE
# No biases, tables and gates beside Linears, sizes in the header, names of its own, split weights.
SLICE = ("AuraFlow", "CosmosT2V", "CosmosT2IPredict2", "HiDream", "LTXV", "SDXL", "HunyuanVideo", "PixelDiTT2I")
NAMES = asked(SMALL, SLICE)
# rounded weights twice, through every layer
BOUND = Bound("forward", 0.02)


@pytest.fixture(scope="module")
def swept(sweep, figure) -> dict:
    answered = sweep("families", NAMES, DIALECTS)
    figure(f"small builds of architectures: {BOUND.summary(answered['figures'])}")
    return answered


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", NAMES)
def test_right(swept, name, dialect):
    if name not in swept["figures"]:
        pytest.skip(f"this ComfyUI has no {name}")
    case = swept["figures"][name][dialect]
    assert not BOUND.wrong(case) and "error" in case


@pytest.mark.parametrize("name", NAMES)
def test_what_is_dequantized_is_named(swept, name):
    """Of the weights that a file has in FP8, those that no layer holds scaled are in the report."""
    for dialect, case in swept["figures"].get(name, {}).items():
        if dialect not in WRITTEN_HERE and case["kept"] < case["of"]:
            assert "Dequantized while loading" in case["report"], dialect


def test_every_architecture_of_this_comfyui_was_looked_at(swept):
    assert not swept["new"], "add it to SMALL, or with the reason to TOO_LARGE"
    assert not set(SMALL) & set(TOO_LARGE)
