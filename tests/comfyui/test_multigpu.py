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
DEVICES = {False: ("cpu", "cpu:1"), True: ("cpu:1", "cpu:2")}
node = pytest.mark.parametrize("node", NODES)


@pytest.fixture(scope="module", params=[False, True], ids=["legacy", "dynamic VRAM"])
def dynamic(request) -> bool:
    return request.param


@pytest.fixture(scope="module")
def told(contract, clip_l, dynamic) -> dict:
    return contract("multigpu", file=clip_l["ltx-bare"], plain="clip_l.safetensors", dynamic=dynamic)


def only_without_a_card(dynamic: bool) -> None:
    if dynamic:
        pytest.skip("the stand-in for a card runs diffusion models alone")


@node
def test_cfg_split_computes_what_one_device_does(told, dynamic, node):
    figures = told["split"][node]
    assert figures["dynamic"] is dynamic and figures["factory"]
    assert figures["error"] < ROUNDING and figures["again"]


@node
def test_each_device_has_its_own_layers_plan_and_counts(told, dynamic, node):
    figures = told["split"][node]
    here, there = figures["layers"]
    assert here == there > 0 and figures["shared"] == 0
    assert figures["planned"] == [[device] for device in DEVICES[dynamic]] and figures["told"]
    # two runs of so many steps, one of two prompts a device
    assert figures["calls"] == [[2 * STEPS], [2 * STEPS]]


@node
def test_the_model_itself_stays_as_it_was(told, node):
    assert told["split"][node]["alone"] and told["split"][node]["state"]


@node
def test_select_model_device(told, dynamic, node):
    figures = told["moved"][node]
    there = DEVICES[dynamic][1]
    assert figures["device"] == there and figures["planned"] == [there]
    assert figures["same"] and figures["again"] and figures["back"] and figures["home"] and figures["state"]


@node
def test_a_lora_before_or_behind_the_choice_of_a_device_is_the_same(told, node):
    assert told["moved"][node]["lora"] == [True, True] and told["moved"][node]["beside"]


@node
def test_select_the_cpu(told, node):
    if node not in told["pinned"]:
        pytest.skip("core's own model does not run on the CPU beside a stand-in for a card")
    assert told["pinned"][node] == {"device": "cpu", "same": True, "home": True}


def test_patches_on_another_device_do_not_see_each_other(told):
    assert told["apart"]["wrong"] == []


def test_what_is_quantized_after_the_split_is_carried_over_and_planned_there(told, dynamic):
    assert told["late"]["error"] < ROUNDING and told["late"]["again"]
    assert told["late"]["planned"] == [DEVICES[dynamic][1]]


def test_what_is_changed_and_run_again_on_both_is_what_it_is_alone(told):
    assert told["changing"]["wrong"] == []
    # the model on the other device is loaded once
    assert told["changing"]["models"] == 1


def test_changes_leave_nothing_on_the_other_device(told, dynamic):
    used = told["many changes"]["used"]
    assert bool(used[-1]) is dynamic
    # what one round of the methods took is all that is ever taken
    assert used[-1] <= 1.2 * used[1]


@pytest.mark.parametrize("kind", ["loaded", "quantized"])
def test_select_clip_device(told, dynamic, kind):
    only_without_a_card(dynamic)
    there = DEVICES[dynamic][1]
    assert told["encoder"][kind] == {"device": there, "planned": [there], "same": True, "home": True}


def test_select_vae_device(told, dynamic):
    only_without_a_card(dynamic)
    found = told["autoencoder"]
    assert found.pop("device") == DEVICES[dynamic][1]
    assert all(found.values()), found


def test_a_text_encoder_runs_where_its_loader_is_told(told, dynamic):
    only_without_a_card(dynamic)
    assert told["encoder"]["pinned"] and told["encoder"]["planned"] == ["cpu"] and told["encoder"]["same"]
