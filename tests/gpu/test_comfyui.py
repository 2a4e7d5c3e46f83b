"""A FLUX.2 model sampled inside ComfyUI on a GPU, with dynamic VRAM as its main.py has it."""

from __future__ import annotations

import math
import time

import pytest

from benchmarks import comfyui
from benchmarks.models import TINY
from benchmarks.parts.linears import decibels
from benchmarks.parts.step import WAYS, every_way, write_both

pytestmark = pytest.mark.skipif(comfyui.absent() is not None, reason="no ComfyUI was found: set COMFYUI_PATH to one")


def test_weights_are_streamed_and_the_latents_are_the_models(tmp_path):
    base = comfyui.make_base(tmp_path / "base")
    write_both(base / "models" / "diffusion_models", TINY, "cuda")
    asked = {"device": "cuda", "side": 16, "text": 64, "context": TINY.context, "steps": 1, "rounds": 1}
    answers, missing = every_way(base, asked, time.monotonic() + 600)
    assert not missing
    truth = answers["bf16"][1]
    for name in (way.name for way in WAYS[1:]):
        answer, latents = answers[name]
        found = decibels(latents, truth)
        assert found is not None and math.isfinite(found)
        if name == comfyui.OURS:
            assert answer["dynamic"], "comfy-aimdo does not work here: nothing was streamed"
            assert found >= 20, answer["ran"]
