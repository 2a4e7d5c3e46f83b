"""Products of codes: quantized activations times the weight's own codes."""

from __future__ import annotations

from functools import lru_cache
from itertools import repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.packing import corner, padded, up
from ..weights.weight import QuantizedWeight
from .arrangement import BLOCK_STEP, alignment, arranged, block_columns, filled, int8_step, repeated
from .scratch import pieces, scratch
from .storage import Derived


class Codes(NamedTuple):
    """Quantized activations: codes ``[tokens, in]``, float32 scale ``[1, 1]`` or ``[tokens, 1]``, dtype they had.

    Row-wise GEMMs take the latter alone.
    """

    codes: Tensor
    scale: Tensor
    dtype: torch.dtype


##### float8


def per_tensor(a: Codes, weight: QuantizedWeight, bias: Tensor | None, fast: bool = False) -> Tensor:
    """fast: sums are kept in fewer bits inside the matrix units, which is faster on Ada and Hopper."""
    return scaled(a, a.scale.reshape(()), weight, weight.scale.reshape(()), bias, fast)


def per_row(a: Codes, weight: QuantizedWeight, bias: Tensor | None, fast: bool = False) -> Tensor:
    outputs = up(weight.shape[0], alignment(a.codes.device))
    return scaled(a, a.scale, weight, rows_of(weight, outputs), bias, fast)


def emulated_per_row(a: Codes, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    one = unit(a.codes.device)
    # sums of unscaled codes leave float16's range; bfloat16 has float32's
    wide = torch.bfloat16 if a.dtype == torch.bfloat16 else torch.float32
    product = gemm(a.codes, weight, one, one, wide)
    # the weight's scales first: they are small, and what the activations' make of the sum may overflow
    return added(product.mul_(rows_of(weight, weight.shape[0])).mul_(a.scale), bias).to(a.dtype)


def rows_of(weight: QuantizedWeight, outputs: int) -> Tensor:
    """The weight's scales, one an output and zeros up to so many: ``[1, outputs]`` float32."""
    if weight.arranged is not None:
        return resized(weight.arranged, outputs)
    if weight.scale.numel() == weight.shape[0]:
        return resized(weight.scale.reshape(1, -1), outputs)
    return ROWS.of(weight.scale, outputs, lambda: repeated(weight.scale, outputs))


def resized(row: Tensor, count: int) -> Tensor:
    """The first of a ``[1, n]``, or it with zeros: ``[1, count]``."""
    return row.narrow(1, 0, count) if row.shape[1] >= count else F.pad(row, (0, count - row.shape[1]))


ROWS = Derived()


def unit(device: torch.device) -> Tensor:
    """The scale of codes that are multiplied as they are, ``[]`` float32; made once, but for a compiled graph."""
    return torch.ones((), device=device) if torch.compiler.is_compiling() else kept_unit(device)


@lru_cache(maxsize=16)
def kept_unit(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.ones((), device=device)


def added(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y.add_(bias)


def scaled(
    a: Codes, a_scale: Tensor, weight: QuantizedWeight, scale: Tensor, bias: Tensor | None, fast: bool
) -> Tensor:
    """One GEMM; a bias of bfloat16 goes into it, where it is added before the only rounding.

    On GPUs one of float16 too, zeros if there is none: without it some GEMMs (sm_89, sm_120) write bfloat16.
    """
    half = a.dtype == torch.float16 and a.codes.device.type == "cuda"
    fused = bias if a.dtype == torch.bfloat16 or half else None
    if half and bias is None:
        fused = zeros(up(weight.shape[0], alignment(a.codes.device)), a.codes.device)
    y = gemm(a.codes, weight, a_scale, scale, a.dtype, fused, fast)
    return y if fused is not None else added(y, bias)


@lru_cache(maxsize=256)
def zeros(outputs: int, device: torch.device) -> Tensor:
    """A bias of nothing, float16 ``[outputs]``, made once."""
    with torch.inference_mode(False):
        return torch.zeros(outputs, dtype=torch.float16, device=device)


def gemm(
    x: Tensor, weight: QuantizedWeight, x_scale: Tensor, scale: Tensor, dtype: torch.dtype,
    bias: Tensor | None = None, fast: bool = False,
) -> Tensor:  # fmt: skip
    """``(x * x_scale) @ (codes * scale).T + bias`` by ``_scaled_mm``: ``[tokens, in], [out, in] -> [tokens, out]``.

    scale: of one element, or one for each output with those that fill up.
    """
    step, outputs = alignment(x.device), weight.shape[0]
    codes = filled(weight, step, step)
    x = padded(x, 1, codes.shape[1]) if x.shape[1] != codes.shape[1] else x
    if bias is not None and len(bias) != len(codes):
        bias = F.pad(bias, (0, len(codes) - len(bias)))
    if scale.ndim == 2 and scale.shape[1] != len(codes):
        scale = resized(scale, len(codes))
    y = torch._scaled_mm(x, codes.contiguous().t(), x_scale, scale, bias=bias, out_dtype=dtype, use_fast_accum=fast)
    return y if y.shape[1] == outputs else corner(y, len(y), outputs).contiguous()


def blocks(a: Codes, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """Activations by runs of 128 times a weight by blocks of 128 x 128, as Hopper's cuBLASLt has it."""
    kind, (tokens, outputs) = F.ScalingType, (len(a.codes), weight.shape[0])
    codes, scale = filled(weight, *BLOCK_STEP), arranged(weight, block_columns)
    # cuBLASLt wants tokens by fours: each column of their scales begins at a multiple of 16 bytes
    x, x_scale = padded(a.codes, 4, 1), a.scale
    if len(x) != tokens:
        x_scale = F.pad(a.scale.t(), (0, len(x) - tokens)).t()
    y = F.scaled_mm(
        x, codes.contiguous().t(), x_scale, kind.BlockWise1x128, scale, kind.BlockWise128x128,
        output_dtype=torch.bfloat16,
    )  # fmt: skip
    return added(corner(y, tokens, outputs).to(a.dtype), bias)


##### int8


# elements of the output that are int32 and float32 at a time on a CPU, within its cache; tokens and least outputs of it
PIECE, TOKENS, OUTPUTS = 1 << 18, 512, 512


def int8_rows(a: Codes, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """Exact int32 sums, scaled in float32."""
    if type(a.codes) is Tensor and a.codes.device.type == "cpu" and not torch.compiler.is_compiling():
        return int8_pieces(a, weight, bias)
    sums = corner(int_mm(a.codes, weight), a.codes.shape[0], weight.shape[0])
    y = (sums * rows_of(weight, weight.shape[0])).mul_(a.scale)
    return (y if bias is None else y.add_(bias)).to(a.dtype)


def int8_pieces(a: Codes, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """The INT8 product on a CPU, in memory that is used again."""
    x, codes = int8_operands(a.codes, weight)
    outputs = weight.shape[0]
    y = a.scale.new_empty(len(x), outputs, dtype=a.dtype)
    rows = max(OUTPUTS, PIECE // max(1, min(len(x), TOKENS)))
    scales = pieces(rows_of(weight, outputs), rows, 1)
    biases = repeat(None) if bias is None else pieces(bias.float(), rows)
    codes = codes.narrow(0, 0, outputs)
    for part, columns, scale, own in zip(pieces(codes, rows), pieces(y, rows, 1), scales, biases, strict=False):
        for tokens, by, out in zip(pieces(x, TOKENS), pieces(a.scale, TOKENS), pieces(columns, TOKENS), strict=True):
            sums = torch._int_mm(tokens, part.t(), out=scratch("sums", torch.int32, *out.shape))
            single = scratch("single", torch.float32, *out.shape).copy_(sums).mul_(scale).mul_(by)
            out.copy_(single if own is None else single.add_(own))
    return y


def int_mm(x: Tensor, weight: QuantizedWeight) -> Tensor:
    """``[tokens, in], [out, in] -> [tokens, out]`` int32, of the operands filled up where the device wants that."""
    x, codes = int8_operands(x, weight)
    return torch._int_mm(x.contiguous(), codes.contiguous().t())


def int8_operands(x: Tensor, weight: QuantizedWeight) -> tuple[Tensor, Tensor]:
    """Activations' codes and the weight's, filled up as the device wants them: cuBLASLt more than 16 tokens."""
    codes = filled(weight, *int8_step(x.device))
    return padded(x, 1 if x.device.type == "cpu" else 32, codes.shape[1]), codes


def kitchen_int8(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """comfy-kitchen's own int8 Linear: rotates and quantizes the tokens, multiplies and scales."""
    import comfy_kitchen as ck

    turn = {"convrot": True, "convrot_groupsize": weight.rotation} if weight.rotation else {}
    # of one scale for all it would make one an output at each call
    scale = weight.scale if weight.scale.numel() == weight.shape[0] else rows_of(weight, weight.shape[0])
    return ck.int8_linear(x, weight.codes, scale, bias, out_dtype=x.dtype, **turn)
