"""Float8 weights on a CPU: codes to floats by integer arithmetic, in slabs that stay in its cache.

A float8's exponent and mantissa lie under those of a wider float once they are shifted; what is left is a power of
two, the difference of the exponents' biases. Subnormal codes become subnormal numbers, so that they are right too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.granularity import Granularity, PerBlock
from ..weights.weight import QuantizedWeight
from .storage import Memo


class Coding(NamedTuple):
    """A float8's mantissa bits and exponent bias; a code is no number where ``code & mask == nan``."""

    mantissa: int
    bias: int
    mask: int
    nan: int


class Wide(NamedTuple):
    """A wider float's mantissa bits and exponent bias, and the integers of its size."""

    mantissa: int
    bias: int
    integers: torch.dtype


CODINGS = {
    torch.float8_e4m3fn: Coding(3, 7, 0x7F, 0x7F),
    torch.float8_e5m2: Coding(2, 15, 0x7C, 0x7C),
    torch.float8_e4m3fnuz: Coding(3, 8, 0xFF, 0x80),
    torch.float8_e5m2fnuz: Coding(2, 16, 0xFF, 0x80),
}
WIDE = {torch.bfloat16: Wide(7, 127, torch.int16), torch.float32: Wide(23, 127, torch.int32)}
# 512 rows of 3072 inputs: as bfloat16 three MiB
SLAB = 512 * 3072
# elements of the output that are float32 at a time, 1.5 MiB of them
PIECE = SLAB // 4


def upcast_by_bits(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """``x @ W.T + bias``; W without rotation or smoothing. The scales that rows have multiply the output."""
    # tensors without data, of a tracer, cannot be looked into
    if torch.compiler.is_compiling() or type(weight.codes) is not Tensor or not all_numbers(weight.codes):
        return F.linear(x, weight.dequantize(x.dtype), bias)
    # float16 has not the range for sums of codes
    wide = x.to(torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32)
    return scaled_(unscaled(wide, weight), output_scale(weight), bias).to(x.dtype)


def unscaled(x: Tensor, weight: QuantizedWeight) -> Tensor:
    """``x @ (W / output_scale).T`` in x's dtype, holding no output twice but that of a slab."""
    parts = slabs(weight, x.dtype)
    if weight.shape[0] <= slab_rows(weight):
        return F.linear(x, next(parts))
    y = x.new_empty(len(x), weight.shape[0])
    for columns, values in zip(y.split(slab_rows(weight), 1), parts, strict=True):
        columns.copy_(F.linear(x, values))
    return y


def scaled_(y: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """``y * scale + bias`` in place: in float32, of as many tokens at a time as stay in the cache."""
    for tokens in y.split(max(1, PIECE // y.shape[1])):
        single = tokens * scale
        tokens.copy_(single if bias is None else single.add_(bias))
    return y


def slab_rows(weight: QuantizedWeight) -> int:
    step = weight.granularity.rows if isinstance(weight.granularity, PerBlock) else 1
    return max(1, SLAB // weight.shape[1] // step) * step


def slabs(weight: QuantizedWeight, dtype: torch.dtype) -> Iterator[Tensor]:
    """The weight over output_scale, some rows at a time, ``[rows, in]`` in dtype; exact but for blocks in bfloat16."""
    factor = 2.0 ** (WIDE[dtype].bias - CODINGS[weight.codes.dtype].bias)
    step = weight.granularity.rows if isinstance(weight.granularity, PerBlock) else 1
    rows = slab_rows(weight)
    for start in range(0, weight.shape[0], rows):
        values = fields(weight.codes[start : start + rows], dtype)
        if step == 1 and not isinstance(weight.granularity, PerBlock):
            yield values.mul_(factor)
        else:
            own = weight.scale[start // step : (start + rows) // step] / output_scale(weight)
            yield tiled(values, (own * factor).to(dtype), weight.granularity)


def fields(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """Codes as floats of dtype with sign, exponent and mantissa in their places."""
    mantissa, _, integers = WIDE[dtype]
    shift = mantissa - CODINGS[codes.dtype].mantissa
    moved = codes.view(torch.int8).to(integers).bitwise_left_shift_(shift)
    # the sign of the integer is the float's
    return moved.bitwise_and_(torch.iinfo(integers).min + (0x7F << shift)).view(dtype)


def tiled(values: Tensor, scale: Tensor, granularity: Granularity) -> Tensor:
    """Values ``[rows, in]`` times the scales of their blocks, in place."""
    (rows, inputs), (m, n) = values.shape, scale.shape
    if rows % m or inputs % n or (rows // m, inputs // n) != (granularity.rows, granularity.cols):  # type: ignore[union-attr]
        return values.mul_(granularity.expand(scale, (rows, inputs)))
    values.view(m, rows // m, n, inputs // n).mul_(scale.view(m, 1, n, 1))
    return values


def output_scale(weight: QuantizedWeight) -> Tensor:
    """What the output is multiplied by, float32 ``[1, out]`` or ``[1, 1]``: of blocks a power of two near the largest
    scale, by which nothing is rounded, so that some rows of a weight give what the whole gives."""
    if not isinstance(weight.granularity, PerBlock):
        return weight.scale.reshape(1, -1)
    largest = weight.scale.amax().clamp(min=torch.finfo(torch.float32).tiny).view(1, 1)
    return torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent)


##### Codes that are no numbers, whose bits would be read as large ones


NUMBERS: Memo[bool] = Memo()


def all_numbers(codes: Tensor) -> bool:
    """Whether no code is NaN or infinite; looked for once."""
    return NUMBERS.of(codes, lambda: not holds_nan(codes))


def holds_nan(codes: Tensor) -> bool:
    _, _, mask, nan = CODINGS[codes.dtype]
    pieces = codes.view(torch.uint8).split(max(1, SLAB // codes.shape[1]))
    return any(bool(((piece & mask) == nan).any()) for piece in pieces)
