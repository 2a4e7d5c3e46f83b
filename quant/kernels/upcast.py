"""Products with dequantized weights: one byte a weight in memory, the activations as they are."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.packing import corner
from ..weights.weight import QuantizedWeight
from .quantizers import triton_kernels


def dequantized_block(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    return F.linear(x, dequantized_tiles(weight).to(x.dtype), bias)


def dequantized_tiles(weight: QuantizedWeight) -> Tensor:
    """A block-scaled weight ``[out, in]`` float32, without a scale of its size in memory."""
    tiles = weight.granularity.tiled(weight.format.values(weight.codes))  # type: ignore[union-attr]
    m, rows, n, cols = tiles.shape
    values = tiles.mul_(weight.scale.view(m, 1, n, 1)).view(m * rows, n * cols)
    return corner(values, *weight.shape)


def upcast(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    # of a CPU's casts a table is faster; a compiled graph makes one pass of a cast
    table_first = weight.codes.device.type == "cpu" and weight.codes.dtype in TABLES
    if table_first and not torch.compiler.is_compiling():
        return upcast_by_table(x, weight, bias)
    return F.linear(x, weight.dequantize(x.dtype), bias)


def upcast_by_table(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    every = weight.codes.view(torch.uint8).reshape(-1)
    values = torch.index_select(table(weight.format.dtype, weight.codes.device), 0, every.int()).view(weight.shape)
    looked_up = replace(weight, codes=values, format=replace(weight.format, dtype=torch.float32))
    return F.linear(x, looked_up.dequantize(x.dtype), bias)


# The float32 values of all 256 codes, made once and on the CPU: some devices cannot cast float8 (MPS)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
TABLES = {codes: torch.arange(256, dtype=torch.uint8).view(codes).float() for codes in FLOAT8}


def table(codes: torch.dtype, device: torch.device) -> Tensor:
    """``[256]`` float32: value by code."""
    return TABLES[codes] if device.type == "cpu" else there(TABLES[codes], device)


@lru_cache(maxsize=64)
def there(values: Tensor, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return values.to(device)


##### By comfy-kitchen


def kitchen(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """One kernel that reads a byte a weight, for GPUs without Triton; then a GEMM."""
    import comfy_kitchen as ck

    return F.linear(x, ck.dequantize_per_tensor_fp8(weight.codes, weight.scale.reshape(()), x.dtype), bias)


##### By Triton

# outputs from which on a program has more of them, and inputs from which on sums are cut in parts
TALL, WIDE = 8192, 1024


def fused(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """One kernel for few rows, else one that dequantizes and a GEMM; how many they are is no matter of a graph."""
    granularity = weight.granularity
    rows, cols = getattr(granularity, "rows", 0), getattr(granularity, "cols", 0)
    if torch.compiler.is_compiling():
        return fused_op(x, weight.codes, weight.scale, bias, weight.format.name, rows, cols)
    return fused_now(x, weight, bias)


def fused_now(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    kernels = triton_kernels()
    if x.shape[0] <= kernels.FEW_ROWS and kernels.one_scale_a_step(weight):
        return kernels.few_rows(x, weight, bias)
    return F.linear(x, kernels.dequantize(weight, x.dtype), bias)


@torch.library.custom_op("scaled_fp8::fused_upcast", mutates_args=())
def fused_op(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None, format: str, rows: int, cols: int) -> Tensor:
    return fused_now(x, rebuilt(codes, scale, format, rows, cols), bias)


@fused_op.register_fake
def _(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor | None, format: str, rows: int, cols: int) -> Tensor:
    return x.new_empty(x.shape[0], codes.shape[0])


def rebuilt(codes: Tensor, scale: Tensor, format: str, rows: int, cols: int) -> QuantizedWeight:
    """The weight of an upcast operator, which torch.compile gives tensors and numbers alone; rows 0: no blocks."""
    from ..weights.formats import FORMATS
    from ..weights.granularity import PerBlock, PerRow, PerTensor

    plain = PerTensor() if scale.numel() == 1 else PerRow()
    granularity = PerBlock(rows, cols) if rows else plain
    return QuantizedWeight(FORMATS[format], codes, scale, granularity, (codes.shape[0], codes.shape[1]))
