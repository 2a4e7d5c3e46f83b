"""Which kernel each Linear of a MODEL or CLIP runs on, decided once, and the report of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from torch.nn import Module, Parameter

from ...quant.checkpoint.verdict import Verdict
from ...quant.kernels.choice import Choice
from ...quant.kernels.mode import Mode
from ...quant.kernels.plan import choose_for, choose_held, require
from ...quant.nn.component import candidates
from ...quant.nn.report import Report, Row, report_choices
from ...quant.nn.tensor import choice_of, from_tensor, is_scaled, to_tensor, with_choice

CONVOLUTIONS = (torch.nn.modules.conv._ConvNd,)


def modules(model: ModelPatcher) -> Iterator[tuple[str, Module]]:
    """Every name of every module of a model as this patcher will load it, whichever clone is loaded now."""
    for name, _ in model.model.named_modules(remove_duplicate=False):
        if name:
            yield name, model.get_model_object(name)


def tensor_of(module: Module, part: str = "weight") -> Parameter | None:
    """A module's own weight or bias: one that is out of its place answers others with the weight that stands there."""
    held = module._parameters
    return held[part] if part in held else getattr(module, part)


def linears(model: ModelPatcher) -> Iterator[tuple[str, Module]]:
    """Name and module of every Linear of a model, each once."""
    return layers(model, "transformer")


def layers(model: ModelPatcher, component: str) -> Iterator[tuple[str, Module]]:
    """Name and module of each layer whose weight may be quantized: the Linears, and a VAE's convolutions."""
    return candidates(inner_modules(model), component, is_linear, CONVOLUTIONS)


def inner_modules(model: ModelPatcher) -> Iterator[tuple[str, Module]]:
    """The modules of a model without those that stand beside a diffusion model and prepare its conditions, outside of
    sampling."""
    inside = "diffusion_model." if hasattr(model.model, "diffusion_model") else ""
    return ((name, module) for name, module in modules(model) if name.startswith(inside))


def is_linear(module: Module) -> bool:
    """Whether ComfyUI runs this as a Linear: not all of its own are torch's."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def activation_dtype(model: ModelPatcher) -> torch.dtype:
    """What a Linear of the model is called with; text encoders compute in float32."""
    return model.model.get_dtype_inference() if hasattr(model.model, "get_dtype_inference") else torch.float32


def device_name(device: torch.device) -> str:
    """A device as people know it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


def planned(weight: QuantizedTensor, model: ModelPatcher, mode: Mode) -> QuantizedTensor:
    """The same weight with its kernel chosen for the model's device."""
    inner, dtype = from_tensor(weight), activation_dtype(model)
    choice = choose_for(inner, model.load_device, dtype, mode)
    return with_choice(weight, choice)


def held(weight: QuantizedTensor, model: ModelPatcher, mode: Mode) -> QuantizedTensor:
    """A file's weight as the model will hold it, FP8 as INT8 where that is asked for, with its kernel."""
    inner, dtype = from_tensor(weight), activation_dtype(model)
    found, choice = choose_held(inner, model.load_device, dtype, mode)
    return with_choice(weight, choice) if found is inner else to_tensor(found, weight.dtype, choice)


def plan_model(model: ModelPatcher, mode: Mode) -> None:
    """Choose for every scaled Linear of a model that nobody else holds yet; Refused where mode fits none."""
    for _, module in linears(model):
        if is_scaled(module.weight):
            weight = held(module.weight, model, mode)
            module.weight = Parameter(weight, requires_grad=False)
    require(choices(model).values(), mode.compute)


def scaled_weights(model: ModelPatcher) -> Iterator[tuple[str, QuantizedTensor]]:
    """Name and weight of each layer; then those of ComfyUI's clones on other devices, named with the device."""
    for name, module in linears(model):
        weight = tensor_of(module)
        if is_scaled(weight):
            yield name.removeprefix("diffusion_model."), weight
    for clone in model.get_additional_models_with_key("multigpu"):
        yield from ((f"{clone.load_device}: {name}", weight) for name, weight in scaled_weights(clone))


def choices(model: ModelPatcher) -> dict[str, Choice]:
    """Layer -> the kernel planned for its scaled weight: every node that gives out a model has planned them all."""
    return {name: planned_for(weight) for name, weight in scaled_weights(model)}


def planned_for(weight: QuantizedTensor) -> Choice:
    choice = choice_of(weight)
    assert choice is not None, "a scaled weight was given out before its kernel was planned"
    return choice


def model_report(model: ModelPatcher) -> Report:
    """What runs where and why, with the calls counted so far; the layers that core's own kernels run last."""
    planned = choices(model)
    rounded = any(choice.kernel.rounds for choice in planned.values())
    rows = (*report_choices(planned).rows, *uncounted_rows(model))
    return Report(rows, (EACH_LAYER,) if rounded else ())


def load_report(model: ModelPatcher, verdicts: Iterable[Verdict]) -> str:
    """What the files are, what they lack, and what runs where."""
    absent = [name.removeprefix("diffusion_model.") for name, module in linears(model) if tensor_of(module) is None]
    lines = [verdict.sentence() for verdict in verdicts]
    plain = ", ".join(model.get_attachment(NOTES) or ())
    if plain:
        lines.append(f"Dequantized while loading, because no layer of the model holds it scaled: {plain}.")
    if absent:
        lines.append(f"Not in the file, and an error where the model uses them: {', '.join(absent)}.")
    if others := model.get_attachment(ABSENT):
        lines.append(f"Not in the file, and whatever was in memory where the model uses them: {', '.join(others)}.")
    return "\n".join((*lines, "", model_report(model).table()))


# siblings.py shares codes where torch counts a tensor's changes
EACH_LAYER = (
    "activations are quantized for each layer, also where q, k and v are fed the same: ComfyUI runs in inference mode, "
    "where nothing shows whether a tensor was changed in between"
)
KEPT_KERNEL = "high precision"
IN_CORE = "core has a kernel for this format"
# Attachment of a model: the file's names of what was dequantized while it was loaded.
NOTES = "scaled_fp8_dequantized"
# Of a model: the names of parameters, those of Linears apart, that its file lacks.
ABSENT = "scaled_fp8_absent"
DEQUANTIZED = "a convolution is dequantized each time it is used"
# Layout of a weight -> its format, for the formats that core runs by itself.
CORE_FORMATS = {entry["comfy_tensor_layout"]: name for name, entry in QUANT_ALGOS.items()}


def uncounted_rows(model: ModelPatcher) -> Iterator[Row]:
    """The quantized layers whose calls nobody counts."""
    yield from core_rows(model)
    yield from convolution_rows(model)


def convolution_rows(model: ModelPatcher) -> Iterator[Row]:
    """A VAE's convolutions with scaled weights."""
    for name, module in layers(model, "vae"):
        tensor = tensor_of(module)
        if isinstance(module, CONVOLUTIONS) and is_scaled(tensor):
            weight = from_tensor(tensor)
            yield Row(
                layer=name,
                kernel="upcast",
                reason=DEQUANTIZED,
                format=weight.format.name,
                granularity=weight.granularity.name,
                shape=weight.shape,
            )


def plain_rows(model: ModelPatcher, names: Set[str]) -> Iterator[Row]:
    """The layers of these names that are not quantized."""
    for name, module in layers(model, "vae"):
        short, weight = name.removeprefix("diffusion_model."), tensor_of(module)
        if short in names and weight is not None:
            yield Row(layer=short, kernel=KEPT_KERNEL, reason="not quantized", shape=tuple(weight.shape))


def core_rows(model: ModelPatcher) -> Iterator[Row]:
    """The layers in one of ComfyUI core's own formats."""
    for name, module in linears(model):
        weight = tensor_of(module)
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
