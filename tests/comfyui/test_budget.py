"""Quantize Model for a budget in a real ComfyUI, and what is saved of it in one without this pack."""

from __future__ import annotations

import pytest

MIXED = ("7 bits", "5 bits", "no data")


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("latents")


@pytest.fixture(scope="module")
def figures(contract, latents) -> dict:
    return contract("budget", latents=str(latents))


@pytest.fixture(scope="module")
def core(contract, figures, latents) -> dict:
    files = list(figures["files"])
    return contract("quantized_by_core", files=files, latents=str(latents), steps=1, digits="03")


def test_calibration_lowers_the_error_on_a_seed_that_it_has_not_seen(figures, figure):
    without, calibrated = figures["errors"]["nvfp4"], figures["errors"]["nvfp4 calibrated"]
    figure(f"QuantizeModel nvfp4, a few layers: latents {without:.4f} off, calibrated {calibrated:.4f}")
    assert calibrated < 0.85 * without


def test_a_larger_budget_is_better_and_takes_more(figures, figure):
    errors, sizes = figures["errors"], figures["bytes"]
    figure(f"budgets of 7 and 5 bits, a few layers: latents {errors['7 bits']:.4f} and {errors['5 bits']:.4f} off")
    assert errors["7 bits"] < errors["5 bits"] < errors["nvfp4"]
    assert sizes["nvfp4"] < sizes["5 bits"] < sizes["7 bits"]


def test_a_size_is_kept(figures):
    got, most = figures["size"]
    assert figures["bytes"]["nvfp4"] < got <= most


def test_the_report_has_the_plan_and_its_curve(figures):
    for name in MIXED:
        assert "bits a weight" in figures["reports"][name]
        assert "predicted error" in figures["reports"][name]
        assert "uniform" in figures["reports"][name]
        assert "double_blocks.0.img_attn.qkv" in figures["reports"][name]
    assert "measured sensitivity" in figures["reports"]["7 bits"]
    assert "errors of weights" in figures["reports"]["no data"]
    assert "budget error 0.001" in figures["reports"]["error"]
    assert "granularity per-row is not used" in figures["reports"]["by rows"]
    assert figures["pictures"]


def test_a_comparison_tells_predicted_beside_measured(figures):
    report, predicted, measured = figures["compared"]
    assert f"predicted an error of {predicted:.4f}; measured is {measured:.4f}" in report


def test_a_calibration_on_few_tokens_is_said_to_promise_too_much(figures):
    assert "saw fewer tokens than they have inputs" in figures["reports"]["7 bits"]
    assert "saw fewer tokens" not in figures["reports"]["no data"]


def test_the_panel_is_told_each_planned_layer_in_decibels(figures):
    errors = {layer["layer"]: layer["error"] for layer in figures["told"] if layer["error"] is not None}
    assert errors
    kinds = [point["kind"] for point in figures["curve"]]
    assert kinds.count("chosen") == 1
    assert {"mixed", "uniform"} <= set(kinds)
    # as amplitudes, of which squares add up to the predicted error's
    total = sum(10 ** (-decibels / 10) for decibels in errors.values()) ** 0.5
    assert total == pytest.approx(figures["predicted"], rel=1e-6)


def test_what_is_cancelled_leaves_nothing_behind(figures):
    assert [said.partition(":")[0] for said in figures["cancelled"]] == ["InterruptProcessingException"] * 3
    assert figures["left"] == []
    assert figures["still planned"]


def test_formats_that_a_device_computes_wrong_are_left_out(figures):
    assert figures["works"].keys() == {"nvfp4", "int4", "int8", "float8_e4m3fn"}
    assert set(figures["works"].values()) == {""}
    for name in ("nvfp4", "int4", "int8"):
        assert f"{name} is left out: its layer is" in figures["reports"]["left out"]
    assert "float8_e4m3fn is left out" not in figures["reports"]["left out"]


def test_what_is_saved_is_the_same_bit_for_bit_in_core_without_this_pack(core):
    assert not core["pack"]
    assert len(core["errors"]) == len(MIXED)
    assert set(core["errors"].values()) == {0.0}, core["errors"]


def test_the_model_it_came_from_is_untouched(figures):
    assert figures["untouched"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("2 bits int8", "are possible"),
        ("100 bits int8", "are possible"),
        ("1 KB int8", "are possible"),
        ("9 GB int8", "are possible"),
        ("error 7 int8", "are possible"),
        ("seven int8", "is not understood"),
        ("7 bits int9", "int9"),
    ],
)
def test_bad_input_is_one_sentence(figures, asked, said):
    assert figures["refusals"][asked].startswith("Refused: ")
    assert said in figures["refusals"][asked]
    assert "\n" not in figures["refusals"][asked]
