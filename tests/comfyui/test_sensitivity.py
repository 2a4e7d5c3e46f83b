"""Measure Sensitivity in a real ComfyUI, against layers that are really quantized; steps in high precision."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def figures(contract) -> dict:
    return contract("sensitivity")


def test_stopped_it_keeps_what_it_measured_and_goes_on_there(figures):
    assert "InterruptProcessingException" in figures["stopped"]
    assert figures["left"] == [".json"]
    assert figures["hooks"] == 0
    assert "2 of them measured before" in figures["report"]
    assert figures["files"] == [".safetensors"]
    assert "measured before" in figures["twice"]
    assert figures["untouched"]


def test_every_block_has_a_factor_and_a_blocks_layers_share_it(figures):
    measured = {name: factor for name, factor in figures["factors"].items() if factor is not None}
    blocks = {name.rsplit(".", 2)[0] if "double" in name else name.rsplit(".", 1)[0] for name in measured}
    assert len(blocks) >= 2
    assert len(set(measured.values())) == len(blocks)
    assert all(factor > 0 for factor in measured.values())


def test_factors_are_added_to_a_calibration(figures):
    assert figures["all layers"] >= 10
    assert figures["added to"][0] == figures["added to"][1]


def test_with_a_calibration_each_format_has_a_level(figures, figure):
    assert "InterruptProcessingException" in figures["stopped late"]
    assert figures["left late"] == ["json", "levels.json", "safetensors"]
    assert "18 runs, 16 of them measured before" in figures["resumed"]
    assert figures["files late"] == ["safetensors", "safetensors"]
    levels = figures["levels"]
    figure(
        "errors of all layers at once over those told of each: " + ", ".join(f"{f} {x:.2f}" for f, x in levels.items())
    )
    assert set(levels) == {"nvfp4", "int4", "int8", "float8_e4m3fn"}
    # every layer was measured in NVFP4, and errors of layers add in squares
    assert 0.85 < levels["nvfp4"] < 1.15
    assert all(0.5 < level < 2 for level in levels.values())


def test_a_factor_predicts_what_quantizing_the_layer_does_to_the_image(figures, figure):
    predicted, measured = figures["predicted"], figures["measured"]
    figure(f"one layer in NVFP4: predicted {predicted:.5f}, measured {measured:.5f}")
    assert "measured sensitivity" in figures["of what"]
    # of one image, of which the calibration held out none
    assert measured / 2 < predicted < measured * 2


def test_steps_in_high_precision_compute_as_upcast_does(figures, figure):
    off = figures["steps"]
    shown = ", ".join(f"{steps.strip() or 'none'} {value:.5f}" for steps, value in off.items())
    figure(f"FP8 GEMM beside upcast in three steps, by those in high precision: {shown}")
    assert off["first 3"] < 1e-5 < off["first 1, last 1"] < off[""]
    assert off[" First 2 , last 9 "] == off["first 3"]
    assert off["first 1"] < off[""]
    assert off["last 1"] < off[""]
    assert figures["changed back"]


def test_the_report_says_which_steps(figures):
    assert figures["said"] == "Steps whose activations are not rounded: first 1, last 2."


def test_there_is_no_second_copy_of_the_weights(figures):
    assert figures["bytes"][0] == figures["bytes"][1]


@pytest.mark.parametrize("text", ["first two", "first 1, first 2", "first -1", "middle 1"])
def test_steps_that_are_not_understood_are_refused(figures, text):
    assert figures["refusals"][text] == (
        f'Refused: high_precision_steps {text!r} is not understood; say for example "first 2, last 1".'
    )
