"""Scaled models in core's nodes that ask for every tensor of one: merges, LoRAs extracted, LoRAs hooked to prompts.

Core's own quantized layers answer some of these with AttributeError or AssertionError (ComfyUI 0.33).
"""

from __future__ import annotations

import pytest

# from the bf16 model's: what the formats' rounding is, in test_quantize.py
BOUNDS = {"loaded": 0.03, "fp8-dynamic": 0.03, "block": 0.03, "int8": 0.015, "nvfp4": 0.15}


@pytest.fixture(scope="module")
def found(contract, figure) -> dict:
    figures = contract("merges", dynamic=False)
    for name, row in figures["models"].items():
        figure(f"merges and hooks, {name}: {row}")
    return figures


@pytest.mark.parametrize("way", ["first", "second"])
@pytest.mark.parametrize("name", BOUNDS)
def test_merged_with_another_model(found, name, way):
    assert found["models"][name][way] < BOUNDS[name]


@pytest.mark.parametrize("name", BOUNDS)
def test_a_lora_hooked_to_a_prompt_is_on_and_off_again(found, name):
    assert found["effects"]["hooked"] > 0.1
    assert found["models"][name]["hooked"] < 1.5 * BOUNDS[name]
    assert found["models"][name]["again"]


@pytest.mark.parametrize("name", BOUNDS)
def test_a_lora_can_be_extracted_beside_it(found, name):
    """Of two models as far apart as FP8 rounds: beside the file dequantized, whose bf16 is a tenth of that."""
    assert found["models"][name]["extracted"] < 0.3
