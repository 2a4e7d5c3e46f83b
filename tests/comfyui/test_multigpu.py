"""ComfyUI's own multi-GPU nodes with this pack's models: two devices, each with its own layers, plan and counts."""

from __future__ import annotations

import pytest

NODES = (
    "LoadFP8Checkpoint",
    "ScaledLinearPatch",
    "ScaledLinearPatch, int8",
    "QuantizeModel",
)
STEPS = 1
ROUNDING = 2e-3  # of sums over one prompt instead of two


@pytest.fixture(scope="module")
def told(contract, clip_l) -> dict:
    return contract("multigpu", file=clip_l["ltx-bare"], plain="clip_l.safetensors")


@pytest.mark.parametrize("node", NODES)
def test_cfg_split_computes_what_one_device_does(told, node):
    figures = told["split"][node]
    assert figures["factory"] and figures["error"] < ROUNDING and figures["again"]


@pytest.mark.parametrize("node", NODES)
def test_each_device_has_its_own_layers_plan_and_counts(told, node):
    figures = told["split"][node]
    here, there = figures["layers"]
    assert here == there > 0 and figures["shared"] == 0
    assert figures["planned"] == [["cpu"], ["cpu:1"]] and figures["told"]
    # two runs of so many steps, one of two prompts a device
    assert figures["calls"] == [[2 * STEPS], [2 * STEPS]]


@pytest.mark.parametrize("node", NODES)
def test_the_model_itself_stays_as_it_was(told, node):
    assert told["split"][node]["alone"] and told["split"][node]["state"]


@pytest.mark.parametrize("node", NODES)
def test_select_model_device(told, node):
    figures = told["moved"][node]
    assert figures["device"] == "cpu:1" and figures["planned"] == ["cpu:1"]
    assert figures["same"] and figures["back"]


def test_what_is_quantized_after_the_split_is_carried_over(told):
    assert told["late"]["error"] < ROUNDING and told["late"]["again"]


@pytest.mark.parametrize("kind", ["loaded", "quantized"])
def test_select_clip_device(told, kind):
    assert told["encoder"][kind] == {"device": "cpu:1", "same": True}


def test_a_text_encoder_runs_where_its_loader_is_told(told):
    assert told["encoder"]["pinned"] and told["encoder"]["same"]
