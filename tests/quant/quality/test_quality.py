"""A report as a value: there and back through JSON, as people read it, and what is no report."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nan

import pytest
from scaled_fp8.quant import METRICS, LayerError, Quality, Refused, Side

LAYERS = (
    LayerError("blocks.0.q", (64, 32), "bfloat16", "float8_e4m3fn per-row", 31.5, 0.0266),
    LayerError("blocks.1.q", (64, 32), "bfloat16", "bfloat16", inf, 0.0),
    LayerError("blocks.2.q", (64, 32), "bfloat16", "float8_e4m3fn per-row", -54.0, 500.0),
)
QUALITY = Quality(
    Side("a.safetensors", "3 bfloat16", 12288, 0.5, 1.5, 10**9),
    Side("b.safetensors", "2 float8_e4m3fn per-row, 1 bfloat16", 8192),
    {"psnr": inf, "latent_error": 0.0206},
    (0.001, 0.01, 0.0206),
    LAYERS,
    "outputs",
    ("B was loaded in part.",),
    {"seed": "7"},
    {"torch": "2.13"},
    "cpu",
)


def test_a_report_comes_back_from_json():
    text = json.dumps(QUALITY.to_json(), allow_nan=False)
    assert Quality.from_json(json.loads(text)) == QUALITY


def test_a_report_says_which_layers_are_noise():
    assert "1 of 3 layers of b.safetensors are noise" in QUALITY.noise and "blocks.2.q" in QUALITY.noise
    assert "blocks.0.q" not in QUALITY.noise and QUALITY.table().startswith(QUALITY.noise)
    assert replace(QUALITY, layers=LAYERS[:2]).noise == ""
    assert replace(LAYERS[0], sqnr_db=nan).noise


def test_the_table_has_every_figure_and_the_worst_layer_first():
    table = QUALITY.table()
    assert "PSNR: identical" in table and "0.0206" in table and "first step 1.5 s" in table
    rows = [line.split()[0] for line in table.splitlines() if line.startswith("blocks")]
    assert rows == ["blocks.2.q", "blocks.0.q", "blocks.1.q"]


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_what_identical_models_have_is_said_in_words(metric):
    assert metric.shown(metric.same) == "identical"
    assert metric.shown(0.5) != "identical"


DAMAGED = {
    "no object": [],
    "none": None,
    "empty": {},
    "another version": QUALITY.to_json() | {"scaled_fp8_quality": 99},
    "unknown metric": QUALITY.to_json() | {"metrics": {"beauty": 1.0}},
    "metric that is no number": QUALITY.to_json() | {"metrics": {"psnr": "high"}},
    "steps that are a word": QUALITY.to_json() | {"steps": "123"},
    "layers that are numbers": QUALITY.to_json() | {"layers": [1, 2]},
    "side without a name": QUALITY.to_json() | {"a": {}},
    "side that is a list": QUALITY.to_json() | {"a": []},
    "measured by nobody": QUALITY.to_json() | {"measured": ["weights"]},
    "metrics that are a list": QUALITY.to_json() | {"metrics": []},
    "number too large for a float": QUALITY.to_json() | {"steps": [10**400]},
}


@pytest.mark.parametrize("found", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_report_is_refused(found):
    with pytest.raises(Refused, match="run the comparison again"):
        Quality.from_json(found)
