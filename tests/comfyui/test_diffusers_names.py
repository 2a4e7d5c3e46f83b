"""Diffusers' separate q, k and v, each with its own scale, become ComfyUI's one qkv with a scale for each row."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def figures(contract) -> dict:
    return contract("diffusers_names")


@pytest.mark.parametrize("stored", ["per-tensor", "per-row"])
def test_fused_weights_keep_their_values_and_stay_scaled(figures, figure, stored):
    got = figures[stored]
    figure(f"diffusers names, {stored}: scaled_mm {got['scaled_mm']:.4f}, upcast {got['upcast']:.4f}")
    assert got["exact"]
    assert got["granularity"] == "per-row"
    assert got["upcast"] <= 0.01
    assert got["scaled_mm"] <= 0.06


@pytest.mark.parametrize("stored", ["swapped per-tensor", "swapped per-row"])
def test_halves_that_change_places_take_their_scales_along(figures, stored):
    got = figures[stored]
    assert len(got["scaled"]) == 2
    assert got["of"] > 20
    # bf16 of the reference rounds
    assert got["off"] <= 0.004


def test_core_renames_without_the_scales_so_that_none_are_written_unasked(figures):
    """Where core keeps them, it has learnt it: then the refusal goes."""
    got = figures["converted"]
    assert got["said"].startswith("Refused: ComfyUI core drops the scales of a model with diffusers' names")
    assert "\n" not in got["said"] and "Save Quantized Model" in got["said"]
    assert got["core"] > 0.5 and got["here"] <= 0.06
