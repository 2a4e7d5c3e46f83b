"""A LoRA on a text encoder in low VRAM, once the encoder was loaded whole: core drops it, this pack's encoders keep it.

ComfyUI 0.33 marks every layer of a text encoder, which computes in float32, as cast at use when it loads it whole
(`force_cast_weights` in ModelPatcher.load), takes the mark off only where something was left in low VRAM
(`unpatch_model`), and next time skips marked layers, their LoRA among what is skipped.
"""

from __future__ import annotations

import pytest

OURS = ("Load FP8 Text Encoder", "Quantize Text Encoder")
WAYS = ("after whole", "again", "whole again")
# a LoRA is merged into 16 bits, or into FP8 through three layers, and in low VRAM added in full precision
ROUNDED = {"core": 0.02, "Load FP8 Text Encoder": 0.15, "Quantize Text Encoder": 0.15}


@pytest.fixture(scope="module")
def moved(contract, figure) -> dict:
    figures = contract("low_vram_encoder", dynamic=False)
    for name, found in figures.items():
        figure(f"text encoder behind a LoRA in low VRAM, {name}: {found}")
    return figures


def test_core_drops_the_lora_of_an_encoder_that_was_loaded_whole(moved):
    """Where this fails, core has learnt it: then `nodes/host/casting.py` goes."""
    found = moved["core"]
    assert found["after whole"] == pytest.approx(found["effect"], rel=1e-3)
    assert found["whole again"] == pytest.approx(found["effect"], rel=1e-3)
    assert found["again"] < ROUNDED["core"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", OURS)
def test_this_packs_encoders_keep_it(moved, name, way):
    assert moved[name]["effect"] > 1
    assert moved[name][way] < ROUNDED[name]
    assert moved[name][way] == moved[name]["again"]
