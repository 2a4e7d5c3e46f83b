"""LTX's dialect, sampled: every way to compute stays beside bf16, where core makes noise (1.56)."""

from __future__ import annotations

import pytest

MEASURED = {"auto-dynamic": "latents", "scaled_mm-static": "velocity", "upcast-dynamic": "latents"}
WAYS = tuple(MEASURED)


@pytest.fixture(scope="module")
def sampled(contract, figure) -> dict:
    figures = contract("sampling", ways=WAYS)
    for way in WAYS:
        figure(f"{MEASURED[way]} of the LTX dialect, {way}: {figures[way]['error']:.4f} from bf16")
    return figures


@pytest.mark.parametrize("way", WAYS)
def test_numbers(sampled, way):
    assert sampled[way]["error"] <= 0.03


@pytest.mark.parametrize("dtype", ["torch.float16", "torch.bfloat16"])
def test_compute_dtype_is_the_users_choice(sampled, dtype):
    assert sampled[dtype]["error"] <= 0.05


def test_model_never_reads_as_fp8_and_stays_small(sampled):
    dtypes = sampled["dtypes"]
    assert "float8" not in dtypes["model"] + dtypes["inference"]
    # every Linear of the blocks at one byte a weight, the rest as it was
    assert dtypes["bytes"] < 0.65 * dtypes["bf16_bytes"]


def test_report_says_how_activations_are_scaled(sampled):
    assert "dynamic" in sampled["scaled_mm-dynamic"]["report"]
    assert "static" in sampled["scaled_mm-static"]["report"]
    assert "static" not in sampled["scaled_mm-dynamic"]["report"]
