"""The tensors a scaled weight is saved as: what ComfyUI core loads where it can, the field's names where it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

from .formats import CALIBRATED, FORMATS, Format, inner_scale
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


def core_reads(weight: QuantizedWeight) -> bool:
    """Whether core loads this very weight: it knows no low-rank part, and a rotation only of INT8 and INT4."""
    foreign = weight.up is not None or weight.offset is not None or (weight.rotation > 0 and not weight.format.rotates)
    return not foreign and loads_in_core(weight.format, weight.granularity, weight.smooth is not None)


def core_runs(weight: QuantizedWeight) -> bool:
    """Whether this very weight is left to core's own kernels."""
    return core_reads(weight) and runs_in_core(weight.format, weight.granularity, weight.smooth is not None)


def native_tensors(weight: QuantizedWeight, prefix: str) -> dict[str, Tensor]:
    """weight, weight_scale, comfy_quant and what else the layer needs, each name after prefix ("blocks.0.q.")."""
    tensors = PARTS.get(weight.format.name, plain)(weight) | {"comfy_quant": marker(weight)}
    tensors |= {name: tensor for name, tensor in beside(weight).items() if tensor is not None}
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def marker(weight: QuantizedWeight) -> Tensor:
    """ComfyUI's per-layer description as uint8 JSON."""
    return torch.tensor(list(json.dumps(description(weight)).encode()), dtype=torch.uint8)


def description(weight: QuantizedWeight) -> dict[str, object]:
    """A weight's marker: what ComfyUI's comfy_quant and _quantization_metadata say of how it is stored."""
    entry: dict[str, object] = {"format": weight.format.comfy if core_reads(weight) else own_name(weight)}
    if isinstance(weight.granularity, PerBlock) and (weight.format.grid or not core_reads(weight)):
        entry["group_size"] = weight.granularity.cols
    if weight.rotation:
        entry |= {} if weight.format.per_byte == 2 and weight.format.rotates else {"convrot": True}
        entry["convrot_groupsize"] = weight.rotation
    rows, columns = FILLED.get(weight.format.name, (1, 1))
    filled_up = weight.shape[0] % rows or weight.shape[1] % columns
    return entry | ({"orig_shape": list(weight.shape)} if filled_up else {})


def own_name(weight: QuantizedWeight) -> str:
    """A name that core refuses rather than misreads: what is unlike the format as core knows it, after its name."""
    own = "" if weight.format.name in PARTS else SUFFIXES[weight.granularity.name]
    unlike = {
        "_smooth": weight.smooth is not None and weight.format.name not in SMOOTHED,
        "_convrot": weight.rotation > 0 and not weight.format.rotates,
        "_lowrank": weight.up is not None and weight.format.name not in CALIBRATED,
    }
    return weight.format.name + own + "".join(suffix for suffix, has in unlike.items() if has)


def own_names() -> dict[str, Format]:
    """Every name that own_name can give -> the format it is made of."""
    ends = [f"{s}{r}{u}" for s in ("", "_smooth") for r in ("", "_convrot") for u in ("", "_lowrank")]
    every = {**FORMATS, **CALIBRATED}
    forms = {name: [""] if name in PARTS else list(SUFFIXES.values()) for name in every}
    return {f"{name}{form}{end}": every[name] for name in every for form in forms[name] for end in ends}


##### What each format keeps beside its marker


def plain(weight: QuantizedWeight) -> dict[str, Tensor]:
    scale = weight.scale.unsqueeze(-1) if isinstance(weight.granularity, PerGroup) else weight.scale
    return {"weight": weight.codes, "weight_scale": scale}


def beside(weight: QuantizedWeight) -> dict[str, Tensor | None]:
    """The tensors that a weight of any format may be stored with, beside its codes and scales."""
    known: dict[str, Tensor | None] = {"input_scale": weight.input_scale}
    if weight.format.name not in CALIBRATED:
        known["pre_quant_scale"] = weight.smooth
    if weight.up is None or weight.down is None:
        return known
    return known | {"proj_up": weight.up, "proj_down": weight.down.T.contiguous()}


def svdquant_w4a4(weight: QuantizedWeight) -> dict[str, Tensor]:
    """comfy-kitchen's natural order: scales ``[in / 64, out]``, and what the activations are divided by."""
    smooth = torch.ones(weight.shape[1]) if weight.smooth is None else 1 / weight.smooth
    # its kernel computes in the one dtype of all parts
    dtypes = HALVES if weight.up is None else (weight.up.dtype,)
    scale, smooth = halved((weight.scale.T.contiguous(), smooth), dtypes)
    return {"weight": weight.codes, "weight_scale": scale, "smooth_factor": smooth}


def awq_w4a16(weight: QuantizedWeight) -> dict[str, Tensor]:
    offset = torch.zeros_like(weight.scale) if weight.offset is None else weight.offset
    scale, zero = halved((weight.scale.T.contiguous(), offset.T.contiguous()), HALVES)
    return {"weight": weight.codes, "weight_scale": scale, "weight_zero": zero}


def halved(parts: tuple[Tensor, ...], dtypes: tuple[torch.dtype, ...]) -> tuple[Tensor, ...]:
    """Float32 parts in the first of these dtypes that they fit in but for the rounding of a reciprocal, or as given."""
    for dtype in dtypes:
        halves = tuple(part.to(dtype) for part in parts)
        if all(torch.allclose(half.float(), part, RECIPROCAL, 0) for half, part in zip(halves, parts, strict=True)):
            return halves
    return parts


def mxfp8(weight: QuantizedWeight) -> dict[str, Tensor]:
    """Weight filled up to multiples of 32; exponents of the scales as bytes, in cuBLAS tiles."""
    exponents = (torch.frexp(weight.scale).exponent + 126).to(torch.uint8)
    codes, tiles = padded(weight.codes, *FILLED["mxfp8"]), padded(exponents, 32, 1)
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
    "svdquant_w4a4": svdquant_w4a4,
    "awq_w4a16": awq_w4a16,
}
# every name that a layer has in a file beside weight and bias, in one format or another
NAMES = frozenset(
    {
        "comfy_quant", "weight_scale", "weight_scale_2", "weight_s_rel", "weight_s_channel", "weight_codebook",
        "weight_zero", "smooth_factor", "input_scale", "pre_quant_scale", "proj_up", "proj_down",
    }
)  # fmt: skip
FILLED = {"mxfp8": (32, 32), "nvfp4": (16, 16)}  # what rows and columns are filled up to multiples of
RECIPROCAL = 4 * torch.finfo(torch.float32).eps  # what twice dividing 1 changes at most
HALVES = (torch.bfloat16, torch.float16)
SMOOTHED = ("nvfp4", "svdquant_w4a4", "awq_w4a16")  # that have smoothing of their own, or never any


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


def put_values(tensors: dict[str, Tensor], layer: str, values: Tensor) -> None:
    """Put a layer's values ``[out, in]`` into a file's tensors, for its codes and all that is beside them."""
    for part in NAMES:
        tensors.pop(f"{layer}.{part}", None)
    tensors[f"{layer}.weight"] = values
