"""A loaded model quantized in a clone, one layer at a time, by object patches; the original stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE
from comfy_api.torch_helpers.torch_compile import TORCH_COMPILE_KWARGS
from torch.nn import Module

from ...quant.calibration.rounding import rounded
from ...quant.calibration.store import Calibration
from ...quant.errors import Refused
from ...quant.kernels.mode import Mode
from ...quant.nn.component import Account, already, nbytes
from ...quant.nn.stats import LayerStats, Stats
from ...quant.nn.tensor import to_tensor
from ...quant.recipes.auto import Pick, pick
from ...quant.recipes.compile_warnings import get_quant_compile_warnings
from ...quant.recipes.families import Family
from ...quant.recipes.memory import compare_methods, estimates, own_granularity
from ...quant.recipes.policy import Policy, recognise
from ...quant.recipes.settings import FILE_NAME, Setting, find_settings
from ...quant.weights.native import core_runs
from ...quant.weights.weight import QuantizedWeight
from .callbacks import settle
from .encoder import by_patcher
from .layers import Own, base_weight, own_convolution, own_core_linear, own_linear, put
from .parts import Part, patcher_of
from .plan import activation_dtype, model_report, modules, planned, tensor_of
from .plan import layers as layers_of
from .vae import with_patcher
from .watch import unwatched

DEFAULT = "default"  # of a choice: what the settings say


@dataclass(frozen=True)
class Recipe:
    """What a user asks for; "default", and "auto" of a method, is what the settings say, else what nodes do.

    keep: regular expression of layers that stay in high precision, or "".
    """

    method: str
    granularity: str
    keep: str = ""
    component: str = "transformer"
    calibration: Calibration | None = None

    def pick(self, model: ModelPatcher, family: Family | None) -> tuple[Pick, str | None]:
        """Method, with the reason, and granularity: as asked for, or as settings say for this family."""
        settings, table = find_settings(folder_paths.get_user_directory()), family.name if family else None
        method = settings.resolve(self.component, table, asked(self.method), NODES[self.component])
        granularity = settings.resolve("granularity", table, asked(self.granularity), NODES["granularity"])
        chosen = pick(method.value, model.load_device, activation_dtype(model), self.component)
        return replace(chosen, reason=reason_of(chosen, method)), wanted(granularity, chosen)


def reason_of(chosen: Pick, method: Setting) -> str:
    """Why this method: the user or a settings file names it, or one of them leaves it to the device."""
    if method.origin == "argument" or method.is_default:
        return chosen.reason
    return method.origin if method.value != "auto" else f"{chosen.reason}; auto by {method.origin}"


def wanted(granularity: Setting, chosen: Pick) -> str | None:
    """The granularity to quantize by; the format's own where nobody asked for one that it has not."""
    return own_granularity(chosen.method.name, granularity.value) if granularity.is_default else granularity.value


# What the nodes do where neither the user nor a settings file says otherwise: who adds one wants it to quantize.
NODES = {"transformer": "auto", "encoder": "auto", "vae": "int8", "granularity": "per-tensor"}


def asked(value: str) -> str | None:
    return None if value in (DEFAULT, "auto") else value


def settings_stamp() -> tuple[int, int] | None:
    """What changes when the settings file does, so that a node runs again."""
    path = Path(folder_paths.get_user_directory()) / FILE_NAME
    found = path.stat() if path.exists() else None
    return (found.st_mtime_ns, found.st_size) if found else None


def quantize_model(model: ModelPatcher, recipe: Recipe) -> tuple[ModelPatcher, Stats]:
    """A clone of the model with quantized layers, and what was done; Refused where nothing can be quantized."""
    patched, layers = unwatched(model), list(layers_of(model, recipe.component))
    if recipe.calibration:
        recipe.calibration.check(name.removeprefix("diffusion_model.") for name, _ in layers)
    family = recognise((f"{name}.weight" for name, _ in layers), recipe.component)
    chosen, granularity = recipe.pick(model, family)
    if chosen.method.name == "none":
        return patched, summary(Account(chosen, family), ())
    policy = chosen.method.policy(recipe.component, granularity, recipe.keep, family)
    done = tuple(quantize_layer(patched, layer, policy, chosen, recipe.calibration) for layer in watched(layers))
    if not any(layer.quantized for layer in done):
        reasons = "; ".join(dict.fromkeys(layer.reason for layer in done)) or "it has no Linear layers"
        raise Refused(f"No layer of this model is left to quantize to {policy.format.name}: {reasons}.")
    settle(patched)
    patched.set_attachments(METHOD, chosen.method.name)
    return patched, summary(Account(chosen, family, policy), done)


def watched(layers: list[tuple[str, Module]]) -> Iterator[tuple[str, Module]]:
    """The layers, with a progress bar and a way to stop before each."""
    progress = comfy.utils.ProgressBar(len(layers))
    for layer in layers:
        management.throw_exception_if_processing_interrupted()
        yield layer
        progress.update(1)


def needs(quantized: ModelPatcher, recipe: Recipe, stats: Stats) -> str:
    """What the model holds and needs beside what is free, what each method would need, and what hurts here."""
    found = estimates(shapes(quantized), recipe.component, stats.granularity, keep=recipe.keep)
    resident, free = quantized.model_size(), management.get_free_memory(quantized.load_device)
    passing = next((max(row.activations, row.lora) for row in found if row.method == stats.method), 0)
    held, peak, left = (f"{size / 1e9:.3f} GB" for size in (resident, resident + passing, free))
    hurts = warnings(quantized) if compiled(quantized) else []
    lines = (
        f"memory: {held} resident, {peak} at most with activations or a LoRA; {left} free on {quantized.load_device}",
        "The original stays in memory as long as the output of its loader is cached.",
    )
    return "\n".join((*lines, *hurts, "", compare_methods(found, free)))


def quantize_report(part: Part, recipe: Recipe, stats: Stats) -> str:
    """What was done, what it needs and what hurts, and what runs where."""
    quantized = patcher_of(part)
    return "\n\n".join((stats.table(), needs(quantized, recipe, stats), model_report(quantized).table()))


def shapes(model: ModelPatcher) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a model loads; of a quantized one as it is without."""
    found = dict(modules(model))
    return {
        f"{name}.{part}".removeprefix("diffusion_model."): tuple(tensor.shape)
        for name, module in found.items()
        for part, tensor in module.named_parameters(recurse=False)
    }


METHOD = "scaled_fp8_method"


def warnings(model: ModelPatcher) -> list[str]:
    """What is known to hurt in a model as it is given to a sampler; nothing for one that no node here quantized."""
    method = model.get_attachment(METHOD)
    return get_quant_compile_warnings(method, compile_mode(model), offload(model)) if method else []


def compiled(model: ModelPatcher) -> dict[str, Any]:
    """What TorchCompileModel was told, empty where nothing is compiled."""
    return model.model_options.get(TORCH_COMPILE_KWARGS, {})


def compile_mode(model: ModelPatcher) -> str:
    options = compiled(model)
    if not options:
        return "none"
    return "reduce-overhead" if options.get("backend") == "cudagraphs" else options.get("mode") or "default"


def offload(model: ModelPatcher) -> str:
    """How ComfyUI moves the model's weights."""
    if model.load_device == model.offload_device:
        return "none"
    return "dynamic" if model.is_dynamic() else "model"


def quantize_layer(
    patched: ModelPatcher, layer: tuple[str, Module], policy: Policy, chosen: Pick, known: Calibration | None
) -> LayerStats:
    """Quantize one layer in the patcher's object patches, if the policy wants it."""
    name, module = layer
    weight, short = base_weight(patched, name), name.removeprefix("diffusion_model.")
    shape, before = tuple(weight.shape), nbytes(weight)
    decision = policy.decide(short, shape, already(weight))
    if not decision.quantize:
        return LayerStats(
            name=short, quantized=False, reason=decision.reason, shape=shape, bytes_before=before, bytes_after=before
        )
    source = weight.data.to(patched.load_device).flatten(1)
    found, note, gain = rounded(source, policy.format, policy.granularity, known, short)
    own = scaled_layer(patched, module, found.to(patched.offload_device), weight, chosen.method.compute)
    put(patched, name, own)
    made = tensor_of(own)
    assert made is not None
    reason = f"{decision.reason}; {note}" if note else decision.reason
    return LayerStats(
        name=short, quantized=True, reason=reason, shape=shape, bytes_before=before, bytes_after=nbytes(made), gain=gain
    )


def scaled_layer(
    patched: ModelPatcher, module: Module, weight: QuantizedWeight, original: torch.Tensor, compute: str
) -> Own:
    """A layer for a quantized weight that reads as the original did: core's where core has kernels for it."""
    if original.dim() == 2 and core_runs(weight):
        return own_core_linear(weight, original.dtype, patched.load_device)
    tensor = to_tensor(weight, original.dtype, shape=tuple(original.shape))
    if original.dim() > 2:
        return own_convolution(module, tensor)
    return own_linear(module, planned(tensor, patched, Mode(compute)))


def summary(account: Account, layers: tuple[LayerStats, ...]) -> Stats:
    before, after = sum(layer.bytes_before for layer in layers), sum(layer.bytes_after for layer in layers)
    return account.stats(("ComfyUI", "object patches on a clone"), layers, (before, after))


def quantize_text_encoder(clip: CLIP, recipe: Recipe) -> tuple[CLIP, Stats]:
    """A clone of CLIP with a quantized text encoder, and what was done."""
    quantized = by_patcher(clip.clone())
    quantized.patcher, stats = quantize_model(quantized.patcher, recipe)
    return quantized, stats


def quantize_vae(vae: VAE, recipe: Recipe) -> tuple[VAE, Stats]:
    """The VAE again with quantized layers, and what was done; the one given stays as it is."""
    patcher, stats = quantize_model(vae.patcher, recipe)
    return with_patcher(vae, patcher), stats
