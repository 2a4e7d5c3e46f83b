"""The tensors a scaled weight is saved as: what ComfyUI core loads where it can, the field's names where it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

from .formats import Format, inner_scale
from .granularity import Granularity, PerBlock, PerGroup
from .packing import padded
from .weight import QuantizedWeight

# Granularity -> suffix of the format's name; convert_to_quant's names, which core refuses rather than misreads.
SUFFIXES = {"per-tensor": "", "per-row": "_rowwise", "block": "_blockwise", "group": "_block3d"}


def loads_in_core(format: Format, granularity: Granularity, smoothed: bool = False) -> bool:
    """Whether ComfyUI core 0.33 loads such weights without this pack; a smoothing scale it reads for NVFP4 only."""
    if format.comfy is None or (smoothed and format.name != "nvfp4"):
        return False
    if format.name in ("float8_e4m3fn", "float8_e5m2"):
        return granularity.name == "per-tensor"
    return granularity.name in {g.name for g in format.granularities}


def runs_in_core(format: Format, granularity: Granularity, smoothed: bool) -> bool:
    """Whether core's own kernels are left to run it: all that it loads but FP8, whose activations it scales by 1."""
    return loads_in_core(format, granularity, smoothed) and not format.name.startswith("float8")


def native_tensors(weight: QuantizedWeight, prefix: str) -> dict[str, Tensor]:
    """weight, weight_scale, comfy_quant and what else the layer needs, each name after prefix ("blocks.0.q.")."""
    tensors = PARTS.get(weight.format.name, plain)(weight) | {"comfy_quant": marker(weight)}
    optional = {"input_scale": weight.input_scale, "pre_quant_scale": weight.smooth}
    tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def marker(weight: QuantizedWeight) -> Tensor:
    """ComfyUI's per-layer description as uint8 JSON."""
    return torch.tensor(list(json.dumps(description(weight)).encode()), dtype=torch.uint8)


def description(weight: QuantizedWeight) -> dict[str, object]:
    """What ComfyUI's comfy_quant and _quantization_metadata say of the layer."""
    if not loads_in_core(weight.format, weight.granularity, weight.smooth is not None):
        suffix = SUFFIXES[weight.granularity.name] or ("_smooth" if weight.smooth is not None else "")
        entry: dict[str, object] = {"format": weight.format.name + suffix}
        blocks = isinstance(weight.granularity, PerBlock)
        return entry | ({"group_size": weight.granularity.cols} if blocks else {})  # type: ignore[union-attr]
    entry = {"format": weight.format.comfy}
    if weight.format.grid:
        entry["group_size"] = weight.granularity.cols  # type: ignore[union-attr]
    if weight.rotation:
        entry |= {"convrot": True} if weight.format.comfy == "int8_tensorwise" else {}
        entry["convrot_groupsize"] = weight.rotation
    return entry


##### What each format keeps beside its marker


def plain(weight: QuantizedWeight) -> dict[str, Tensor]:
    scale = weight.scale.unsqueeze(-1) if isinstance(weight.granularity, PerGroup) else weight.scale
    return {"weight": weight.codes, "weight_scale": scale}


def mxfp8(weight: QuantizedWeight) -> dict[str, Tensor]:
    """Weight filled up to multiples of 32; exponents of the scales as bytes, in cuBLAS tiles."""
    exponents = (torch.frexp(weight.scale).exponent + 126).to(torch.uint8)
    codes, tiles = padded(weight.codes, 32, 32), padded(exponents, 32, 1)
    return {"weight": codes, "weight_scale": in_tiles(tiles)}


def nvfp4(weight: QuantizedWeight) -> dict[str, Tensor]:
    """Weight filled up to multiples of 16; float8_e4m3fn block scales in cuBLAS tiles, and the tensor's scale."""
    outer = outer_of(weight)
    inner = padded(inner_scale(weight.scale, outer).view(torch.uint8), 16, 1)
    tiles = in_tiles(inner).view(torch.float8_e4m3fn)
    return {"weight": padded(weight.codes, 16, 8), "weight_scale": tiles, "weight_scale_2": outer}


def int4(weight: QuantizedWeight) -> dict[str, Tensor]:
    outer = outer_of(weight)
    inner = inner_scale(weight.scale, outer)
    tensors = {"weight": weight.codes, "weight_s_rel": inner, "weight_s_channel": outer.flatten()}
    return tensors if weight.codebook is None else tensors | {"weight_codebook": weight.codebook}


def int4_convrot(weight: QuantizedWeight) -> dict[str, Tensor]:
    return {"weight": weight.codes, "weight_scale": weight.scale.flatten()}


PARTS: dict[str, Callable[[QuantizedWeight], dict[str, Tensor]]] = {
    "mxfp8": mxfp8,
    "nvfp4": nvfp4,
    "int4": int4,
    "int4_convrot": int4_convrot,
}


def in_tiles(scales: Tensor) -> Tensor:
    """Block scales in cuBLAS tiles, by comfy-kitchen, which takes longer to import than most weights to quantize."""
    import comfy_kitchen

    tiled: Tensor = comfy_kitchen.to_blocked(scales, flatten=False)
    return tiled


def outer_of(weight: QuantizedWeight) -> Tensor:
    """The scale one level up; where a weight came without, the one that uses all of the block scales' range."""
    if weight.outer is not None:
        return weight.outer
    assert weight.format.outer_maximum, f"{weight.format.name} weights need their outer scale"
    return weight.scale.amax() / weight.format.outer_maximum
