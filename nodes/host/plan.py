"""Which kernel each Linear of a MODEL or CLIP runs on, decided once, and the report of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from torch import Tensor
from torch.nn import Module, Parameter

from ...quant.checkpoint.verdict import Verdict
from ...quant.kernels.plan import choose_for, choose_held, require
from ...quant.nn.report import Report, Row, report_choices
from ...quant.nn.tensor import from_tensor, is_scaled, to_tensor, with_choice


def modules(model: ModelPatcher) -> Iterator[tuple[str, Module]]:
    """Every name of every module of a model as this patcher will load it, whichever clone is loaded now."""
    for name, _ in model.model.named_modules(remove_duplicate=False):
        if name:
            yield name, model.get_model_object(name)


def linears(model: ModelPatcher) -> Iterator[tuple[str, Module]]:
    """Name and module of every Linear of a model, each once.

    What stands beside a diffusion model and prepares its conditions, outside of sampling, is not among them.
    """
    inside = "diffusion_model." if hasattr(model.model, "diffusion_model") else ""
    seen = set()
    for name, module in modules(model):
        if is_linear(module) and name.startswith(inside) and module not in seen:
            seen.add(module)
            yield name, module


def is_linear(module: Module) -> bool:
    """Whether this is a Linear of any of ComfyUI's classes."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


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


def held(weight: QuantizedTensor, model: ModelPatcher, compute: str, activation_scale: str) -> QuantizedTensor:
    """A file's weight as the model will hold it, FP8 as INT8 where that is asked for, with its kernel."""
    inner, dtype = from_tensor(weight), activation_dtype(model)
    found, choice = choose_held(inner, model.load_device, dtype, compute, activation_scale)
    return with_choice(weight, choice) if found is inner else to_tensor(found, weight.dtype, choice)


def plan_model(model: ModelPatcher, compute: str, activation_scale: str) -> None:
    """Choose for every scaled Linear of a model that nobody else holds yet; Refused where compute fits none."""
    for _, module in linears(model):
        if is_scaled(module.weight):
            weight = held(module.weight, model, compute, activation_scale)
            module.weight = Parameter(weight, requires_grad=False)
    require([weight._params.choice for _, weight in scaled_weights(model)], compute)


def scaled_weights(model: ModelPatcher) -> Iterator[tuple[str, Tensor]]:
    for name, module in linears(model):
        if is_scaled(module.weight):
            yield name.removeprefix("diffusion_model."), module.weight


def model_report(model: ModelPatcher) -> Report:
    """What runs where and why, with the calls counted so far; the layers that core's own kernels run last."""
    scaled = report_choices({name: weight._params.choice for name, weight in scaled_weights(model)})
    return Report((*scaled.rows, *core_rows(model)))


def load_report(model: ModelPatcher, verdicts: Iterable[Verdict]) -> str:
    """What the files are, what they lack, and what runs where."""
    absent = [name.removeprefix("diffusion_model.") for name, module in linears(model) if module.weight is None]
    lines = [verdict.sentence() for verdict in verdicts]
    plain = ", ".join(model.get_attachment(NOTES) or ())
    if plain:
        lines.append(f"Dequantized while loading, because no layer of the model holds it scaled: {plain}.")
    if absent:
        lines.append(f"Not in the file, and an error where the model uses them: {', '.join(absent)}.")
    return "\n".join((*lines, "", model_report(model).table()))


IN_CORE = "core has a kernel for this format"
# Attachment of a model: the file's names of what was dequantized while it was loaded.
NOTES = "scaled_fp8_dequantized"

# Layout of a weight -> its format, for the formats that core runs by itself.
CORE_FORMATS = {entry["comfy_tensor_layout"]: name for name, entry in QUANT_ALGOS.items()}


def core_rows(model: ModelPatcher) -> Iterator[Row]:
    """The layers in one of ComfyUI core's own formats; core does not count their calls."""
    for name, module in linears(model):
        weight = module.weight
        if isinstance(weight, QuantizedTensor) and not is_scaled(weight):
            format = CORE_FORMATS.get(weight._layout_cls, weight._layout_cls)
            yield Row(
                layer=name.removeprefix("diffusion_model."),
                kernel=f"ComfyUI core {format}",
                reason=IN_CORE,
                format=format,
                shape=(weight.shape[0], weight.shape[1]),
                activation="as core",
                slow=False,
            )
