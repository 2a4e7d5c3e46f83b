"""Core's Save Model, Save CLIP and Save VAE of what this pack quantized: right in core and here, or an error."""

from __future__ import annotations

import pytest

MODELS = (
    "loaded", "loaded as int8", "loaded, LoRA", "fp8-dynamic", "fp8-dynamic, LoRA", "LoRA, int8", "nvfp4",
)  # fmt: skip
CLIPS = ("loaded", "int8", "int8, LoRA", "nvfp4")
STATES = ("loaded", "evicted")


@pytest.fixture(scope="module")
def found(contract) -> dict:
    return contract("saved_by_core", dynamic=False)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_the_same_in_core_and_here(found, name):
    got = found["models"][name]
    assert got["core"] <= 1e-5 and got["here"] <= 1e-5


def test_what_core_does_not_know_it_refuses(found):
    got = found["models"]["fp8-dynamic per-row"]
    assert got["here"] <= 1e-5
    assert got["core"] == "KeyError: 'float8_e4m3fn_rowwise'"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", CLIPS)
def test_a_text_encoder_that_core_reads_without_scales_is_saved_as_values(found, name, state):
    got = found["encoders"][f"{name}, {state}"]
    # bf16 rounds what is dequantized
    assert got["core"] <= 0.004 and got["here"] <= 0.004
    assert got["again"] == 0


@pytest.mark.parametrize("state", STATES)
def test_a_vae_is_saved_as_values(found, state):
    got = found["vaes"][state]
    assert got["unknown"] == [] and got["dtypes"] == ["torch.float32"]
    # rounded to INT8 once
    assert got["moved"] > 3 and 0 < got["steps"] <= 0.51
    assert 0 < found["picture"] < 0.05
