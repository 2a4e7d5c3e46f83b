"""The ways to compute ``x @ W.T`` from codes and scales, in one ordered list; each says whether it fits or why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .activation import quantize_activation, static_scale
from .formats import Format
from .granularity import Granularity, PerBlock, PerRow, PerTensor
from .weight import QuantizedWeight


@dataclass(frozen=True)
class Layer:
    """What decides whether a kernel fits. shape: ``(out, in)``; dtype: the activations'; activation: their scaling."""

    format: Format
    granularity: Granularity
    shape: tuple[int, int]
    device: torch.device
    dtype: torch.dtype
    has_transform: bool = False
    activation: str = "dynamic"


Rule = Callable[[Layer], "str | None"]
Compute = Callable[[Tensor, QuantizedWeight, "Tensor | None", "Tensor | None"], Tensor]


@dataclass(frozen=True)
class Kernel:
    """One way to compute a Linear. rules: each answers None or a clause completing "{name} ..."."""

    name: str
    family: str
    rules: tuple[Rule, ...]
    compute: Compute

    def refuses(self, layer: Layer) -> str | None:
        """None where it fits, else the reason."""
        return next((reason for rule in self.rules if (reason := rule(layer))), None)

    def run(self, x: Tensor, weight: QuantizedWeight, bias: Tensor | None, input_scale: Tensor | None) -> Tensor:
        """``[tokens, in] -> [tokens, out]`` in x's dtype; input_scale: ``[]`` for static activations, else None."""
        return self.compute(x, weight, bias, input_scale)


##### What a kernel may need


def untransformed(layer: Layer) -> str | None:
    return "needs a weight without smoothing or rotation" if layer.has_transform else None


def ocp_codes(layer: Layer) -> str | None:
    fits = layer.format.dtype in (torch.float8_e4m3fn, torch.float8_e5m2)
    return None if fits else f"needs float8_e4m3fn or float8_e5m2 codes, not {layer.format.name}"


def float_activations(layer: Layer) -> str | None:
    fits = layer.dtype in (torch.bfloat16, torch.float16, torch.float32)
    return None if fits else f"needs bfloat16, float16 or float32 activations, not {layer.dtype}"


def tensor_scale(layer: Layer) -> str | None:
    return (
        None if isinstance(layer.granularity, PerTensor) else f"needs a per-tensor scale, not {layer.granularity.name}"
    )


def row_scales(layer: Layer) -> str | None:
    fits = isinstance(layer.granularity, (PerTensor, PerRow))
    return None if fits else f"needs per-row scales, not {layer.granularity.name}"


def static_activations(layer: Layer) -> str | None:
    return None if layer.activation == "static" else "needs a static activation scale; dynamic ones are per token"


def tile_scales(layer: Layer) -> str | None:
    fits = isinstance(layer.granularity, PerBlock) and layer.format.per_byte == 1
    return None if fits else f"needs block or group scales, not {layer.format.name} {layer.granularity.name}"


def byte_floats(layer: Layer) -> str | None:
    fits = layer.format.dtype.is_floating_point and layer.format.dtype.itemsize == 1
    return None if fits else f"needs one float8 a byte, not {layer.format.name}"


##### GEMMs on the codes


def per_tensor(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, input_scale: Tensor | None) -> Tensor:
    codes, scale = quantize_activation(x, expected(input_scale, weight))
    return added(gemm(codes, weight.codes, scale[0, 0], weight.scale.reshape(()), x.dtype), bias)


def per_row(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, input_scale: Tensor | None) -> Tensor:
    codes, scale = quantize_activation(x, expected(input_scale, weight))
    return added(gemm(codes, weight.codes, scale, rows_of(weight), x.dtype), bias)


def emulated_per_row(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, input_scale: Tensor | None) -> Tensor:
    codes, scale = quantize_activation(x, expected(input_scale, weight))
    one = torch.ones((), device=x.device)
    # sums of unscaled codes leave float16's range; bfloat16 has float32's
    wide = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
    product = gemm(codes, weight.codes, one, one, wide)
    # the weight's scales first: they are small, and what the activations' make of the sum may overflow
    return added(product.mul_(rows_of(weight)).mul_(scale), bias).to(x.dtype)


def expected(input_scale: Tensor | None, weight: QuantizedWeight) -> Tensor | None:
    return None if input_scale is None else static_scale(input_scale, weight.format)


def rows_of(weight: QuantizedWeight) -> Tensor:
    """The weight's scales, one an output: ``[1, out]`` float32."""
    return weight.scale.reshape(1, -1).expand(1, weight.shape[0]).contiguous()


def added(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y.add_(bias)


def gemm(x: Tensor, codes: Tensor, x_scale: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """``(x * x_scale) @ (codes * scale).T`` by ``_scaled_mm``: ``[tokens, in], [out, in] -> [tokens, out]``."""
    outputs, step = codes.shape[0], alignment(x.device)
    if outputs % step or codes.shape[1] % step:
        x, codes = padded(x, 1, step), padded(codes, step, step)
        if scale.ndim == 2:
            scale = F.pad(scale, (0, -outputs % step))
    y = torch._scaled_mm(x, codes.contiguous().t(), x_scale, scale, out_dtype=dtype)
    return y if y.shape[1] == outputs else y[:, :outputs].contiguous()


def alignment(device: torch.device) -> int:
    """What ``in`` and ``out`` must be multiples of: cuBLASLt and hipBLASLt want 16 bytes, a CPU does not care."""
    return 1 if device.type == "cpu" else 16


def padded(codes: Tensor, row_step: int, column_step: int) -> Tensor:
    """Codes filled up with zeros to multiples of the steps."""
    rows, columns = codes.shape
    # float8 has no pad of its own
    filled = F.pad(codes.view(torch.uint8), (0, -columns % column_step, 0, -rows % row_step))
    return filled.view(codes.dtype)


##### Dequantized weights


def dequantized_block(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, _: Tensor | None) -> Tensor:
    return F.linear(x, dequantized_tiles(weight).to(x.dtype), bias)


def dequantized_tiles(weight: QuantizedWeight) -> Tensor:
    """A block-scaled weight ``[out, in]`` float32, without a scale of its size in memory."""
    tiles = weight.granularity.tiled(weight.format.values(weight.codes))  # type: ignore[union-attr]
    m, rows, n, cols = tiles.shape
    values = tiles.mul_(weight.scale.view(m, 1, n, 1)).view(m * rows, n * cols)
    return values[: weight.shape[0], : weight.shape[1]]


def upcast(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, _: Tensor | None) -> Tensor:
    return F.linear(x, weight.dequantize(x.dtype), bias)


def upcast_by_table(x: Tensor, weight: QuantizedWeight, bias: Tensor | None, _: Tensor | None) -> Tensor:
    values = table(weight.format.dtype, weight.codes.device)[weight.codes.view(torch.uint8).int()]
    looked_up = replace(weight, codes=values, format=replace(weight.format, dtype=torch.float32))
    return upcast(x, looked_up, bias, None)


@lru_cache(maxsize=16)
def table(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The float32 values of all 256 codes, made on the CPU for devices that cannot cast float8 (MPS)."""
    with torch.inference_mode(False):
        return torch.arange(256, dtype=torch.uint8).view(dtype).float().to(device)


SCALED_MM = (untransformed, ocp_codes, float_activations)

# Best first. Dynamic activations are per token, so only a static scale lets the per-tensor GEMM go first.
KERNELS: tuple[Kernel, ...] = (
    Kernel("scaled_mm per-tensor", "scaled_mm", (*SCALED_MM, tensor_scale, static_activations), per_tensor),
    Kernel("scaled_mm per-row", "scaled_mm", (*SCALED_MM, row_scales), per_row),
    Kernel("scaled_mm emulated per-row", "scaled_mm", (*SCALED_MM, row_scales), emulated_per_row),
    Kernel("dequantized block", "block", (untransformed, tile_scales), dequantized_block),
    Kernel("upcast", "upcast", (), upcast),
    Kernel("upcast by table", "upcast", (byte_floats,), upcast_by_table),
)
