"""Scaled weights put into a clone of a MODEL by object patches: gone without a trace when the node is gone."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from ... import quant
from ...quant.files.memory import StateDictSource
from ...quant.kernels.mode import Mode
from ...quant.kernels.plan import require
from ...quant.nn.tensor import is_scaled, to_tensor
from ...quant.patterns import compiled
from .callbacks import settle
from .layers import base_tensor, own_linear, put
from .load import open_checkpoint, unet_tensors
from .plan import held, linears, planned_for

CORE_FP8 = ("TensorCoreFP8Layout", "TensorCoreFP8E4M3Layout", "TensorCoreFP8E5M2Layout")
FP8_BY_DTYPE = {format.dtype: format for format in quant.FORMATS.values() if format.name.startswith("float8")}


def patch_model(model: ModelPatcher, mode: Mode, layers: str, scales_from: str | None) -> ModelPatcher:
    """A clone whose Linears named by the regular expression layers run scaled; Refused where there is none."""
    selected = compiled(layers, "layers")
    weights = file_weights(model, scales_from) if scales_from else own_weights(model)
    patched = model.clone()
    choices = []
    for name, module in list(linears(model)):
        short = name.removeprefix("diffusion_model.")
        if short in weights and selected.search(short):
            weight = held(weights[short].to(model.offload_device), model, mode)
            choices.append(planned_for(weight))
            put(patched, name, own_linear(module, weight))
    if not choices:
        raise quant.Refused(nothing_to_patch(layers, scales_from))
    require(choices, mode.compute)
    settle(patched)
    return patched


def nothing_to_patch(layers: str, scales_from: str | None) -> str:
    if scales_from:
        return f"{Path(scales_from).name} has no quantized weight for a layer of this model that matches {layers!r}."
    return f"No layer of this model that matches {layers!r} is FP8; quantize it first, or name a file in scales_from."


def own_weights(model: ModelPatcher) -> dict[str, QuantizedTensor]:
    """Layer name -> scaled weight of what the model already holds in FP8; Refused where its scales were dropped."""
    weights: dict[str, QuantizedTensor | None] = {}
    plain: dict[str, Tensor] = {}
    for name, module in linears(model):
        weight, short = base_tensor(model, name), name.removeprefix("diffusion_model.")
        if isinstance(weight, QuantizedTensor):
            weights[short] = as_scaled(weight, getattr(module, "pre_quant_scale", None))
        elif weight is not None and weight.dtype in FP8_BY_DTYPE:
            plain[f"{short}.weight"] = weight.data
    checkpoint = quant.read_checkpoint(StateDictSource(plain, name="this model")) if plain else {}
    weights |= {name: to_tensor(checkpoint[name], torch.bfloat16) for name in checkpoint}
    return {name: weight for name, weight in weights.items() if weight is not None}


def as_scaled(weight: QuantizedTensor, smooth: Tensor | None = None) -> QuantizedTensor | None:
    """A weight of core's own FP8 layouts in this pack's; None for core's other formats, which keep core's kernels."""
    if is_scaled(weight):
        return weight
    if weight._layout_cls not in CORE_FP8:
        return None
    codes, scale = weight.layout_cls.get_plain_tensors(weight)
    shape = (codes.shape[0], codes.shape[1])
    scaled = quant.QuantizedWeight(
        FP8_BY_DTYPE[codes.dtype], codes, scale.reshape(()), quant.PerTensor(), shape, smooth=smooth
    )
    return to_tensor(scaled, weight.dtype)


def file_weights(model: ModelPatcher, path: str) -> dict[str, QuantizedTensor]:
    """Layer name -> scaled weight from a file, under the names that this model's architecture gives them."""
    notes: list[str] = []
    tensors = model.model.model_config.process_unet_state_dict(unet_tensors(open_checkpoint(path), notes.append))
    weights = {key.removesuffix(".weight"): tensor for key, tensor in tensors.items() if is_scaled(tensor)}
    shapes = {name.removeprefix("diffusion_model."): (m.out_features, m.in_features) for name, m in linears(model)}
    for name, weight in weights.items():
        if name in shapes and tuple(weight.shape) != shapes[name]:
            raise quant.Refused(
                f"{Path(path).name}: {name} is {list(weight.shape)} there and {list(shapes[name])} in this model; "
                "take the scales from the file this model came from."
            )
    return weights
