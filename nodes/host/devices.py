"""ComfyUI's clones of a model on other devices: layers of their own, each planned and counted for its device."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from comfy.quant_ops import QuantizedTensor
from torch import Tensor
from torch.nn import Module, Parameter

from ...quant.kernels.choice import Choice
from ...quant.kernels.mode import Mode
from ...quant.kernels.plan import require
from ...quant.nn.tensor import choice_of, is_scaled
from .layers import PARTS, Own, base_tensor, copied, own_layers, stand
from .leases import follow, place
from .plan import linears, planned, planned_for, tensor_of

# model of a clone -> layer of a patch -> its copy there, the same one whenever ComfyUI clones anew
COPIES: weakref.WeakKeyDictionary[Module, weakref.WeakKeyDictionary[Own, Own]] = weakref.WeakKeyDictionary()


def move_in(model: ModelPatcher, clone: ModelPatcher) -> None:
    """Give a clone that is of another model layers of its own: one without dynamic VRAM, or on another device."""
    if clone.model is model.model:
        return
    copies = COPIES.setdefault(clone.model, weakref.WeakKeyDictionary())
    for name, own in own_layers(model):
        if own not in copies:
            copies[own] = copy_of(own, name, model, clone)
            follow(own, clone, copies[own])
        clone.object_patches[name] = copies[own]


def copy_of(own: Own, name: str, model: ModelPatcher, clone: ModelPatcher) -> Own:
    """The layer called name of a model anew in a clone's, without LoRA."""
    copy = copied(own, type(own))
    for part in PARTS:
        tensor = base_tensor(model, name, part)
        # memory of the first device would stay taken as long as the copy is not loaded
        kept = None if tensor is None else Parameter(tensor.data.to(clone.offload_device), requires_grad=False)
        setattr(copy, part, kept)
    stand(clone, name, copy)
    return copy


def settle_there(model: ModelPatcher, clone: ModelPatcher) -> None:
    """Once ComfyUI has given a clone its device: choose for that one by what was asked for, count there apart."""
    by_compute: dict[str, list[Choice]] = defaultdict(list)
    for module, weight, choice in planned_elsewhere(clone):
        there = planned(weight, clone, Mode(choice.compute, choice.layer.activation))
        replace_weight(module, there)
        by_compute[choice.compute].append(planned_for(there))
    for compute, choices in by_compute.items():
        require(choices, compute)
    place(clone, dict.fromkeys(own for _, own in own_layers(clone)))


def planned_elsewhere(clone: ModelPatcher) -> Iterator[tuple[Module, QuantizedTensor, Choice]]:
    """The layers whose kernel was chosen for another device than the clone's, each with weight and choice."""
    for _, module in linears(clone):
        weight = tensor_of(module)
        if is_scaled(weight) and (choice := choice_of(weight)) and choice.layer.device != clone.load_device:
            yield module, weight, choice


def replace_weight(module: Module, weight: Tensor) -> None:
    parameter = Parameter(weight, requires_grad=False)
    module.weight = parameter
    if isinstance(module, Own) and module.held:
        module.held["weight"] = parameter


def attend(model: ModelPatcher, callbacks: Mapping[str, Callable[..., None]]) -> None:
    """Have ComfyUI call these for a model and its clones, each once: ComfyUI's event -> what is done then."""
    for event, callback in callbacks.items():
        model.remove_callbacks_with_key(event, KEY)
        model.add_callback_with_key(event, KEY, callback)


KEY = "scaled_fp8"
DEVICE_CALLBACKS: dict[str, Callable[..., None]] = {
    CallbacksMP.ON_DEEPCLONE_MULTIGPU: settle_there,
    CallbacksMP.ON_MATCH_MULTIGPU_CLONES: settle_there,
}
