"""Text encoders and VAEs are first class: exact, reported and shown as models are."""

from __future__ import annotations

import pytest

# method -> the most that conditioning of a CLIP-L with random weights may be off: FP8 rounds each weight by 0.026, and
# that through 12 untrained layers is 0.076; INT8 rounds by a third of it
BOUNDS = {"fp8-weight-only": 0.09, "int8": 0.05, "none": 0.0}
# "" is what the node does by itself; int8 rounds the activations too
COMPUTES = {"": 0.09, "int8": 0.12}
ERRORS = {
    "double_blocks.0.img_attn.qkv": "31.5", "double_blocks.0.txt_attn.qkv": "-48", "double_blocks.0.img_mlp.0": "inf",
    "single_blocks.0.linear1": "nan", "single_blocks.0.linear2": "40",
}  # fmt: skip


@pytest.fixture(scope="module")
def found(contract, clip_l) -> dict:
    file = clip_l["ltx-bare"]
    return contract("parts", clip=list(BOUNDS), compute=[*COMPUTES, "scaled_mm"], file=file, errors=ERRORS)


@pytest.mark.parametrize("method", BOUNDS)
def test_conditioning_of_a_quantized_text_encoder(found, figure, method):
    got = found["clip"]["methods"][method]
    figure(f"QuantizeTextEncoder {method}, CLIP-L: conditioning {got['error']:.4f} from bf16")
    assert got["error"] <= BOUNDS[method]
    assert found["clip"]["untouched"]


@pytest.mark.parametrize("compute", COMPUTES)
def test_conditioning_by_each_compute(found, figure, compute):
    got = found["compute"][compute]
    figure(f"LoadFP8TextEncoder {compute or 'by default'}, CLIP-L: conditioning {got['error']:.4f} from bf16")
    assert got["error"] <= COMPUTES[compute]


def test_a_text_encoder_is_upcast_unless_asked_and_says_why(found):
    kernels = {name: {kernel for _, kernel, _ in got["rows"]} for name, got in found["compute"].items()}
    assert all(kernel.startswith("upcast") for kernel in kernels[""])
    assert all("int8" in kernel for kernel in kernels["int8"])
    assert all(kernel.startswith("scaled_mm") for kernel in kernels["scaled_mm"])
    assert "once a prompt" in found["compute"][""]["said"] and "once a prompt" not in found["compute"]["int8"]["said"]


def test_a_decoded_picture_of_a_quantized_vae(found, figure):
    figure(f"QuantizeVAE int8: decoded pictures of digits, PSNR {found['vae']['psnr']:.1f} dB from bf16")
    # eight bits a weight: well below what eight bits a pixel show, 59 dB, is asked of no quantized VAE
    assert found["vae"]["psnr"] > 35
    assert found["vae"]["untouched"]


@pytest.mark.parametrize("part", ["clip", "vae"])
def test_the_report_has_memory_kernels_and_what_was_done(found, part):
    got = found["vae"] if part == "vae" else found["clip"]["methods"]["fp8-weight-only"]
    said = got["said"]
    assert "layers quantized" in said and "memory: " in said and "GB resident" in said and "free on" in said
    assert "layers: upcast" in said or "layers: scaled_mm" in said
    assert all(layer in said for layer, _, _ in got["rows"])


@pytest.mark.parametrize("part", ["clip", "vae"])
def test_fp8_report_takes_a_text_encoder_and_a_vae(found, part):
    got, original = (found["vae"], found["vae"]["original"]) if part == "vae" else (
        found["clip"]["methods"]["fp8-weight-only"], found["clip"]["original"]
    )  # fmt: skip
    assert got["part"] == part.upper() and got["key"] == f"7 {part.upper()}"
    assert len(got["rows"]) > 10 and all(layer in got["table"] for layer, _, _ in got["rows"])
    assert got["image"][0] == 1 and got["image"][3] == 3
    assert original["rows"] == []


def test_the_calls_of_a_text_encoder_are_counted(found):
    # one prompt, and the empty one that ComfyUI adds where prompts are weighted
    assert all(calls >= 1 for _, _, calls in found["clip"]["methods"]["fp8-weight-only"]["rows"])


def test_what_has_no_layers_is_refused_in_one_sentence(found):
    assert found["refused"].startswith("Refused: model: int ") and "\n" not in found["refused"]
    assert found["files"]


def test_measured_errors_are_shown_and_noise_is_named(found):
    got = found["measured"]
    shown = {row["layer"]: (row["error"], row["noise"]) for row in got["layers"] if row["error"] is not None}
    assert shown == {
        "double_blocks.0.img_attn.qkv": (31.5, False), "double_blocks.0.txt_attn.qkv": (-48.0, True),
        "double_blocks.0.img_mlp.0": ("inf", False), "single_blocks.0.linear1": ("nan", True),
        "single_blocks.0.linear2": (40.0, False),
    }  # fmt: skip
    assert "2 of 5 layers are noise" in got["table"] and "identical" in got["table"]
    assert "single_blocks.0.linear2" in {row["layer"] for row in got["layers"] if row["kernel"] == "high precision"}
    # two maps, one below the other
    assert got["image"][1] > 1.5 * got["plain"][1]


def test_errors_hold_for_the_patches_they_were_measured_with(found):
    got = found["measured"]
    assert got["clone"] == got["patched"] == got["lora"] == 0
