"""Calibrate, save, measure, quantize for a budget, save: in a real ComfyUI, and the file in one without this pack."""

from __future__ import annotations

import pytest

METHODS = ("nvfp4", "fp8-weight-only")
BUDGETS = ("7 bits", "5.5 bits")
LEFT = 0.85  # of the error, by calibrating on other seeds


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("latents")


@pytest.fixture(scope="module")
def figures(contract, latents) -> dict:
    return contract("precision", methods=list(METHODS), budgets=list(BUDGETS), latents=str(latents))


@pytest.fixture(scope="module")
def core(contract, figures, latents) -> dict:
    return contract("quantized_by_core", files=list(figures["files"]), latents=str(latents), steps=2, digits="03")


def test_watching_changes_not_one_bit(figures):
    assert figures["watched"] and figures["with LoRA"]
    assert figures["untouched"] and figures["untouched at last"]


def test_runs_add_up(figures):
    assert figures["added"] == 2 * figures["steps"] == 4
    assert figures["rows"][1] == 2 * figures["rows"][0]
    assert "2 steps of 1 samplings" in figures["report"]


@pytest.mark.parametrize("method", METHODS)
def test_calibration_lowers_the_error_on_seeds_it_has_not_seen(figures, figure, method):
    without, calibrated = figures["errors"][method]
    figure(f"QuantizeModel {method}: latents {without:.4f} off, calibrated {calibrated:.4f}")
    assert calibrated < LEFT * without


def test_a_budget_is_better_the_larger_it_is(figures, figure):
    errors = [figures["budgets"][budget]["error"] for budget in BUDGETS]
    figure(f"budgets {BUDGETS}: latents {errors[0]:.4f} and {errors[1]:.4f} off")
    assert errors[0] < errors[1] < figures["errors"]["nvfp4"][1]
    assert "bits a weight" in figures["budgets"]["7 bits"]["report"]


def test_what_is_saved_is_the_same_bit_for_bit_in_core_without_this_pack(core):
    assert not core["pack"]
    assert set(core["errors"].values()) == {0.0}


def test_sensitivity_is_measured_by_block(figures):
    blocks = {name.rsplit(".", 2)[0]: factor for name, factor in figures["factors"].items() if factor is not None}
    assert len(blocks) >= 4
    assert all(factor > 0 for factor in blocks.values())
    assert "measured sensitivity" in figures["measured"]


def test_steps_in_high_precision_round_no_activations(figures, figure):
    off = figures["steps"]
    shown = ", ".join(f"{steps or 'none'} {value:.4f}" for steps, value in off.items())
    figure(f"FP8 GEMM beside upcast, by steps in high precision: {shown}")
    assert off["first 1, last 1"] < 1e-4 < off["last 1"] < off[""]
    assert off["first 1"] < off[""]
    assert "first 2, last 1" in figures["steps refused"]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("other", "had other weights"),
        ("damaged", "damaged.safetensors"),
        ("absent", "no such file"),
        ("2 bits", "are possible"),
        ("100 bits", "are possible"),
        ("seven", "is not understood"),
    ],
)
def test_bad_input_is_one_sentence(figures, what, said):
    assert said in figures["refusals"][what]
    assert "\n" not in figures["refusals"][what]


def test_what_cannot_be_watched_is_one_sentence(figures):
    assert "does not watch" in figures["not watched"]
    assert "Nothing was seen yet" in figures["nothing new"]
    assert "is not the name of a file" in figures["name"]
