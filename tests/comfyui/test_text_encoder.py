"""LoadFP8TextEncoder on CLIP-L (random weights, real names and shapes)."""

from __future__ import annotations

from pathlib import Path

import pytest
from text_encoders import TEXT_ENCODERS as DIALECTS

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def encoded(contract, clip_l, figure) -> dict:
    figures = contract("text_encoder", files=clip_l)
    for name, row in figures.items():
        if name == "prefixed":
            continue
        figure(f"CLIP-L {name}: conditioning {row['error']:.3g} from bf16, core {row.get('core')}")
    return figures


@pytest.mark.parametrize("name", DIALECTS)
def test_conditioning(encoded, name):
    # 0.026 of rounding in each weight, through 12 untrained layers
    assert encoded[name]["error"] <= 0.09
    assert encoded[name]["steady"]


def test_same_as_the_weights_dequantized_by_hand(encoded):
    assert encoded["by hand"]["error"] <= 0.005


def test_core_makes_noise_of_an_unmarked_file(encoded):
    assert encoded["ltx-bare"]["core"] > 0.5


def test_core_drops_the_scales_of_a_clip_l_in_its_own_format(encoded):
    """CLIP's Linears are built without core's mixed precision, which alone knows what a marker says."""
    assert encoded["comfy-marker"]["core"] > 0.5


def test_the_row_of_the_readme_is_what_is_measured(encoded):
    row = next(line for line in README.read_text().splitlines() if "in CLIP-L, -G, -H" in line)
    core, here = (float(cell.strip(" *")) for cell in row.split("|")[2:4])
    measured = encoded["comfy-marker"]
    assert (core, here) == pytest.approx((measured["core"], measured["error"]), rel=0.05)


def test_a_file_that_is_not_quantized_is_loaded_as_it_is(encoded):
    assert encoded["bf16"]["error"] <= 1e-5


@pytest.mark.parametrize("name", DIALECTS)
def test_report_lists_every_layer(encoded, name):
    report = encoded[name]["report"]
    assert all(f"layers.{i}.mlp.fc2" in report for i in range(12))


@pytest.mark.parametrize(
    "stem", ["text_encoders.clip_l.transformer.", "cond_stage_model.transformer.", "text_encoder."]
)
def test_names_of_the_checkpoint_that_it_was_taken_out_of(encoded, stem):
    assert encoded["prefixed"][stem] is True


def test_what_is_no_text_encoder_is_refused_in_one_sentence(encoded):
    """Core takes it for a CLIP-L whose weights are all missing."""
    sentence = encoded["prefixed"]["no.encoder."]
    assert sentence.startswith("Refused: prefixed.safetensors: holds no text encoder") and "\n" not in sentence
