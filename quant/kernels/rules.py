"""What a kernel may need of a layer and its device: a rule answers None, or a clause that completes "{kernel} ..."."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..weights.formats import Format
from ..weights.granularity import Granularity, PerBlock, PerGroup, PerRow, PerTensor
from .compiler import compiler_refuses
from .quantizers import kitchen_refuses, triton_kernels, triton_refuses


@dataclass(frozen=True)
class Workload:
    """What decides whether a kernel fits. shape: ``(out, in)``; dtype: the activations'; activation: their scaling.

    has_transform: whether the weight is smoothed or rotated; rotation: the group, where that is all it is.
    """

    format: Format
    granularity: Granularity
    shape: tuple[int, int]
    device: torch.device
    dtype: torch.dtype
    has_transform: bool = False
    activation: str = "dynamic"
    rotation: int = 0


Requirement = Callable[[Workload], "str | None"]


def untransformed(layer: Workload) -> str | None:
    return "needs a weight without smoothing or rotation" if layer.has_transform else None


def only_rotated(layer: Workload) -> str | None:
    return None if layer.rotation else "needs a weight that is rotated and not smoothed"


def ocp_codes(layer: Workload) -> str | None:
    fits = layer.format.dtype in (torch.float8_e4m3fn, torch.float8_e5m2)
    return None if fits else f"needs float8_e4m3fn or float8_e5m2 codes, not {layer.format.name}"


def format_is(name: str, layer: Workload) -> str | None:
    return None if layer.format.name == name else f"needs {name} codes, not {layer.format.name}"


def float_activations(layer: Workload) -> str | None:
    fits = layer.dtype in (torch.bfloat16, torch.float16, torch.float32)
    return None if fits else f"needs bfloat16, float16 or float32 activations, not {layer.dtype}"


def tensor_scale(layer: Workload) -> str | None:
    fits = isinstance(layer.granularity, PerTensor)
    return None if fits else f"needs a per-tensor scale, not {layer.granularity.name}"


def row_scales(layer: Workload) -> str | None:
    fits = isinstance(layer.granularity, (PerTensor, PerRow))
    return None if fits else f"needs per-row scales, not {layer.granularity.name}"


def one_activation_scale(layer: Workload) -> str | None:
    return "needs one scale for all activations; dynamic ones are per token" if layer.activation == "dynamic" else None


def square_blocks(layer: Workload) -> str | None:
    fits = layer.granularity == PerBlock(128, 128) and not isinstance(layer.granularity, PerGroup)
    return None if fits else f"needs blocks of 128 x 128, not {layer.granularity.name}"


def own_groups(layer: Workload) -> str | None:
    """Scales as the format itself has them: what matrix units read of MXFP8 and NVFP4."""
    own = layer.format.granularities[0]
    return None if layer.granularity == own else f"needs scales of {own}, not of {layer.granularity}"


def tile_scales(layer: Workload) -> str | None:
    fits = isinstance(layer.granularity, PerBlock) and layer.format.per_byte == 1
    return None if fits else f"needs block or group scales, not {layer.format.name} {layer.granularity.name}"


def byte_floats(layer: Workload) -> str | None:
    fits = layer.format.dtype.is_floating_point and layer.format.dtype.itemsize == 1
    return None if fits else f"needs one float8 a byte, not {layer.format.name}"


def cpu(layer: Workload) -> str | None:
    return None if layer.device.type == "cpu" else f"is for CPUs, not {layer.device.type}"


def compiled_here(layer: Workload) -> str | None:
    return compiler_refuses()


def triton_bytes(layer: Workload) -> str | None:
    if reason := triton_refuses(layer.device):
        return f"needs Triton, which {reason}"
    fits = layer.format.per_byte == 1 and layer.format.dtype in triton_kernels().KINDS
    return None if fits else f"needs bytes that it can decode, not {layer.format.name}"


def torch_scaled_mm(layer: Workload) -> str | None:
    return None if hasattr(F, "scaled_mm") else "needs a torch with torch.nn.functional.scaled_mm"


def int32_sums(layer: Workload) -> str | None:
    most = 2**31 // 128**2
    return None if layer.shape[1] <= most else f"sums at most {most} products in int32, not {layer.shape[1]}"


def cuda(layer: Workload) -> str | None:
    fits = layer.device.type == "cuda" and torch.version.hip is None
    return None if fits else f"needs an NVIDIA GPU, not {layer.device.type}"


def kitchen_cuda(layer: Workload) -> str | None:
    reason = kitchen_refuses(layer.device)
    return f"needs comfy-kitchen, which {reason}" if reason else None


def ada_or_hopper(layer: Workload) -> str | None:
    if reason := cuda(layer):
        return reason
    major, minor = torch.cuda.get_device_capability(layer.device)
    return None if (8, 9) <= (major, minor) <= (9, 0) else f"changes nothing on sm_{major}{minor}"


def on_blackwell(layer: Workload) -> str | None:
    if reason := cuda(layer):
        return reason
    major, minor = torch.cuda.get_device_capability(layer.device)
    return None if major >= 10 else f"needs the matrix units of Blackwell, not sm_{major}{minor}"
