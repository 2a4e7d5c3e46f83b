"""What a layer's signal to quantization noise means: noise or rounding, and its colour, the same in every picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf, isfinite, isnan

from ..text import few, text_table

NOISE_DB = 3.0  # half of the signal's energy: no format rounds like that, dropped scales do
NARROWEST = 12.0  # dB that the colours span at least, so that layers which are alike look alike
SHOWN = 5  # layers in a sentence
# dark blue over teal to yellow, lighter the better: told apart without colour vision. web/colours.mjs has the same
RAMP = ((48, 44, 110), (38, 92, 140), (30, 141, 138), (96, 188, 98), (246, 221, 74))
NOISE_COLOUR = "#c62828"


def is_noise(decibel: float) -> bool:
    """Whether this is no rounding: less than NOISE_DB, or not a number."""
    return isnan(decibel) or decibel < NOISE_DB


def span(decibels: Iterable[float]) -> tuple[float, float]:
    """The dB of both ends of the ramp: what is neither noise nor free of error, and at least NARROWEST apart."""
    known = [value for value in decibels if isfinite(value) and not is_noise(value)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    spare = max(0.0, NARROWEST - (high - low)) / 2
    return low - spare, high + spare


def colour_of(decibel: float, ends: tuple[float, float]) -> str:
    """NOISE_COLOUR, or the ramp's between both ends; without an error its last."""
    if is_noise(decibel):
        return NOISE_COLOUR
    low, high = ends
    return ramp(1.0 if decibel == inf else (decibel - low) / (high - low))


def ramp(share: float) -> str:
    """Colour of a share 0..1 of the ramp, as #rrggbb."""
    at = min(1.0, max(0.0, share)) * (len(RAMP) - 1)
    low, high = RAMP[int(at)], RAMP[min(int(at) + 1, len(RAMP) - 1)]
    mixed = (int(a + (b - a) * (at % 1) + 0.5) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def noise_sentence(errors: Mapping[str, float]) -> str:
    """Which layers of those with a SQNR are noise, "" where none is."""
    noisy = [layer for layer, decibel in errors.items() if is_noise(decibel)]
    if not noisy:
        return ""
    return (
        f"{len(noisy)} of {len(errors)} layers are noise, below {NOISE_DB:g} dB, as where scales were dropped: "
        f"{few(noisy, SHOWN)}."
    )


def error_table(errors: Mapping[str, float]) -> str:
    """One line a layer, the worst first."""
    worst = sorted(errors, key=lambda layer: -inf if isnan(errors[layer]) else errors[layer])
    return text_table(("layer", "signal to quantization noise"), [(layer, shown(errors[layer])) for layer in worst])


def shown(decibel: float) -> str:
    """A SQNR for people: "31.4 dB", "identical"."""
    return "identical" if decibel == inf else f"{decibel:.1f} dB"
