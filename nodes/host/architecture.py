"""A file's tensors by ComfyUI's names, and whether they are those of an architecture that ComfyUI knows."""

from __future__ import annotations

from collections.abc import Mapping

import comfy.model_detection
import comfy.ops
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import BASE
from torch import Tensor

from ...quant.errors import Refused
from ...quant.names import COMFYUI, MODEL
from ...quant.recipes.unscaled import CONTROL_NET, unscaled
from .diffusers import by_comfy_names

# Prefixes that producers write and ComfyUI's own detection does not strip.
FOREIGN_PREFIXES = tuple(prefix for prefix in MODEL if prefix not in COMFYUI)
Tensors = dict[str, Tensor]


def without_prefix(tensors: Tensors) -> Tensors:
    for prefix in FOREIGN_PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def unet_names(tensors: Tensors, metadata: Mapping[str, str]) -> Tensors:
    """The diffusion model's tensors by ComfyUI's names, before its own renames for the model family."""
    tensors = without_prefix(tensors)
    prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
    own = comfy.utils.state_dict_prefix_replace(dict(tensors), {prefix: ""}, filter_keys=True) or tensors
    known = comfy.model_detection.model_config_from_unet(own, "", metadata=dict(metadata))
    return own if known else by_comfy_names(own)


def fits_unet(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> bool:
    """Whether tensors of these names and shapes are those of a diffusion model that ComfyUI recognises by them."""
    try:
        tensors = of_shapes(shapes)
        own = unet_names(tensors, metadata)
        config = comfy.model_detection.model_config_from_unet(own, "", metadata=dict(metadata))
        wanted = parameter_shapes(config, own) if config else {}
        found = config.process_unet_state_dict(own) if config else {}
    except Exception:
        # shapes of no model at all, on which its detection or its constructor breaks
        return False
    met = {name: tuple(tensor.shape) for name, tensor in found.items() if name in wanted}
    return bool(met) and all(shape == wanted[name] for name, shape in met.items())


def of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Tensors of these shapes, without memory."""
    return {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in shapes.items()}


def check_no_control_net(file: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refused for a control net, which has an architecture's names, and which ComfyUI would take for one that lacks
    half of its weights."""
    if unscaled(shapes) is CONTROL_NET and not any(name.startswith(COMFYUI[0]) for name in shapes):
        raise Refused(
            f"{file}: is a control net, no diffusion model: load it with ComfyUI's Load ControlNet Model, if it has "
            "scales as what scaled-fp8 convert --format bfloat16 makes of it."
        )


def absent_from(shapes: Mapping[str, tuple[int, ...]], model: ModelPatcher) -> list[str]:
    """The parameters of a diffusion model that were not among tensors of these names; its Linears have none then."""
    found = model.model.model_config.process_unet_state_dict(of_shapes(shapes))
    wanted = [name for name, _ in model.model.diffusion_model.named_parameters()]
    absent = [name for name in wanted if name not in found]
    # names that only ComfyUI's loader translates
    return absent if len(absent) < len(wanted) else []


def parameter_shapes(config: BASE, tensors: Tensors) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of the architecture; nothing is allocated."""
    config.set_inference_dtype(torch.bfloat16, None, device=torch.device("meta"))
    config.custom_operations = comfy.ops.disable_weight_init
    with torch.device("meta"):
        model = config.get_model(dict(tensors), "", device=torch.device("meta"))
    return {name: tuple(parameter.shape) for name, parameter in model.diffusion_model.named_parameters()}
