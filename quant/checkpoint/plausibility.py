"""Numeric checks on codes and scales: what a header cannot show. All sampled, all deterministic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import AGAIN


@dataclass(frozen=True)
class Limit:
    """A threshold with the reason it has this value."""

    value: float
    reason: str


LIMITS = {
    "std": Limit(1.0, "weights of a Linear have std 0.01 to 0.1; codes without their scale 26 (LTX) to 176"),
    "narrow_std": Limit(16.0, "divided by sqrt(in): layers with few inputs have larger weights, at 16 inputs std 4"),
    "max": Limit(64.0, "plain casts rarely exceed 8, heavy tails reach 60"),
    "max_std": Limit(0.25, "with it a large maximum is an outlier of a sound layer, not a lost scale"),
    "exempt_std": Limit(16.0, "embeddings and modulation are large by design; absmax codes are larger still"),
    "low_std": Limit(0.01, "divided by sqrt(in): a tenth of the smallest trained layers: scaled twice, or divided"),
    "tiny_exempt": Limit(1e-4, "the same for layers that start at zero, and for residuals; one of zeros is sound"),
    "outlier": Limit(1e4, "the largest weight of any trained layer is some hundreds"),
    "beyond": Limit(0.01, "share of -8 in symmetric 4-bit codes; it is 1/16 in the low halves of INT8 bytes"),
    "sides": Limit(32, "codes between the means of both signs: few for floats, 60 to 120 for INT8 bytes"),
    "few": Limit(64, "fewer elements than this say nothing about std"),
    "all_groups": Limit(0.99, "absmax scaling puts a top code into every group that shares a scale"),
    "some_groups": Limit(0.9, "an axis below this is not the one that the scales run along"),
    "seam": Limit(0.6, "block std varies less under the right grid; about equal means that the grids agree"),
    "amax_low": Limit(0.5, "smallest amax of activations that a calibrated input_scale can mean"),
    "amax_high": Limit(5e4, "largest amax of activations that a calibrated input_scale can mean"),
}  # fmt: skip


NAN_CODES = (
    "its codes hold NaN or infinity, which a scaled cast never writes: damaged, or bits of another FP8 format; " + AGAIN
)


def limit(name: str) -> float:
    return LIMITS[name].value


@dataclass(frozen=True)
class Sample:
    """Some values of a weight before (raw) and after (scaled) its scale: float32 ``[n]`` each.

    whole: the same with what is added to them, where something is.
    """

    raw: Tensor
    scaled: Tensor
    whole: Tensor | None = None

    @property
    def zero(self) -> bool:
        return not bool(self.raw.any())


def bad_scale(scale: Tensor, zeros: bool = False) -> str:
    """What is wrong with scales in any shape, "" for nothing; zeros: a zero is sound (blocks of zeros)."""
    found = bad_factor(scale, zeros)
    return f"a scale {found}; {AGAIN}" if found else ""


def bad_factor(values: Tensor, zeros: bool = False) -> str:
    """What is unsound in anything of a file that multiplies, as what completes its name; "" for nothing."""
    values = values.float()
    if not bool(torch.isfinite(values).all()):
        return "is NaN or infinite"
    if bool((values < 0).any()):
        return "is negative"
    if not zeros and bool((values == 0).any()):
        return "is zero (float16 underflow, or never filled in)"
    return ""


def bad_codes(raw: Tensor) -> str:
    return "" if bool(torch.isfinite(raw).all()) else NAN_CODES


def holds_nan(codes: Tensor) -> bool:
    """Whether float8_e4m3fn codes hold a NaN: the top code of fnuz bits that were relabelled."""
    # so small that torch starts no threads, which wait for each other on a busy machine
    pieces = codes.reshape(-1).view(torch.uint8).split(1 << 15)
    return any(int((piece & 0x7F).max()) == 0x7F for piece in pieces if piece.numel())


def implausible(values: Tensor, inputs: int, exempt: bool = False, low: bool = True) -> str:
    """Why values ``[n]`` cannot be weights of a Linear with so many inputs, "" when they can.

    exempt: a layer that is large or nearly zero by design; low: whether too small is a reason.
    """
    if not bool(torch.isfinite(values).all()):
        return "NaN or infinite values"
    if values.numel() < limit("few") or not bool(values.any()):
        return ""
    std, largest = float(values.double().pow(2).mean().sqrt()), float(values.abs().max())
    root = max(inputs, 1) ** 0.5
    if exempt and std > limit("tiny_exempt") / root:
        return f"std {std:.3g}" if std > limit("exempt_std") and largest > limit("max") else ""
    if std > max(limit("std"), limit("narrow_std") / root):
        return f"std {std:.3g}, far above the 0.01 to 0.1 of weights"
    if largest > limit("max") and std > limit("max_std"):
        return f"max {largest:.3g} at std {std:.3g}"
    small = low and std < limit("low_std") / root
    return f"std {std:.3g}, far below that of trained layers" if small else ""


def negligible(values: Tensor, inputs: int) -> bool:
    """Whether values ``[n]`` are not zeros but far below any part of a weight that was worth its codes."""
    std = float(values.double().pow(2).mean().sqrt())
    return 0 < std < limit("tiny_exempt") / max(inputs, 1) ** 0.5


def top_fractions(magnitude: Tensor, slack: int = 0) -> tuple[float, float]:
    """Fraction of the rows and columns of code magnitudes ``[r, c]`` that come within slack codes of the top one."""
    # the top that is used, not the format's: some producers stop at 240, or lower
    top = int(magnitude.max()) - slack
    return reaching(magnitude.amax(1), top), reaching(magnitude.amax(0), top)


def reaching(amax: Tensor, top: int) -> float:
    used = amax[amax > 0]
    return float((used >= top).float().mean()) if used.numel() else 0.0


def magnitudes(codes: Tensor) -> Tensor:
    """Codes of one byte as uint8 that grow with the magnitude of their values."""
    return codes.abs().view(torch.uint8) if codes.dtype == torch.int8 else codes.view(torch.uint8) & 0x7F


def scaled_axis(codes: Tensor) -> str:
    """How a file's codes ``[r, c]`` show which axis has scales of its own: "rows", "columns" or "" for undecided."""
    magnitude = magnitudes(codes)
    # scales rounded to bf16 leave some groups one code below the top
    for slack in (0, 1):
        rows, columns = top_fractions(magnitude, slack)
        if max(rows, columns) >= limit("all_groups") and min(rows, columns) < limit("some_groups"):
            return "rows" if rows > columns else "columns"
    return ""


def block_std(raw: Tensor, rows: int, cols: int) -> Tensor:
    """Root mean square of each whole tile of raw ``[r, c]``: ``[r // rows, c // cols]``."""
    m, n = raw.shape[0] // rows, raw.shape[1] // cols
    tiles = raw[: m * rows, : n * cols].reshape(m, rows, n, cols)
    return tiles.pow(2).mean(dim=(1, 3)).sqrt()


def roughness(spread: Tensor, scale: Tensor) -> float:
    """How wrong a file's block scales look over its codes: the variance of log(std) over the scaled blocks.

    Rows and columns of blocks may differ in size, as outputs and inputs do: their means are taken out first.
    """
    tiny = torch.finfo(torch.float32).tiny
    size = (spread * scale[: spread.shape[0], : spread.shape[1]]).clamp(min=tiny).log()
    rest = size - size.mean(0, keepdim=True) - size.mean(1, keepdim=True) + size.mean()
    return float(rest.var()) if min(rest.shape) > 1 else 0.0


def smoother(spread: Tensor, first: Tensor, second: Tensor) -> str:
    """Which of two readings of the scales suits block stds better: "first", "second" or "" for undecided."""
    a, b = roughness(spread, first), roughness(spread, second)
    if a < limit("seam") * b:
        return "first"
    return "second" if b < limit("seam") * a else ""


def plausible_input_scale(scale: Tensor, weight_scale: Tensor, maximum: float) -> bool:
    """Whether a file's input_scale is a calibrated amax / maximum, not one of the known placeholders."""
    if scale.numel() != 1:
        return False
    value = float(scale.float().reshape(()))
    copied = weight_scale.numel() == 1 and value == float(weight_scale)
    # NaN fails the comparison
    return value != 1.0 and not copied and limit("amax_low") <= value * maximum <= limit("amax_high")


# largest magnitude byte that absmax scaling leaves in each format
TOP_BYTES = {0x7E: "float8_e4m3fn", 0x7B: "float8_e5m2", 0x7F: "float8_e4m3fnuz"}


def byte_format(codes: Tensor) -> str | None:
    """Name of the FP8 format that absmax-scaled bytes hold, by the largest; None when they could be several."""
    if not symmetric(codes):
        return None
    name = TOP_BYTES.get(int((codes & 0x7F).max()))
    # the only NaN of fnuz, the negative zero of the others
    return None if name == "float8_e4m3fnuz" and bool((codes == 0x80).any()) else name


def symmetric(codes: Tensor) -> bool:
    """Whether bytes of both signs are alike in magnitude, as floats are; whole numbers have 255 for -1."""
    return sides(codes)[0] < limit("sides")


def contradicted(codes: Tensor, whole: bool) -> bool:
    """Whether both signs of bytes are alike only by the other reading than the file's: whole numbers, or floats."""
    floats, numbers = sides(codes)
    stated, other = (numbers, floats) if whole else (floats, numbers)
    return stated >= limit("sides") > other


def sides(codes: Tensor) -> tuple[float, float]:
    """Codes between the mean magnitudes of both signs of bytes ``[n]``: taken for floats, and for whole numbers.

    Zeros have no sign; of few codes of a sign nothing is said: (0, 0).
    """
    above, below = codes[(codes > 0) & (codes < 0x80)].float(), codes[codes > 0x80].float()
    if min(above.numel(), below.numel()) < limit("few") / 2:
        return 0.0, 0.0
    up, down = float(above.mean()), float(below.mean())
    return abs(down - 0x80 - up), abs(0x100 - down - up)
