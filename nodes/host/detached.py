"""A layer as a model would run it, of a model that is not loaded: made for one call from the tensors it stands on."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any

import comfy.float
import comfy.lora
import comfy.model_management as management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from comfy.weight_adapter.bypass import BypassForwardHook, BypassInjectionManager
from torch import Tensor
from torch.nn import Module, Parameter

from ...quant.errors import Refused
from ...quant.text import few
from . import callbacks
from .layers import PARTS, base_tensor, copied

# layer -> adapter and strength of each LoRA beside it
Bypasses = Mapping[str, Sequence[tuple[Any, float]]]


def layer_of(model: ModelPatcher, name: str, bypasses: Bypasses) -> Module:
    """A layer that computes as the model's would, with its LoRA, from the same tensors; the model's stays untouched."""
    module = model.get_model_object(name)
    layer: Any = copied(module, type(module))
    for part in PARTS:
        tensor = base_tensor(model, name, part)
        if tensor is not None:
            setattr(layer, part, Parameter(merged(model, layer, f"{name}.{part}", tensor).data, False))
    layer.comfy_cast_weights = True
    layer.comfy_force_cast_weights = model.force_cast_weights
    for part in PARTS:
        setattr(layer, f"{part}_function", [*model.weight_wrapper_patches.get(f"{name}.{part}", ())])
    for adapter, strength in bypasses.get(name, ()):
        BypassForwardHook(layer, copy.copy(adapter), strength).inject()
    return layer


def merged(model: ModelPatcher, layer: Module, key: str, tensor: Tensor) -> Tensor:
    """A weight or bias with the model's LoRA, as core merges it on loading."""
    if key not in model.patches:
        return tensor
    device, seed = model.load_device, comfy.utils.string_to_seed(key)
    part = key.rpartition(".")[2]
    convert, store = (getattr(layer, f"{verb}_{part}", None) for verb in ("convert", "set"))
    plain = management.cast_to_device(tensor, device, management.lora_compute_dtype(device), copy=True)
    plain = comfy.lora.calculate_weight(model.patches[key], convert(plain, inplace=True) if convert else plain, key)
    if store is None:
        return comfy.float.stochastic_rounding(plain, tensor.dtype, seed=seed)
    setattr(layer, part, Parameter(tensor, False))
    return store(plain, inplace_update=False, seed=seed, return_weight=True)


def same_layer(a: ModelPatcher, b: ModelPatcher, name: str) -> bool:
    """Whether a layer is the very same in both, with its LoRAs, so that nothing can tell its outputs apart."""
    if a.get_model_object(name) is not b.get_model_object(name) or compute_dtype(a) != compute_dtype(b):
        return False
    return injected(a) == injected(b) and all(same_patches(a, b, f"{name}.{part}") for part in PARTS)


def same_patches(a: ModelPatcher, b: ModelPatcher, key: str) -> bool:
    """Whether the same LoRAs and wrappers are on a weight, each the same object."""
    one, other = ([*model.patches.get(key, ()), *model.weight_wrapper_patches.get(key, ())] for model in (a, b))
    return len(one) == len(other) and all(map(is_, one, other))


def injected(model: ModelPatcher) -> dict[str, list[PatcherInjection]]:
    """What stands beside layers; not this pack's own, which only lends a place to that."""
    return {key: found for key, found in model.injections.items() if key != callbacks.KEY}


def compute_dtype(model: ModelPatcher) -> torch.dtype:
    """What a model's layers are called with, whichever clone of it is loaded now."""
    return model.get_model_object("manual_cast_dtype") or model.model.get_dtype()


def bypasses(model: ModelPatcher) -> Bypasses:
    """Layer -> the LoRAs beside it."""
    found: dict[str, list[tuple[Any, float]]] = {}
    for manager in managers(model).values():
        for name, pair in manager.adapters.items() if isinstance(manager, BypassInjectionManager) else ():
            found.setdefault(name, []).append(pair)
    return found


def check_visible(model: ModelPatcher) -> None:
    """Refused where something wraps the model's layers that nobody can look into."""
    if hidden := wrapping(model):
        raise Refused(f"model_b: {few(hidden, 3)} wraps its layers, which hides them; set attribute to never.")


def wrapping(model: ModelPatcher) -> list[str]:
    """What wraps a model's layers and is no LoRA."""
    return [key for key, manager in managers(model).items() if not isinstance(manager, BypassInjectionManager)]


def managers(model: ModelPatcher) -> dict[str, object]:
    """Injection -> who manages it, as far as its function tells."""
    pairs = ((key, one) for key, every in injected(model).items() for one in every)
    return {key: inspect.getclosurevars(one.inject).nonlocals.get("self") for key, one in pairs}
