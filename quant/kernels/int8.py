"""FP8 weights for INT8 matrix units: encoded anew by rows, a layer at a time, where that costs next to nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import Refused
from ..weights.encode import quantize
from ..weights.formats import FORMATS, Format
from ..weights.fuse import in_rows, rows_of
from ..weights.granularity import PerRow
from ..weights.weight import QuantizedWeight
from .bits import CODINGS

# Without a rotation first: it costs a product with the activations
TARGETS = (FORMATS["int8"], FORMATS["int8_convrot"])
# dB by which the weight's noise may grow, and dB of signal to noise that the output must have
MOST_LOST, LEAST_SIGNAL = 0.7, 28.0
NAME = "FP8 file, run as INT8"
TOKENS, OUTPUTS = 64, 512

Judge = Callable[[QuantizedWeight], "str | None"]


def is_float8(format: Format) -> bool:
    """Whether a weight's codes are float8 with scales, of which INT8 can be made."""
    return format.dtype in CODINGS and format.name.startswith("float8")


def encode_int8(weight: QuantizedWeight, judge: Judge) -> tuple[QuantizedWeight | None, str]:
    """An FP8 weight as INT8, for INT8 GEMMs, and what that costs; or None and why not."""
    values, reasons = weight.dequantize(), []
    for format in TARGETS:
        try:
            candidate = quantize(values, format, PerRow())
        except Refused as problem:
            reasons.append(str(problem).rstrip("."))
            continue
        cost = decibels_lost(weight, values, candidate)
        reason = too_much(cost, format) or judge(candidate)
        if reason is None:
            name = f"{NAME} with ConvRot" if format.rotates else NAME
            return candidate, f"{name}, {cost:.2f} dB of the weight lost"
        reasons.append(reason)
    return None, f"not run as INT8: {'; '.join(reasons)}"


def too_much(cost: float, format: Format) -> str | None:
    if cost <= MOST_LOST:
        return None
    return f"{format.name} would lose {cost:.1f} dB of the weight, more than {MOST_LOST}"


def decibels_lost(weight: QuantizedWeight, values: Tensor, candidate: QuantizedWeight) -> float:
    """By how many dB the weight's noise grows, FP8's own being that of rounding to the steps of its codes."""
    added = (candidate.dequantize() - values).double().square_().sum()
    own = weight.granularity.expand(weight.scale, weight.shape).double() * steps(weight.codes)
    if weight.smooth is not None:
        own = own * weight.smooth
    return float(10 * torch.log10(1 + added / (own.square_().sum() / 12)))


def steps(codes: Tensor) -> Tensor:
    """The distance of each code's value to the next larger one, float32 of codes' shape."""
    mantissa, bias, _, _ = CODINGS[codes.dtype]
    values = codes.float()
    exponent = torch.where(values == 0, 2 - bias, torch.frexp(values).exponent).clamp_(min=2 - bias)
    return torch.ldexp(torch.ones_like(values), exponent - 1 - mantissa)


##### What the output keeps


def output_judge(
    weight: QuantizedWeight, run: Callable[[Tensor, QuantizedWeight], Tensor], dtype: torch.dtype
) -> Judge:
    """Refuses a candidate whose output has less than LEAST_SIGNAL for activations as models have them.

    run: (activations ``[tokens, in]``, candidate) -> output, by the kernel that will.
    """
    truth = spaced_rows(weight).dequantize()

    def judge(candidate: QuantizedWeight) -> str | None:
        part = spaced_rows(candidate)
        for name, x in activations(weight.shape[1], truth.device, dtype):
            want = x.float() @ truth.T
            signal = float(20 * torch.log10(want.norm() / (run(x, part).float() - want).norm()))
            if not signal >= LEAST_SIGNAL:
                return f"{candidate.format.name} leaves {signal:.1f} dB of the output for activations {name}"
        return None

    return judge


def activations(inputs: int, device: torch.device, dtype: torch.dtype) -> list[tuple[str, Tensor]]:
    """Seeded activations of three sizes, and with four channels 200 times the others."""
    normal = torch.randn(TOKENS, inputs, generator=torch.Generator().manual_seed(0))
    outliers = torch.cat((normal[:, :4] * 200, normal[:, 4:]), 1)
    kinds = {f"of std {std:g}": normal * std for std in (1e-3, 1.0, 300.0)} | {"with outlier channels": outliers}
    return [(name, x.to(device, dtype)) for name, x in kinds.items()]


def spaced_rows(weight: QuantizedWeight) -> QuantizedWeight:
    """The first rows of a weight; all where scales belong to blocks of them."""
    return rows_of(weight, 0, min(OUTPUTS, weight.shape[0])) if in_rows(weight) else weight
