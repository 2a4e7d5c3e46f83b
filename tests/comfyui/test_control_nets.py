"""Control nets: core drops their scales, so none is written; beside quantized models they work, made of these too."""

from __future__ import annotations

import pytest

NETS = (
    "SD15",
    "SDXL",
    "FLUX of XLabs",
    "SD 3.5",
    "SD 3.5 with the model's embedder",
    "Qwen-Image of InstantX",
    "Qwen-Image Fun",
)
MADE_OF_THE_MODEL = ("lora", "difference")
# core copies the model's embedder before anything else runs: codes of one byte for two weights do not fit there
PACKED = ("smoothed", "SD 3.5 with the model's embedder")
# rounded weights once, FP8 and NVFP4 with smoothed activations; INT8 rounds weights and activations
BOUNDS = {"loaded": 0.005, "smoothed": 0.005, "quantized": 0.02}


@pytest.fixture(scope="module")
def found(contract) -> dict:
    return contract("control_nets")


@pytest.mark.parametrize("name", NETS)
def test_core_drops_the_scales_of_a_control_net_and_none_is_written(found, name):
    """Where this fails, core has learnt it: then the refusal goes."""
    got = found["nets"][name]
    assert got["ltx"] > 10 and got["cast"] == 0
    assert "ComfyUI core drops the scales of a control net" in got["converted"] and "\n" not in got["converted"]


@pytest.mark.parametrize("name", NETS)
def test_core_reads_what_the_refusals_advise(found, name):
    assert found["nets"][name]["dequantized"] <= 0.004


@pytest.mark.parametrize("dialect", ["ltx", "cast"])
@pytest.mark.parametrize("name", NETS)
def test_a_control_net_is_no_diffusion_model(found, name, dialect):
    said = found["nets"][name][f"{dialect}, as a model"]
    assert said.startswith("Refused: ") and "is a control net, no diffusion model" in said and "\n" not in said


CASES = [(kind, control) for kind in BOUNDS for control in (*NETS, *MADE_OF_THE_MODEL, "T2I adapter")]


@pytest.mark.parametrize(("kind", "control"), [case for case in CASES if case != PACKED])
def test_a_quantized_model_samples_with_one_as_the_bf16_model_does(found, figure, kind, control):
    """Core makes a control LoRA, a difference and a part of SD 3.5's nets of the weights of the model."""
    got = found["beside"][f"{kind}, {control}"]
    figure(f"{control}, beside a model {kind}: {got['error']} from bf16, where its own effect is {got['effect']:.2f}")
    assert got["error"] <= BOUNDS[kind]
    assert got["effect"] > 0.1
    # and nothing of it is left in a net that the bf16 model samples with next
    assert got["again"] == 0


def test_an_embedder_of_packed_codes_is_an_error_in_core(found):
    """Where this fails, core has learnt it: then PACKED goes."""
    kind, control = PACKED
    assert "size mismatch for mlp.0.weight" in found["beside"][f"{kind}, {control}"]["error"]
