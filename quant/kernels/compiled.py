"""By compiled.c, on a CPU: a slab of float8 rows dequantized in one pass, of one token the product itself, and INT8
activations."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.granularity import PerBlock
from ..weights.weight import QuantizedWeight
from .activations import INT8, SCHEMES, TINY
from .bits import CODINGS, WIDE, all_numbers, slab_rows
from .compiler import library
from .scratch import pieces, scratch

FLOAT32 = WIDE[torch.float32]
INTO = {torch.bfloat16: "to_bfloat16", torch.float32: "to_float32"}


class Weight(ctypes.Structure):
    """compiled.c's struct weight."""

    _fields_ = (
        ("codes", ctypes.c_void_p), ("scale", ctypes.c_void_p),
        ("rows", ctypes.c_int64), ("width", ctypes.c_int64), ("tall", ctypes.c_int64), ("wide", ctypes.c_int64),
        ("shift", ctypes.c_int32), ("power", ctypes.c_float),
    )  # fmt: skip


def upcast_compiled(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """``x @ W.T + bias``; W without rotation or smoothing."""
    # tensors without data, of a tracer, cannot be looked into; bits that are no number would be read as a large one
    if torch.compiler.is_compiling() or type(weight.codes) is not Tensor or not all_numbers(weight.codes):
        return F.linear(x, weight.dequantize(x.dtype), bias)
    # float16 has not the range that float8's scales have
    wide = x if x.dtype in INTO else x.float()
    if len(x) == 1:
        return one_token(wide.float(), weight, bias).to(x.dtype)
    y = wide.new_empty(len(x), weight.shape[0])
    rows = slab_rows(weight)
    biases = repeat(None) if bias is None else pieces(bias.to(y.dtype), rows)
    for values, out, own in zip(slabs(weight, y.dtype), pieces(y, rows, 1), biases, strict=False):
        if own is None:
            torch.mm(wide, values.t(), out=out)
        else:
            torch.addmm(own, wide, values.t(), out=out)
    return y.to(x.dtype)


def one_token(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """The same of float32 ``[1, in]``, in one pass over the codes."""
    y, x = x.new_empty(1, weight.shape[0]), x.contiguous()
    codes, scale = weight.codes.contiguous(), weight.scale.contiguous()
    call("one_token", argument(weight, codes, scale), x, y)
    return y if bias is None else y.add_(bias)


def slabs(weight: QuantizedWeight, dtype: torch.dtype) -> Iterator[Tensor]:
    """The weight dequantized, some rows at a time, ``[rows, in]`` in dtype; each in the memory of the one before it."""
    rows, scale = slab_rows(weight), weight.scale.contiguous()
    scales = repeat(scale) if scale.numel() == 1 else pieces(scale, rows // tile(weight)[0])
    for codes, own in zip(pieces(weight.codes.contiguous(), rows), scales, strict=False):
        values = scratch("values", dtype, *codes.shape)
        call(INTO[dtype], argument(weight, codes, own), values)
        yield values


def call(name: str, *arguments: Tensor | ctypes.Structure | ctypes._SimpleCData) -> None:
    getattr(library(), name)(*map(passed, arguments), torch.get_num_threads())


def passed(argument: Tensor | ctypes.Structure | ctypes._SimpleCData) -> object:
    """A tensor by its memory, which is to be held; a structure by its address."""
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.byref(argument) if isinstance(argument, ctypes.Structure) else argument


def argument(weight: QuantizedWeight, codes: Tensor, scale: Tensor) -> Weight:
    """Some rows of a weight, codes and scale; both must be held as long as it is used."""
    coding = CODINGS[codes.dtype]
    shift, power = FLOAT32.mantissa - coding.mantissa, 2.0 ** (FLOAT32.bias - coding.bias)
    return Weight(codes.data_ptr(), scale.data_ptr(), *codes.shape, *tile(weight), shift, power)


def tile(weight: QuantizedWeight) -> tuple[int, int]:
    """How many rows and columns share a scale."""
    if isinstance(weight.granularity, PerBlock):
        return weight.granularity.rows, weight.granularity.cols
    return (1 if weight.scale.numel() == weight.shape[0] else weight.shape[0]), weight.shape[1]


##### Activations


def int8_per_token(x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As the scheme of that name in activations.py."""
    if torch.compiler.is_compiling() or type(x) is not Tensor:
        return SCHEMES["int8 per-token"](x, None)
    values = x.float().contiguous()
    codes, scale = values.new_empty(x.shape, dtype=INT8.dtype), values.new_empty(len(x), 1)
    sizes = (ctypes.c_int64(side) for side in x.shape)
    call("int8_codes", values, codes, scale, *sizes, ctypes.c_float(TINY))
    return codes, scale
