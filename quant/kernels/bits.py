"""Float8 weights on a CPU: codes to floats by integer arithmetic, in slabs that stay in its cache.

A float8's exponent and mantissa lie under those of a wider float once they are shifted; what is left is a power of
two, the difference of the exponents' biases. Subnormal codes become subnormal numbers, so that they are right too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.granularity import Granularity, PerBlock
from ..weights.weight import QuantizedWeight
from .scratch import pieces, scratch
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
# 512 rows of 3072 inputs, as bfloat16 three MiB, for the product; how many a thread makes floats of at a time
SLAB = 512 * 3072
PIECE = SLAB // 2
# of the activations at a time, so that what they make of a slab stays in the cache too
TOKENS = 256
# tokens whose output is so small that to turn it costs less than it saves
FEW = 64


def upcast_by_bits(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """``x @ W.T + bias``; W without rotation or smoothing. The scales that rows have multiply the output."""
    # tensors without data, of a tracer, cannot be looked into
    if torch.compiler.is_compiling() or type(weight.codes) is not Tensor or not all_numbers(weight.codes):
        return F.linear(x, weight.dequantize(x.dtype), bias)
    # float16 has not the range for sums of codes
    wide = x.to(torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32)
    y, rows = x.new_empty(len(x), weight.shape[0]), slab_rows(weight)
    scales = pieces(output_scale(weight).expand(1, len(weight.codes)), rows, 1)
    biases = repeat(None) if bias is None else pieces(bias.float(), rows)
    for values, columns, scale, own in zip(slabs(weight, wide.dtype), pieces(y, rows, 1), scales, biases, strict=False):
        for tokens, out in zip(pieces(wide, TOKENS), pieces(columns, TOKENS), strict=True):
            product_into(out, values, tokens, (scale, own))
    return y


def product_into(out: Tensor, values: Tensor, x: Tensor, after: tuple[Tensor, Tensor | None]) -> None:
    """``x @ values.T * scale + bias`` as out, scaled in float32."""
    scale, bias = after
    if x.dtype == out.dtype == torch.float32:
        single = torch.mm(x, values.t(), out=out)
    else:
        single = scratch("single", torch.float32, *out.shape).copy_(product(values, x))
    single.mul_(scale)
    if bias is not None:
        single.add_(bias)
    if single is not out:
        out.copy_(single)


def product(values: Tensor, x: Tensor) -> Tensor:
    """``x @ values.T``, of few tokens the other way around: matrix units read the first of two as it lies."""
    shape = (len(x), len(values))
    if len(x) > FEW or x.dtype != torch.bfloat16:
        return torch.mm(x, values.t(), out=scratch("product", x.dtype, *shape))
    other = torch.mm(values, x.t(), out=scratch("product", x.dtype, *shape[::-1]))
    return scratch("turned", x.dtype, *shape).copy_(other.t())


def slab_rows(weight: QuantizedWeight) -> int:
    """As many rows as have about SLAB elements: whole pieces."""
    return max(1, SLAB // weight.shape[1] // piece_rows(weight)) * piece_rows(weight)


def piece_rows(weight: QuantizedWeight) -> int:
    """As many rows as have about PIECE elements a thread: whole blocks of them."""
    step = weight.granularity.rows if isinstance(weight.granularity, PerBlock) else 1
    return max(1, min(SLAB, PIECE * torch.get_num_threads()) // weight.shape[1] // step) * step


def slabs(weight: QuantizedWeight, dtype: torch.dtype) -> Iterator[Tensor]:
    """The weight over output_scale, some rows at a time, ``[rows, in]`` in dtype; exact but for blocks in bfloat16.

    Each is in the memory of the one before it.
    """
    factors, rows = factors_of(weight, dtype), piece_rows(weight)
    for codes in pieces(weight.codes, slab_rows(weight)):
        values = scratch("values", dtype, *codes.shape)
        for part, into in zip(pieces(codes, rows), pieces(values, rows), strict=True):
            multiply(fields(part, into), next(factors), weight.granularity)
        yield values


def factors_of(weight: QuantizedWeight, dtype: torch.dtype) -> Iterator[Tensor | float]:
    """What the fields of each piece are multiplied by: the power of two, with it the scales of blocks in dtype."""
    factor = 2.0 ** (WIDE[dtype].bias - CODINGS[weight.codes.dtype].bias)
    if not isinstance(weight.granularity, PerBlock):
        return repeat(factor)
    own = (weight.scale / output_scale(weight) * factor).to(dtype)
    return iter(own.split(piece_rows(weight) // weight.granularity.rows))


def multiply(values: Tensor, factor: Tensor | float, granularity: Granularity) -> None:
    """Values ``[rows, in]`` in place, by one factor or by their blocks' scales."""
    if isinstance(factor, Tensor):
        tiled(values, factor, granularity)
    else:
        values.mul_(factor)


def fields(codes: Tensor, into: Tensor) -> Tensor:
    """Codes as floats with sign, exponent and mantissa in their places, written into a tensor of floats."""
    mantissa, _, integers = WIDE[into.dtype]
    shift = mantissa - CODINGS[codes.dtype].mantissa
    # a product is what vectorised; the sign of the integer is the float's
    moved = into.view(integers).copy_(codes.view(torch.int8)).mul_(1 << shift)
    return moved.bitwise_and_(torch.iinfo(integers).min + (0x7F << shift)).view(into.dtype)


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
