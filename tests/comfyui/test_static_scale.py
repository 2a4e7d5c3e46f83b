"""What a calibration's input_scale is worth to plain ComfyUI's FP8 product, which scales activations by 1 without."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def found(contract) -> dict:
    return contract("static_scale")


def test_core_quantizes_activations_in_each(found: dict) -> None:
    assert found["calls"] == 6
    assert "input_scale" in found["keys"]


@pytest.mark.parametrize("kind", ["small", "large", "usual"])
def test_with_the_static_scale_the_product_is_right_whatever_the_activations(found: dict, kind: str, figure) -> None:
    one = found["dB"][kind]
    figure(
        f"core's FP8 product, {kind} activations: {one['with']:.1f} dB with input_scale, {one['without']:.1f} without"
    )
    assert one["with"] > 25


@pytest.mark.parametrize("kind", ["small", "large"])
def test_without_it_core_loses_most_of_them(found: dict, kind: str) -> None:
    assert found["dB"][kind]["without"] < 15
