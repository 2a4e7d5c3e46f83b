"""The ways to compute ``x @ W.T`` from codes and scales, in one ordered list; each says whether it fits or why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ..weights.formats import FORMATS, Format
from ..weights.rotation import rotated
from ..weights.weight import QuantizedWeight
from . import arrangement, bits, blackwell, compiled, gemm, upcast
from .activations import AS_THEY_ARE, BY_TOKENS, PER_TENSOR, SCHEMES, STATIC, static_scale
from .gemm import Codes
from .quantizers import QUANTIZERS
from .rules import (
    Requirement,
    Workload,
    ada_or_hopper,
    byte_floats,
    compiled_here,
    cpu,
    cuda,
    float_activations,
    format_is,
    int32_sums,
    kitchen_cuda,
    ocp_codes,
    on_blackwell,
    one_activation_scale,
    only_rotated,
    own_groups,
    row_scales,
    square_blocks,
    tensor_scale,
    tile_scales,
    torch_scaled_mm,
    triton_bytes,
    untransformed,
)
from .siblings import once

BY_NAME = {quantizer.name: quantizer for quantizer in QUANTIZERS}
# Roundings to bfloat16 are 0.003 to 0.006, those to float8 0.026; a scale on the wrong axis is above 0.5.
BOUND = 0.015


@dataclass(frozen=True)
class Kernel:
    """One way to compute a Linear. rules: each answers None or a clause completing "{name} ...".

    compute: (activations or their Codes, weight, bias) -> output; scheme: of SCHEMES, by which its activations are
    quantized for it, or AS_THEY_ARE; into: the format into which it quantizes them itself; static: the one of SCHEMES
    by which it uses a scale that is given, "" where it cannot; deep: whether its error grows with the layer's inputs,
    so that the probe needs as many; bound: of the relative error that the probe allows; exact: the kernel whose output
    that error is measured from, float32 arithmetic's without; arrange: how it reads a weight, None where as it is
    stored with float32 scales; tall, wide: outputs and inputs beyond which it computes in another way, so that the
    probe has more than so many too.
    """

    name: str
    family: str
    rules: tuple[Requirement, ...]
    compute: Callable[..., Tensor] = field(repr=False)
    scheme: str = AS_THEY_ARE
    into: Format | None = None
    static: str = ""
    deep: bool = False
    bound: float = BOUND
    exact: str | None = None
    arrange: arrangement.Arrangement | None = field(default=None, repr=False)
    tall: tuple[int, ...] = ()
    wide: tuple[int, ...] = ()

    @property
    def on_codes(self) -> bool:
        """Whether it multiplies the codes themselves; else the weight is dequantized."""
        return self.family in ("scaled_mm", "int8")

    @property
    def takes_codes(self) -> bool:
        """Whether activations are quantized for it."""
        return self.scheme != AS_THEY_ARE

    @property
    def rounds(self) -> bool:
        """Whether it quantizes activations, or has them quantized."""
        return self.takes_codes or self.into is not None

    def refuses(self, layer: Workload) -> str | None:
        """None where it fits, else the reason."""
        return next((reason for rule in self.rules if (reason := rule(layer))), None)

    def passed(self, layer: Workload) -> int:
        """How many of its rules the layer keeps before one refuses."""
        return next((i for i, rule in enumerate(self.rules) if rule(layer)), len(self.rules))

    def scaled_by(self, activation: str) -> Kernel:
        """Itself, with one scale for all activations where that is wanted and it can use one."""
        once = activation == "dynamic-per-tensor" and self.static
        return replace(self, scheme=self.static.replace(STATIC, PER_TENSOR)) if once else self

    def schemes(self, activation: str) -> list[str]:
        """The schemes of activation.py that it needs for "static" or "dynamic" activations."""
        if not self.takes_codes:
            return []
        return [self.static if activation == "static" and self.static else self.scheme]

    def arranged(self, weight: QuantizedWeight, device: torch.device) -> QuantizedWeight:
        """The weight with its parts also as this kernel reads them on device."""
        return replace(weight, **self.arrange.of(weight, device)) if self.arrange else weight

    def run(
        self, x: Tensor, weight: QuantizedWeight, bias: Tensor | None, input_scale: Tensor | None,
        quantizer: str = "eager",
    ) -> Tensor:  # fmt: skip
        """``[tokens, in] -> [tokens, out]`` in x's dtype; input_scale: ``[]`` for static activations, else None."""
        if not self.takes_codes:
            return self.compute(x, weight, bias)
        if input_scale is not None and self.static:
            given = static_scale(input_scale, weight.format) if weight.given is None else weight.given
            return self.compute(quantized(x, (self.static, quantizer, weight.rotation), given), weight, bias)
        how = (self.scheme, quantizer, weight.rotation)
        return self.compute(once(x, how, lambda: quantized(x, how)), weight, bias)


def quantized(x: Tensor, how: tuple[str, str, int], scale: Tensor | None = None) -> Codes:
    """Activations rotated and as codes. how: the scheme, who computes it, and the group of the rotation."""
    scheme, quantizer, rotation = how
    x = rotated(x, rotation) if rotation else x
    # torch.compile makes one pass of the arithmetic itself, with what comes before it
    own = SCHEMES if torch.compiler.is_compiling() else BY_NAME[quantizer].schemes()
    return Codes(*own[scheme](x, scale), x.dtype)


CODES = (untransformed, float_activations)
SCALED_MM = (untransformed, ocp_codes, float_activations)
INT8 = (*CODES, partial(format_is, "int8"), row_scales, int32_sums)
CONVROT = (only_rotated, float_activations, partial(format_is, "int8_convrot"), row_scales, int32_sums)
# What fewer bits may add to the exact sums: float8's own noise is 0.037, and this adds 0.3 dB to it
FAST = 0.01

# Best first; where sums in fewer bits are too far off, the same kernel with exact ones comes next.
# Dynamic activations are per token, so only one scale for all lets the per-tensor GEMM go first.
KERNELS: tuple[Kernel, ...] = (
    Kernel(
        "scaled_mm per-tensor fast", "scaled_mm", (*SCALED_MM, tensor_scale, one_activation_scale, ada_or_hopper),
        partial(gemm.per_tensor, fast=True), PER_TENSOR, static=STATIC, deep=True, bound=FAST,
        exact="scaled_mm per-tensor", arrange=arrangement.TENSOR,
    ),
    Kernel(
        "scaled_mm per-tensor", "scaled_mm", (*SCALED_MM, tensor_scale, one_activation_scale),
        gemm.per_tensor, PER_TENSOR, static=STATIC, arrange=arrangement.TENSOR,
    ),
    Kernel(
        "scaled_mm per-row fast", "scaled_mm", (*SCALED_MM, row_scales, ada_or_hopper),
        partial(gemm.per_row, fast=True), "float8 per-token", static=STATIC + BY_TOKENS, deep=True, bound=FAST,
        exact="scaled_mm per-row", arrange=arrangement.ROWS,
    ),
    Kernel(
        "scaled_mm per-row", "scaled_mm", (*SCALED_MM, row_scales), gemm.per_row, "float8 per-token",
        static=STATIC + BY_TOKENS, arrange=arrangement.ROWS,
    ),
    Kernel(
        "scaled_mm per-tensor dynamic", "scaled_mm", (*SCALED_MM, tensor_scale), gemm.per_tensor, PER_TENSOR,
        arrange=arrangement.TENSOR,
    ),
    Kernel(
        "scaled_mm emulated per-row", "scaled_mm", (*SCALED_MM, row_scales),
        gemm.emulated_per_row, "float8 per-token", static=STATIC, arrange=arrangement.ROWS,
    ),
    Kernel(
        "scaled_mm block", "scaled_mm",
        (*CODES, partial(format_is, "float8_e4m3fn"), square_blocks, torch_scaled_mm), gemm.blocks, "float8 1x128",
        arrange=arrangement.BLOCKS,
    ),
    Kernel(
        "scaled_mm mxfp8", "scaled_mm", (*CODES, partial(format_is, "mxfp8"), own_groups, on_blackwell), blackwell.mx,
        into=FORMATS["mxfp8"], arrange=arrangement.MX,
    ),
    Kernel(
        "scaled_mm nvfp4", "scaled_mm", (*CODES, partial(format_is, "nvfp4"), own_groups, on_blackwell), blackwell.nv,
        into=FORMATS["nvfp4"], arrange=arrangement.NV,
    ),
    Kernel(
        "scaled_mm int8 fused", "int8", (*INT8, cuda), gemm.kitchen_int8, into=FORMATS["int8"],
        arrange=arrangement.Arrangement(arrangement.row_scales), wide=(2560,),
    ),
    Kernel("scaled_mm int8", "int8", INT8, gemm.int8_rows, "int8 per-token", arrange=arrangement.INT8),
    Kernel(
        "scaled_mm int8 convrot fused", "int8", (*CONVROT, cuda), gemm.kitchen_int8, into=FORMATS["int8"],
        arrange=arrangement.Arrangement(arrangement.row_scales), wide=(5120, 8192),
    ),
    Kernel("scaled_mm int8 convrot", "int8", CONVROT, gemm.int8_rows, "int8 per-token", arrange=arrangement.INT8),
    Kernel(
        "upcast fused", "upcast", (untransformed, float_activations, triton_bytes), upcast.fused,
        tall=(upcast.TALL,), wide=(upcast.WIDE,),
    ),
    Kernel(
        "upcast by comfy-kitchen", "upcast",
        (untransformed, ocp_codes, tensor_scale, float_activations, cuda, kitchen_cuda), upcast.kitchen,
    ),
    Kernel(
        "upcast compiled", "upcast", (untransformed, byte_floats, float_activations, cpu, compiled_here),
        compiled.upcast_compiled,
    ),
    Kernel("upcast by bits", "upcast", (untransformed, byte_floats, float_activations, cpu), bits.upcast_by_bits),
    Kernel("dequantized block", "block", (untransformed, tile_scales), upcast.dequantized_block),
    Kernel("upcast", "upcast", (), upcast.upcast),
    Kernel("upcast by table", "upcast", (byte_floats,), upcast.upcast_by_table),
)  # fmt: skip
