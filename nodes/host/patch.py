"""Scaled weights put into a clone of a MODEL by object patches: gone without a trace when the node is gone."""

from __future__ import annotations

import uuid
from pathlib import Path

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, PatcherInjection
from comfy.quant_ops import QuantizedTensor
from torch import Tensor
from torch.nn import Parameter

from ... import quant
from ...quant.files.memory import StateDictSource
from ...quant.kernels.plan import require
from ...quant.nn.tensor import is_scaled, to_tensor
from ...quant.patterns import compiled
from .linear import scaled_class
from .load import open_checkpoint, unet_tensors
from .plan import held, linears

CORE_FP8 = ("TensorCoreFP8Layout", "TensorCoreFP8E4M3Layout", "TensorCoreFP8E5M2Layout")
FP8_BY_DTYPE = {format.dtype: format for format in quant.FORMATS.values() if format.name.startswith("float8")}


def patch_model(
    model: ModelPatcher, compute: str, activation_scale: str, layers: str, scales_from: str | None
) -> ModelPatcher:
    """A clone whose Linears named by the regular expression layers run scaled; Refused where there is none."""
    selected = compiled(layers, "layers")
    weights = file_weights(model, scales_from) if scales_from else own_weights(model)
    patched = model.clone()
    choices = []
    for name, _ in linears(model):
        short = name.removeprefix("diffusion_model.")
        if short in weights and selected.search(short):
            weight = held(weights[short], model, compute, activation_scale)
            choices.append(weight._params.choice)
            base = model.get_model_object(f"{name}.__class__")
            patched.add_object_patch(f"{name}.weight", Parameter(weight, requires_grad=False))
            patched.add_object_patch(f"{name}.__class__", scaled_class(base))
    if not choices:
        raise quant.Refused(nothing_to_patch(layers, scales_from))
    require(choices, compute)
    settle(patched)
    return patched


def settle(patched: ModelPatcher) -> None:
    """Have ComfyUI measure and load a model anew whose object patches hold other weights."""
    patched.patches_uuid = uuid.uuid4()
    patched.size = 0
    patched.remove_callbacks_with_key(CallbacksMP.ON_LOAD, "scaled_fp8")
    patched.add_callback_with_key(CallbacksMP.ON_LOAD, "scaled_fp8", load_anew_with_lora)
    patched.remove_injections("scaled_fp8")
    # first, so that a bypass LoRA wraps the right forward
    ours = [PatcherInjection(inject=drop_stale_forwards, eject=lambda model: None)]
    patched.injections = {"scaled_fp8": ours, **patched.injections}


def drop_stale_forwards(model: ModelPatcher) -> None:
    """Take from modules the bound forward of their unpatched class, which a bypass LoRA leaves behind."""
    for _, module in linears(model):
        left = getattr(module.__dict__.get("forward"), "__func__", None)
        if left and any(vars(base).get("forward") is left for base in type(module).__mro__):
            del module.__dict__["forward"]


def load_anew_with_lora(model: ModelPatcher, *load: object) -> None:
    """Have ComfyUI merge a LoRA again at the next run, when it puts the object patches back over merged weights."""
    if model.patches:
        model.model.current_weight_patches_uuid = uuid.uuid4()


def nothing_to_patch(layers: str, scales_from: str | None) -> str:
    if scales_from:
        return f"{Path(scales_from).name} has no quantized weight for a layer of this model that matches {layers!r}."
    return f"No layer of this model that matches {layers!r} is FP8; quantize it first, or name a file in scales_from."


def base_weight(model: ModelPatcher, name: str) -> Tensor:
    """The weight of a layer without LoRA, whatever is patched into the shared module now."""
    key = f"{name}.weight"
    return model.backup[key].weight if key in model.backup else model.get_model_object(key)


def own_weights(model: ModelPatcher) -> dict[str, QuantizedTensor]:
    """Layer name -> scaled weight of what the model already holds in FP8; Refused where its scales were dropped."""
    weights, plain = {}, {}
    for name, _ in linears(model):
        weight, short = base_weight(model, name), name.removeprefix("diffusion_model.")
        if isinstance(weight, QuantizedTensor):
            weights[short] = as_scaled(weight)
        elif weight is not None and weight.dtype in FP8_BY_DTYPE:
            plain[f"{short}.weight"] = weight.data
    checkpoint = quant.read_checkpoint(StateDictSource(plain, name="this model")) if plain else {}
    weights |= {name: to_tensor(checkpoint[name], torch.bfloat16) for name in checkpoint}
    return {name: weight for name, weight in weights.items() if weight is not None}


def as_scaled(weight: QuantizedTensor) -> QuantizedTensor | None:
    """A weight of core's own FP8 layouts in this pack's; None for core's other formats, which keep core's kernels."""
    if is_scaled(weight):
        return weight
    if weight._layout_cls not in CORE_FP8:
        return None
    codes, scale = weight._qdata, weight._params.scale
    shape = (codes.shape[0], codes.shape[1])
    scaled = quant.QuantizedWeight(FP8_BY_DTYPE[codes.dtype], codes, scale.reshape(()), quant.PerTensor(), shape)
    return to_tensor(scaled, weight.dtype)


def file_weights(model: ModelPatcher, path: str) -> dict[str, QuantizedTensor]:
    """Layer name -> scaled weight from a file, under the names that this model's architecture gives them."""
    tensors = model.model.model_config.process_unet_state_dict(unet_tensors(open_checkpoint(path), [].append))
    weights = {key.removesuffix(".weight"): tensor for key, tensor in tensors.items() if is_scaled(tensor)}
    shapes = {name.removeprefix("diffusion_model."): (m.out_features, m.in_features) for name, m in linears(model)}
    for name, weight in weights.items():
        if name in shapes and tuple(weight.shape) != shapes[name]:
            raise quant.Refused(
                f"{Path(path).name}: {name} is {list(weight.shape)} there and {list(shapes[name])} in this model; "
                "take the scales from the file this model came from."
            )
    return weights
