"""Calibrate Model and Save Calibration in a real ComfyUI: the image is the same bit for bit, the sums are right."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def figures(contract) -> dict:
    return contract("calibration")


def test_an_image_of_four_is_held_out_with_its_prompt_and_without(figures):
    """An image has 16 tokens, and guidance draws it twice."""
    assert figures["held out"] == {"0123": [2 * 3 * 16, True], "03": [2 * 2 * 16, False]}


def test_watching_changes_not_one_bit(figures):
    assert all(figures["same"].values()), figures["same"]
    assert {"bf16", "merged", "bypass", "fp8", "scaled patch", "nvfp4 of core"} <= figures["same"].keys()
    assert figures["untouched"]


def test_sums_are_those_of_what_the_layer_was_fed(figures):
    assert figures["moments"] < 1e-5
    assert figures["amax"]
    assert figures["rows"][0] == figures["rows"][1] > 0
    assert figures["dtype"] == "torch.float32"


def test_runs_add_up(figures):
    assert figures["steps"] == [1, 2]
    assert figures["prompts"] == [1, 2]
    assert figures["added rows"] == 2 * figures["rows"][0]
    assert "1 steps of 1 samplings" in figures["report"]
    assert figures["loaded steps"] == 2
    assert "2 steps of 2 samplings" in figures["loaded"]


def test_the_first_sampling_tells_how_much_each_layer_matters(figures, figure):
    ratios = figures["predicted"].values()
    figure(f"calibration: image's error of single layers, predicted / measured: {min(ratios):.2f} to {max(ratios):.2f}")
    assert figures["factors"] == 14
    # three steps, three of other noise, the same disturbed, one more undisturbed and one for each layer; then no more
    assert figures["calls"] == [3 * 3 + 1 + 14, 3 * 3 + 1 + 14 + 3]
    assert all(0.6 < ratio < 1.6 for ratio in ratios), figures["predicted"]
    assert figures["hooks after it"] == 0
    assert "of 14 layers" in figures["sensed"]


def test_without_memory_for_the_sensitivity_all_else_is_kept(figures):
    assert figures["without memory"] == [3, True, 0]


def test_memory_is_bounded_and_the_report_says_how(figures):
    assert "in blocks of 256 inputs" in figures["blocks"]
    assert figures["bytes"] <= 0.012e9


def test_a_stopped_sampling_leaves_nothing_behind(figures):
    assert "InterruptProcessingException" in figures["stopped"]
    assert figures["ran"] == 1
    assert figures["hooks"] == 0
    assert "Nothing was seen yet" in figures["after stopping"]
    assert figures["left"] == []
    assert figures["again"] == 1


def test_what_cannot_be_saved_is_one_sentence(figures):
    assert "does not watch" in figures["not watched"]
    assert "Nothing was seen yet" in figures["nothing new"]
    assert "Nothing was seen yet" in figures["of a quantized clone"]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("NaN", "were fed NaN"),
        ("name", "is not the name of a file"),
        ("memory", "allow more"),
        ("memory below zero", "no number of gigabytes"),
        ("compiled", "A compiled model cannot be watched"),
        ("absent", "no calibration of that name"),
        ("another model", "had other weights"),
        ("other shapes", "take the calibration of this model"),
        ("unknown layers", "knows none of this model's layers"),
        ("with NaN", "what double_blocks.0.img_attn.qkv was fed"),
        ("damaged", "damaged.safetensors"),
        ("no calibration", "is no calibration"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(figures, what, said):
    assert figures["refusals"][what].startswith("Refused: ")
    assert said in figures["refusals"][what]
    assert "\n" not in figures["refusals"][what]
    assert figures["whole"]
