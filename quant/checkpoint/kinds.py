"""How scales are stored: what each kind needs beside the weight, and the functions that read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..weights.formats import FORMATS
from . import mma
from .module import Module
from .scale_shape import padded


class StoredLayer(Protocol):
    """What a kind reads of a layer: its module, its matrix of codes as stored, and its companions by role."""

    @property
    def module(self) -> Module: ...
    @property
    def stored(self) -> tuple[int, int]: ...
    @property
    def swizzled(self) -> bool | None: ...
    def tensor(self, role: str) -> Tensor: ...


@dataclass(frozen=True)
class Kind:
    """How scales are stored: the roles it needs beside the weight and may have, and the function that reads them.

    format: the one format it is for, "" where the dtype says; outer: reads the scale one level above; offset: what is
    added; block: inputs with one scale, where rows and columns may be filled up; per_element: codes in one stored
    element; transcode: (stored codes, inputs) -> codes in the format's own order; tile: rows that are stored together.
    """

    name: str
    needs: tuple[str, ...]
    scale: Callable[[StoredLayer], Tensor]
    format: str = ""
    outer: Callable[[StoredLayer], Tensor] | None = None
    may: tuple[str, ...] = ()
    offset: Callable[[StoredLayer], Tensor] | None = None
    block: int = 0
    per_element: int = 1
    transcode: Callable[[Tensor, int], Tensor] | None = None
    tile: int = 1
    group: int = 0


##### Values of scales


def as_e4m3(scale: Tensor) -> Tensor:
    return scale.view(torch.float8_e4m3fn) if scale.dtype == torch.uint8 else scale


def as_float(scale: Tensor) -> Tensor:
    """Any scale as float32; bytes are exponents, 2^(e - 127)."""
    return scale.view(torch.float8_e8m0fnu).float() if scale.dtype == torch.uint8 else scale.float()


def unit(layer: StoredLayer) -> Tensor:
    return torch.ones(())


def own_scale(layer: StoredLayer) -> Tensor:
    role = "quant_scale" if layer.module.key("scale") is None else "scale"
    return as_float(layer.tensor(role))


def grouped_scale(layer: StoredLayer) -> Tensor:
    """W4A8: each group's e4m3 scale times its output's."""
    groups = as_e4m3(layer.tensor("group_scale")).float().reshape(layer.stored[0], -1)
    return groups * layer.tensor("channel_scale").float().view(-1, 1)


def output_scale(layer: StoredLayer) -> Tensor:
    return layer.tensor("channel_scale").float().view(-1, 1)


def transposed_scale(layer: StoredLayer) -> Tensor:
    """comfy-kitchen's ``[groups, out]``, or in 128s of outputs, as ``[out, groups]``."""
    return natural(layer.tensor("scale"))


def transposed_offset(layer: StoredLayer) -> Tensor:
    return natural(layer.tensor("offset"))


def natural(values: Tensor) -> Tensor:
    values = values.float()
    return values.permute(0, 2, 1).flatten(0, 1) if values.dim() == 3 else values.T


def mma_scale(layer: StoredLayer) -> Tensor:
    return mma.by_output(layer.tensor("scale").float(), layer.stored[0])


def awq_scale(layer: StoredLayer) -> Tensor:
    return awq_groups(layer, "scale")


def awq_offset(layer: StoredLayer) -> Tensor:
    """What is added to codes from -8 on; TinyChat's is for codes from 0 on."""
    return awq_groups(layer, "offset") + 8 * awq_scale(layer)


def awq_groups(layer: StoredLayer, role: str) -> Tensor:
    """TinyChat fills groups up; ``[groups, out]`` -> ``[out, groups]``."""
    return layer.tensor(role).float()[: layer.stored[1] // mma.AWQ_DEPTH].T


##### Blocks of a few inputs, which may lie in cuBLAS tiles of 128 x 4


def tiles(layer: StoredLayer, scale: Tensor, cols: int) -> Tensor:
    """Block scales ``[rows, cols]`` in order; ComfyUI stores them in cuBLAS tiles of 128 x 4."""
    rows = layer.stored[0]
    if not layer.swizzled:
        return scale.reshape(-1, scale.shape[-1])[:rows, :cols]
    tiled = scale.reshape(padded(rows, 128) // 128, padded(cols, 4) // 4, 32, 4, 4)
    return tiled.permute(0, 3, 2, 1, 4).reshape(padded(rows, 128), -1)[:rows, :cols]


def micro_scale(layer: StoredLayer) -> Tensor:
    scale = layer.tensor("scale").view(torch.uint8)
    return as_float(tiles(layer, scale, -(-layer.stored[1] // 32)))


def nested_scale(layer: StoredLayer) -> Tensor:
    """NVFP4: each block's e4m3 scale times the tensor's."""
    block = tiles(layer, layer.tensor("scale").view(torch.uint8), layer.stored[1] // 16)
    return as_e4m3(block.contiguous()).float() * tensor_scale(layer)


def tensor_scale(layer: StoredLayer) -> Tensor:
    """NVFP4's scale of the whole tensor, which some producers store as its reciprocal."""
    if layer.module.key("global_scale") is not None:
        return layer.tensor("global_scale").float().reshape(())
    if layer.module.key("alpha") is not None:
        return (layer.tensor("alpha").float() * layer.tensor("input_divisor").float()).reshape(())
    return 1 / layer.tensor("global_divisor").float().reshape(())


def doubled_powers(layer: StoredLayer) -> Tensor:
    """MXFP4's powers of two for 32 inputs, once for each 16: as NVFP4's."""
    scale = as_float(layer.tensor("scale").view(torch.uint8)).clamp(min=float(power_outer(layer)) * 2**-9)
    return scale.repeat_interleave(2, 1)


def power_outer(layer: StoredLayer) -> Tensor:
    """The power of two that puts the largest of MXFP4's scales at 256, near the top of e4m3."""
    largest = layer.tensor("scale").view(torch.uint8).max()
    return torch.ldexp(torch.ones(()), largest.int() - 127 - 8)


def mma_micro(layer: StoredLayer) -> Tensor:
    return as_e4m3(mma.micro(layer.tensor("scale"), layer.stored[0])).float() * tensor_factor(layer)


def tensor_factor(layer: StoredLayer) -> Tensor:
    if layer.module.key("tensor_factor") is None:
        return torch.ones(())
    return layer.tensor("tensor_factor").float().reshape(())


ZERO = 2.0**-30  # a scale that makes nothing of any code


def mma_micro_by_output(layer: StoredLayer) -> Tensor:
    scale = mma_micro(layer) * mma.by_output(layer.tensor("output_factor").float(), layer.stored[0])
    # groups of zeros, whose scale no FP8 weight may have
    return scale.clamp(min=ZERO)


def mma_pairs(codes: Tensor, inputs: int) -> Tensor:
    return swapped(mma.codes(codes, inputs), inputs)


def mma_floats(codes: Tensor, inputs: int) -> Tensor:
    """4-bit floats as the 8-bit ones of the same value."""
    return FORMATS["nvfp4"].values(mma_pairs(codes, inputs)).to(torch.float8_e4m3fn)


def swapped(codes: Tensor, inputs: int) -> Tensor:
    """Pairs of 4-bit codes with the other one in the high nibble."""
    byte = codes.view(torch.uint8)
    return (byte >> 4) | (byte << 4)


RANKED = ("up", "down")
UNSCALED = Kind("plain", (), unit)
SCALED = Kind("scaled", ("scale",), own_scale, may=("quant_scale",))
# what this pack writes of a weight of one scale or more that has a low-rank part beside it
SCALED_LOWRANK = Kind("scaled", ("scale", *RANKED), own_scale)
MXFP8 = Kind("mxfp8", ("scale",), micro_scale, "mxfp8", block=32)
NVFP4 = Kind("nvfp4", ("scale", "global_scale"), nested_scale, "nvfp4", tensor_scale, RANKED, block=16, per_element=2)
# the same with the nibbles the other way round, and the tensor's scale in other forms
NVFP4_LOW = Kind(
    "nvfp4", ("scale",), nested_scale, "nvfp4", tensor_scale, (*RANKED, "global_scale", "global_divisor", "alpha"),
    block=16, per_element=2, transcode=swapped,
)  # fmt: skip
MXFP4 = Kind("mxfp4", ("scale",), doubled_powers, "nvfp4", power_outer, per_element=2, transcode=swapped)
W4A4 = Kind("w4a4", ("scale",), own_scale, "int4_convrot", per_element=2)
W4A8 = Kind("w4a8", ("group_scale", "channel_scale"), grouped_scale, "int4", output_scale, ("codebook",), per_element=2)
SVDQUANT = Kind(
    "svdquant", ("scale", "up", "down", "smooth_divisor"), transposed_scale, "svdquant_w4a4", per_element=2, group=64
)
SVDQUANT_TILES = Kind(
    "svdquant", SVDQUANT.needs, transposed_scale, "svdquant_w4a4", per_element=2, group=64, transcode=mma.tiled_codes,
    tile=mma.ROWS,
)  # fmt: skip
AWQ = Kind("awq", ("scale", "offset"), transposed_scale, "awq_w4a16", offset=transposed_offset, per_element=2, group=64)
NUNCHAKU = Kind(
    "svdquant", SVDQUANT.needs, mma_scale, "svdquant_w4a4", per_element=2, group=64, transcode=mma.codes,
    tile=mma.ROWS,
)  # fmt: skip
NUNCHAKU_NVFP4 = Kind(
    "svdquant", ("scale", "tensor_factor", "up", "down", "smooth_divisor"), mma_micro, "nvfp4", tensor_factor,
    per_element=2, group=16, transcode=mma_pairs, tile=mma.ROWS,
)  # fmt: skip
# with a factor for each output, which NVFP4 has no place for: the same values as FP8
NUNCHAKU_FUSED = Kind(
    "svdquant", ("scale", "output_factor", "up", "down", "smooth_divisor"), mma_micro_by_output, "float8_e4m3fn",
    may=("tensor_factor",), per_element=2, group=16, transcode=mma_floats, tile=mma.ROWS,
)  # fmt: skip
# kinds whose vectors and low-rank parts lie in MMA order
MMA = (NUNCHAKU, NUNCHAKU_NVFP4, NUNCHAKU_FUSED)
NUNCHAKU_AWQ = Kind(
    "awq", ("scale", "offset"), awq_scale, "awq_w4a16", offset=awq_offset, per_element=8, group=64,
    transcode=mma.awq_codes, tile=mma.AWQ_ROWS,
)  # fmt: skip
