"""What stands beside diffusion models: core drops its scales, or refuses the file, so none is written."""

from __future__ import annotations

import pytest

# what a file is -> what it is called
DROPPED = {
    "CLIP vision": "an image encoder",
    "DINOv2": "an image encoder",
    "DINOv3": "an image encoder",
    "wav2vec 2.0": "an audio encoder",
    "Whisper": "an audio encoder",
    "GLIGEN": "a GLIGEN",
    "LoRA": "a LoRA",
    "LoRA by diffusers": "a LoRA",
}
NOT_LOADED = {"Redux": "a style model", "SigLIP projector": "a model patch"}


@pytest.fixture(scope="module")
def found(contract) -> dict:
    return contract("side_models")


@pytest.mark.parametrize(("name", "title"), DROPPED.items())
def test_core_drops_the_scales_and_none_are_written(found, figure, name, title):
    """Where this fails, core has learnt it: then the refusal goes."""
    got = found[name]
    assert got["said"].startswith(f"Refused: ComfyUI core drops the scales of {title}, without an error; leave it")
    figure(f"{name} in core's own format: a weight is {got['off']:.0f} times its size off in core")
    assert got["quantized"] and got["off"] > 10


@pytest.mark.parametrize(("name", "title"), NOT_LOADED.items())
def test_core_does_not_load_a_file_with_scales_and_none_are_written(found, name, title):
    got = found[name]
    assert got["said"].startswith(f"Refused: ComfyUI core does not load {title} that has scales; leave it")
    assert got["quantized"] and "Unexpected key(s) in state_dict" in got["problem"]


def test_a_t2i_adapter_has_convolutions_only_and_stays_as_it_is(found):
    assert found["T2I adapter"] == {"said": "", "quantized": 0, "off": 0.0}
