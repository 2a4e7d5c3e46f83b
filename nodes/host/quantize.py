"""A loaded model quantized in a clone, one layer at a time, by object patches; the original stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from torch.nn import Module, Parameter

from ...quant.calibration.rounding import rounded
from ...quant.calibration.store import Calibration
from ...quant.errors import Refused
from ...quant.nn.component import policy_of
from ...quant.nn.stats import LayerStats, Stats
from ...quant.nn.tensor import is_scaled, to_tensor
from ...quant.recipes.auto import Pick, pick
from ...quant.recipes.compile_warnings import get_quant_compile_warnings
from ...quant.recipes.families import Family
from ...quant.recipes.memory import estimate_memory
from ...quant.recipes.policy import Policy, recognise
from ...quant.recipes.settings import find_settings
from ...quant.weights.weight import QuantizedWeight
from ..inputs import DEFAULT
from .linear import core_linear, left_to_core, scaled_class
from .patch import base_weight, settle
from .plan import activation_dtype, linears, planned


@dataclass(frozen=True)
class Recipe:
    """What a user asks for; "default" is what the settings say.

    keep: regular expression of layers that stay in high precision, or "".
    """

    method: str
    granularity: str
    keep: str = ""
    component: str = "transformer"
    calibration: Calibration | None = None

    def pick(self, model: ModelPatcher, family: Family | None) -> tuple[Pick, str]:
        """Method, with the reason, and granularity: as asked for, or as settings say for this family."""
        settings, table = find_settings(folder_paths.get_user_directory()), family.name if family else None
        method = settings.resolve(self.component, table, self.method if self.method != DEFAULT else None)
        granularity = settings.resolve("granularity", table, self.granularity if self.granularity != DEFAULT else None)
        chosen = pick(method.value, model.load_device, activation_dtype(model), self.component)
        reason = chosen.reason if self.method != DEFAULT else f"{chosen.reason}; {method}"
        return replace(chosen, reason=reason), granularity.value


def quantize_model(model: ModelPatcher, recipe: Recipe) -> tuple[ModelPatcher, Stats]:
    """A clone of the model with quantized layers, and what was done; Refused where nothing can be quantized."""
    patched, layers = model.clone(), list(candidates(model, recipe.component))
    family = recognise((f"{name}.weight" for name, _ in layers), recipe.component)
    chosen, granularity = recipe.pick(model, family)
    if chosen.method.name == "none":
        return patched, summary(chosen, None, family, ())
    policy = policy_of(chosen.method, recipe.component, granularity, recipe.keep, family)
    done = tuple(quantize_layer(patched, layer, policy, chosen, recipe.calibration) for layer in watched(layers))
    if not any(layer.quantized for layer in done):
        reasons = "; ".join(dict.fromkeys(layer.reason for layer in done)) or "it has no Linear layers"
        raise Refused(f"No layer of this model is left to quantize to {policy.format.name}: {reasons}.")
    settle(patched)
    return patched, summary(chosen, policy, family, done)


def watched(layers: list[tuple[str, Module]]) -> Iterator[tuple[str, Module]]:
    """The layers, with a progress bar and a way to stop before each."""
    progress = comfy.utils.ProgressBar(len(layers))
    for layer in layers:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield layer
        progress.update(1)


def needs(model: ModelPatcher, recipe: Recipe, method: str) -> str:
    """One line of memory that the model will need, and what is known to hurt with this method here."""
    names = [(name, model.get_model_object(f"{name}.weight")) for name, _ in candidates(model, recipe.component)]
    shapes = {f"{name}.weight": tuple(weight.shape) for name, weight in names}
    found = estimate_memory(shapes, method, recipe.component, None, keep=recipe.keep)
    sizes = f"{found.resident / 1e6:.1f} MB resident, {found.peak / 1e6:.1f} MB at most with activations or a LoRA"
    offload = "none" if model.load_device == model.offload_device else "model"
    return "\n".join((f"memory: {sizes}", *get_quant_compile_warnings(method, None, offload)))


def candidates(model: ModelPatcher, component: str) -> Iterator[tuple[str, Module]]:
    """Name and module of every layer whose weight may be quantized: Linears, and a VAE's convolutions."""
    yield from linears(model)
    if component == "vae":
        modules = model.model.named_modules()
        yield from ((name, module) for name, module in modules if isinstance(module, torch.nn.modules.conv._ConvNd))


def quantize_layer(
    patched: ModelPatcher, layer: tuple[str, Module], policy: Policy, chosen: Pick, known: Calibration | None
) -> LayerStats:
    """Quantize one layer in the patcher's object patches, if the policy wants it."""
    name, module = layer
    weight, short = base_weight(patched, name), name.removeprefix("diffusion_model.")
    shape, before = tuple(weight.shape), weight.nbytes
    decision = policy.decide(short, shape, already(weight))
    if not decision.quantize:
        return LayerStats(short, False, decision.reason, shape, before, before)
    source = weight.data.to(patched.load_device).flatten(1)
    found = rounded(source, policy.format, policy.granularity, known, short).to(patched.offload_device)
    install(patched, name, found, shape, chosen.method.compute)
    after = found.codes.nbytes + found.scale.nbytes
    return LayerStats(short, True, decision.reason, shape, before, after)


def already(weight: torch.Tensor) -> str:
    """What a weight is quantized to, "" if it is not."""
    if isinstance(weight, QuantizedTensor):
        return f"quantized to {weight._params.format.name if is_scaled(weight) else weight._layout_cls}"
    return "" if weight.dtype.itemsize > 1 else f"{str(weight.dtype).removeprefix('torch.')} without scales"


def install(patched: ModelPatcher, name: str, weight: QuantizedWeight, shape: tuple[int, ...], compute: str) -> None:
    """Put a quantized weight and the class that runs it into the patcher."""
    dtype = patched.get_model_object(f"{name}.weight").dtype
    base = patched.get_model_object(f"{name}.__class__")
    if len(shape) == 2 and left_to_core(weight):
        tensor, kind = core_linear(weight, dtype, patched.load_device)
    else:
        tensor, kind = to_tensor(weight, dtype, shape=shape), scaled_class(base)
        tensor = planned(tensor, patched, compute, "dynamic") if len(shape) == 2 else tensor
    patched.add_object_patch(f"{name}.weight", Parameter(tensor, requires_grad=False))
    patched.add_object_patch(f"{name}.__class__", kind)


def summary(chosen: Pick, policy: Policy | None, family: Family | None, layers: tuple[LayerStats, ...]) -> Stats:
    before, after = sum(layer.bytes_before for layer in layers), sum(layer.bytes_after for layer in layers)
    return Stats(
        chosen.method.name,
        chosen.reason,
        policy.format.name if policy else None,
        policy.granularity.name if policy else None,
        "ComfyUI",
        "object patches on a clone",
        family.title if family else "generic",
        layers,
        before,
        after,
    )


def quantize_text_encoder(clip, recipe: Recipe):
    """A clone of CLIP with a quantized text encoder, and what was done."""
    quantized = clip.clone()
    quantized.patcher, stats = quantize_model(quantized.patcher, recipe)
    return quantized, stats


def quantize_vae(vae, recipe: Recipe):
    """The VAE again with quantized layers, and what was done; the one given stays as it is."""
    quantized = copy.copy(vae)
    quantized.patcher, stats = quantize_model(vae.patcher, recipe)
    return quantized, stats
