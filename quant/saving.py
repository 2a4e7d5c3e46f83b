"""The tensors a scaled weight is saved as: what ComfyUI core loads where it can, the field's names where it cannot."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from .granularity import PerBlock, PerGroup
from .weight import QuantizedWeight


def native_tensors(weight: QuantizedWeight, prefix: str) -> dict[str, Tensor]:
    """weight, weight_scale, comfy_quant and what else the layer needs, each name after prefix ("blocks.0.q.")."""
    scale = weight.scale.unsqueeze(-1) if isinstance(weight.granularity, PerGroup) else weight.scale
    tensors = {"weight": weight.codes, "weight_scale": scale, "comfy_quant": marker(weight)}
    optional = {"input_scale": weight.input_scale, "pre_quant_scale": weight.smooth}
    tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


# Granularity -> suffix of the format's name; convert_to_quant's names, which core refuses rather than misreads.
SUFFIXES = {"per-tensor": "", "per-row": "_rowwise", "block": "_blockwise", "group": "_block3d"}


def marker(weight: QuantizedWeight) -> Tensor:
    """ComfyUI's per-layer description as uint8 JSON."""
    entry: dict[str, object] = {"format": weight.format.name + SUFFIXES[weight.granularity.name]}
    if isinstance(weight.granularity, PerBlock):
        entry["group_size"] = weight.granularity.cols
    return torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
