"""Products of codes: quantized activations times the weight's own codes."""

from __future__ import annotations

from functools import lru_cache
from itertools import repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.packing import corner, padded
from ..weights.weight import QuantizedWeight
from .arrangement import arranged, block_columns, repeated
from .scratch import pieces, scratch
from .storage import Derived


class Codes(NamedTuple):
    """Quantized activations: codes ``[tokens, in]``, float32 scale ``[1, 1]`` or ``[tokens, 1]``, dtype they had."""

    codes: Tensor
    scale: Tensor
    dtype: torch.dtype


##### float8


def per_tensor(a: Codes, weight: QuantizedWeight, bias: Tensor | None, fast: bool = False) -> Tensor:
    """fast: sums are kept in fewer bits inside the matrix units, which is faster on Ada and Hopper."""
    return scaled(a, a.scale.reshape(()), weight, weight.scale.reshape(()), bias, fast)


def per_row(a: Codes, weight: QuantizedWeight, bias: Tensor | None, fast: bool = False) -> Tensor:
    return scaled(a, tokens_of(a), weight, rows_of(weight), bias, fast)


def emulated_per_row(a: Codes, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    one = unit(a.codes.device)
    # sums of unscaled codes leave float16's range; bfloat16 has float32's
    wide = torch.bfloat16 if a.dtype == torch.bfloat16 else torch.float32
    product = gemm(a.codes, weight.codes, one, one, wide)
    # the weight's scales first: they are small, and what the activations' make of the sum may overflow
    return added(product.mul_(rows_of(weight)).mul_(a.scale), bias).to(a.dtype)


def rows_of(weight: QuantizedWeight) -> Tensor:
    """The weight's scales, one an output: ``[1, out]`` float32."""
    if weight.scale.numel() == weight.shape[0]:
        return weight.scale.reshape(1, -1)
    if weight.arranged is not None:
        return weight.arranged
    return ROWS.of(weight.scale, weight.shape[0], lambda: repeated(weight.scale, weight.shape))


def tokens_of(a: Codes) -> Tensor:
    """The activations' scales, one a token: ``[tokens, 1]`` float32."""
    tokens = len(a.codes)
    return a.scale if len(a.scale) == tokens else ROWS.of(a.scale, -tokens, lambda: a.scale.repeat(tokens, 1))


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
        fused = zeros(weight.shape[0], a.codes.device)
    y = gemm(a.codes, weight.codes, a_scale, scale, a.dtype, fused, fast)
    return y if fused is not None else added(y, bias)


@lru_cache(maxsize=256)
def zeros(outputs: int, device: torch.device) -> Tensor:
    """A bias of nothing, float16 ``[outputs]``, made once."""
    with torch.inference_mode(False):
        return torch.zeros(outputs, dtype=torch.float16, device=device)


def gemm(
    x: Tensor, codes: Tensor, x_scale: Tensor, scale: Tensor, dtype: torch.dtype,
    bias: Tensor | None = None, fast: bool = False,
) -> Tensor:  # fmt: skip
    """``(x * x_scale) @ (codes * scale).T + bias`` by ``_scaled_mm``: ``[tokens, in], [out, in] -> [tokens, out]``."""
    outputs, step = codes.shape[0], alignment(x.device)
    if outputs % step or codes.shape[1] % step:
        x, codes = padded(x, 1, step), padded(codes, step, step)
        scale = F.pad(scale, (0, -outputs % step)) if scale.ndim == 2 else scale
        bias = None if bias is None else F.pad(bias, (0, -outputs % step))
    y = torch._scaled_mm(x, codes.contiguous().t(), x_scale, scale, bias=bias, out_dtype=dtype, use_fast_accum=fast)
    return y if y.shape[1] == outputs else corner(y, len(y), outputs).contiguous()


def alignment(device: torch.device) -> int:
    """What ``in`` and ``out`` must be multiples of: cuBLASLt and hipBLASLt want 16 bytes, a CPU does not care."""
    return 1 if device.type == "cpu" else 16


def blocks(a: Codes, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """Activations by runs of 128 times a weight by blocks of 128 x 128, as Hopper's cuBLASLt has it."""
    kind, (tokens, outputs) = F.ScalingType, (len(a.codes), weight.shape[0])
    codes, scale = padded(weight.codes, 128, 128), arranged(weight, block_columns)
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
    sums = corner(int_mm(a.codes, weight.codes), a.codes.shape[0], weight.shape[0])
    y = (sums * rows_of(weight)).mul_(a.scale)
    return (y if bias is None else y.add_(bias)).to(a.dtype)


def int8_pieces(a: Codes, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """The INT8 product on a CPU, in memory that is used again."""
    x, codes = padded(a.codes, 1, 4), padded(weight.codes, 1, 4)
    y = a.scale.new_empty(len(x), len(codes), dtype=a.dtype)
    rows = max(OUTPUTS, PIECE // max(1, min(len(x), TOKENS)))
    scales, biases = pieces(rows_of(weight), rows, 1), repeat(None) if bias is None else pieces(bias.float(), rows)
    for part, columns, scale, own in zip(pieces(codes, rows), pieces(y, rows, 1), scales, biases, strict=False):
        for tokens, by, out in zip(pieces(x, TOKENS), pieces(a.scale, TOKENS), pieces(columns, TOKENS), strict=True):
            sums = torch._int_mm(tokens, part.t(), out=scratch("sums", torch.int32, *out.shape))
            single = scratch("single", torch.float32, *out.shape).copy_(sums).mul_(scale).mul_(by)
            out.copy_(single if own is None else single.add_(own))
    return y


def int_mm(x: Tensor, codes: Tensor) -> Tensor:
    """``[tokens, in], [out, in] -> [tokens, out]`` int32, of the operands filled up where the device wants that."""
    if x.device.type == "cpu":
        # torch's sums of a single product are wrong on a CPU
        x, codes = padded(x, 1, 4), padded(codes, 1, 4)
    else:
        # cuBLASLt wants more than 16 rows and multiples of 8
        x, codes = padded(x, 32, 16), padded(codes, 16, 16)
    return torch._int_mm(x.contiguous(), codes.contiguous().t())


def kitchen_int8(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """comfy-kitchen's own int8 Linear: rotates and quantizes the tokens, multiplies and scales."""
    import comfy_kitchen as ck

    turn = {"convrot": True, "convrot_groupsize": weight.rotation} if weight.rotation else {}
    return ck.int8_linear(x, weight.codes, weight.scale, bias, out_dtype=x.dtype, **turn)
