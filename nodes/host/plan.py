"""Which kernel each Linear of a MODEL or CLIP runs on, decided once, and the report of it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from torch import Tensor
from torch.nn import Module, Parameter

from ...quant.layout import from_tensor, is_scaled, with_choice
from ...quant.plan import choose_for, require
from ...quant.report import Report, Row, report_choices


def linears(model: ModelPatcher) -> Iterator[tuple[str, Module]]:
    """Name and module of every Linear of a model, as the model is without patches."""
    for name, module in model.model.named_modules():
        if hasattr(module, "in_features") and hasattr(module, "out_features"):
            yield name, module


def activation_dtype(model: ModelPatcher) -> torch.dtype:
    """What a Linear of the model is called with; text encoders compute in float32."""
    return model.model.get_dtype_inference() if hasattr(model.model, "get_dtype_inference") else torch.float32


def device_name(device: torch.device) -> str:
    """A device as people know it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


def planned(weight: QuantizedTensor, model: ModelPatcher, compute: str, activation_scale: str) -> QuantizedTensor:
    """The same weight with its kernel chosen for the model's device."""
    inner, dtype = from_tensor(weight), activation_dtype(model)
    choice = choose_for(inner, model.load_device, dtype, compute, activation_scale)
    return with_choice(weight, choice)


def plan_model(model: ModelPatcher, compute: str, activation_scale: str) -> None:
    """Choose for every scaled Linear of a model that nobody else holds yet; Refused where compute fits none."""
    for _, module in linears(model):
        if is_scaled(module.weight):
            weight = planned(module.weight, model, compute, activation_scale)
            module.weight = Parameter(weight, requires_grad=False)
    require([weight._params.choice for _, weight in scaled_weights(model)], compute)


def scaled_weights(model: ModelPatcher) -> Iterator[tuple[str, Tensor]]:
    for name, _ in linears(model):
        weight = model.get_model_object(f"{name}.weight")
        if is_scaled(weight):
            yield name.removeprefix("diffusion_model."), weight


def model_report(model: ModelPatcher) -> Report:
    """What runs where and why, with the calls counted so far; the layers that core's own kernels run last."""
    scaled = report_choices({name: weight._params.choice for name, weight in scaled_weights(model)})
    return Report((*scaled.rows, *(core_row(name, module) for name, module in linears(model) if in_core(module))))


def in_core(module: Module) -> bool:
    return isinstance(module.weight, QuantizedTensor) and not is_scaled(module.weight)


def core_row(name: str, module: Module) -> Row:
    """A layer in one of ComfyUI core's own formats; core does not count its calls."""
    format, weight = module.quant_format, module.weight
    granularity = "per-row" if weight._params.scale.numel() == weight.shape[0] else ""
    shape, short = (weight.shape[0], weight.shape[1]), name.removeprefix("diffusion_model.")
    return Row(
        short, f"ComfyUI core {format}", "core has this format's own kernel", format, granularity, shape, "", 0, {}
    )
