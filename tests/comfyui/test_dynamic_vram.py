"""Dynamic VRAM, ComfyUI's default on NVIDIA: each layer gets its own bytes, whatever ran before on the same model."""

from __future__ import annotations

import pytest

CASES = ["healing", "quantizing", "LoRA without this pack"]


@pytest.fixture(scope="module")
def dynamic(contract, figure) -> dict:
    figures = contract("dynamic_vram")
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
