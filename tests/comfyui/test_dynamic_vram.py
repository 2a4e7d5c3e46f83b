"""Dynamic VRAM, ComfyUI's default on NVIDIA: each layer gets its own bytes, whatever ran before on the same model."""

from __future__ import annotations

import pytest

CHANGES = 20  # of method; without places given back there is room for 18
LAYERS = 14
CASES = ["healing", "quantizing", "LoRA without this pack"]


@pytest.fixture(scope="module")
def dynamic(contract, figure) -> dict:
    figures = contract("dynamic_vram", changes=CHANGES)
    for case in CASES:
        figure(f"dynamic VRAM, {case}: relative errors {figures[case]['errors']}")
    return figures


@pytest.mark.parametrize("case", CASES)
def test_every_order_streams_the_same_bytes(dynamic, case):
    assert dynamic[case]["dynamic"]
    assert dynamic[case]["wrong"] == {}


def test_what_is_streamed_is_right(dynamic):
    assert dynamic["healing"]["errors"]["noise"] > 0.5
    assert dynamic["healing"]["errors"]["upcast"] <= 0.06
    assert dynamic["quantizing"]["errors"]["fp8"] <= 0.06


def test_changing_the_method_again_and_again_costs_nothing(dynamic, figure):
    changed = dynamic["many changes"]
    figure(f"dynamic VRAM, {CHANGES} changes of method: {changed}")
    assert changed["same"]
    # what one round of the methods took is all that is ever taken, and only the last two models hold weights
    assert changed["used"][1] <= 1.2 * changed["used"][0] <= changed["room"]
    assert changed["holding"] <= 2 * LAYERS
