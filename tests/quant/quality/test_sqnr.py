"""The scale of errors: noise is told from rounding, and the ramp can be read without colour vision."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from scaled_fp8.quant import FORMATS, PerTensor, quantize
from scaled_fp8.quant.quality.sqnr import (
    NARROWEST,
    NOISE_COLOUR,
    RAMP,
    colour_of,
    is_noise,
    noise_sentence,
    ramp,
    shown,
    span,
)  # fmt: skip


def decibels(got: torch.Tensor, want: torch.Tensor) -> float:
    return (20 * torch.log10(want.norm() / (got - want).norm())).item()


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "int8"])
def test_rounding_is_no_noise_and_dropped_scales_are(name: str) -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1)) * 0.02
    found = quantize(weight, FORMATS[name], PerTensor())
    assert not is_noise(decibels(found.dequantize(torch.float32), weight))
    assert is_noise(decibels(found.codes.float(), weight))


def test_what_is_no_number_is_noise_and_what_is_the_same_is_not() -> None:
    assert is_noise(nan) and is_noise(-inf) and not is_noise(inf)
    assert colour_of(nan, (0, 1)) == NOISE_COLOUR and colour_of(inf, (0, 1)) == ramp(1)
    assert shown(inf) == "identical" and shown(31.44) == "31.4 dB"


def linear(colour: str) -> tuple[float, float, float]:
    """Red, green and blue light of #rrggbb, of sRGB."""
    parts = [value / 255 for value in bytes.fromhex(colour[1:])]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return red, green, blue


def luminance(colour: str) -> float:
    """Of WCAG 2."""
    return sum(share * light for share, light in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def test_the_ramp_grows_in_lightness_evenly_enough_to_be_read_in_grey() -> None:
    found = [luminance(ramp(i / 100)) for i in range(101)]
    assert all(a < b for a, b in zip(found, found[1:], strict=False))
    # CIE 1976 lightness, of 100
    light = [116 * value ** (1 / 3) - 16 for value in found]
    assert all(light[i + 25] - light[i] > 10 for i in range(0, 76, 25))
    assert [ramp(i / 4) for i in range(5)] == ["#" + bytes(stop).hex() for stop in RAMP]


def seen_without_red_or_green(colour: str) -> tuple[float, ...]:
    """As a deuteranope sees it: Vienot, Brettel and Mollon 1999, table 3, in linear light."""
    red, green, blue = linear(colour)
    mixed = 0.29275 * red + 0.70725 * green
    return mixed, mixed, -0.02234 * red + 0.02234 * green + blue


def test_noise_is_unlike_every_colour_of_the_ramp_without_red_and_green() -> None:
    noise = seen_without_red_or_green(NOISE_COLOUR)
    for share in range(101):
        here = seen_without_red_or_green(ramp(share / 100))
        assert max(abs(a - b) for a, b in zip(noise, here, strict=True)) > 0.05, share


def test_ends_are_those_of_the_rounding_and_never_close_together() -> None:
    assert span([20.0, 45.0, -30.0, inf, nan]) == (20.0, 45.0)
    low, high = span([30.0, 31.0])
    assert high - low == NARROWEST and low + high == 61.0
    assert span([]) == span([inf]) == span([-9.0])


def test_the_sentence_names_the_layers() -> None:
    errors = {f"b.{i}.q": -20.0 for i in range(7)} | {"in": 31.0, "out": inf}
    said = noise_sentence(errors)
    assert said.startswith("7 of 9 layers are noise") and "b.0.q" in said and "and 2 more" in said and "in," not in said
    assert noise_sentence({"in": 31.0}) == noise_sentence({}) == ""
