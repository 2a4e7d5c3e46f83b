"""Change something and run again, many times over: always what a fresh ComfyUI makes of the same workflow."""

from __future__ import annotations

import os

import pytest

# a quick slice by default; CI walks 1,000 changes
STEPS = int(os.environ.get("SCALED_FP8_WALK", "30"))


# to be understood: seen with seed 2026 at the 28th of 30 changes, with the same kernels in every layer of both
OFF = "a bypass LoRA after Scaled Linear Patch and Quantize Model is 1.5e-6 off what a fresh ComfyUI makes of it"
REGIMES = [
    pytest.param(False, id="legacy memory", marks=pytest.mark.xfail(reason=OFF, strict=False)),
    pytest.param(True, id="dynamic VRAM"),
]


@pytest.mark.parametrize("dynamic", REGIMES)
def test_every_state_is_that_of_a_fresh_comfyui(contract, figure, dynamic):
    walked = contract("walk", dynamic=dynamic, steps=STEPS, seed=2026)
    where = "dynamic VRAM" if dynamic else "legacy memory"
    figure(f"walk of {STEPS} changes, {where}: {walked['counts']}, {walked['differences']} differences")
    assert sum(walked["counts"].values()) == STEPS
    assert walked["counts"]["ran"] > STEPS / 2
    assert walked["wrong"] == []
