"""What ComfyUI does by a layer's name, done to the right layer: clones, memory, LoRAs, backups."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

from comfy.model_patcher import LowVramPatch, ModelPatcher
from comfy.patcher_extension import CallbacksMP, PatcherInjection
from torch import Tensor
from torch.nn import Module, Parameter

from ...quant.nn.component import nbytes
from .casting import unmark
from .controls import serve_controls
from .devices import DEVICE_CALLBACKS, KEY, attend, move_in
from .layers import PARTS, Own, own_layers
from .leases import lease
from .plan import modules, tensor_of


def settle(patched: ModelPatcher) -> None:
    """Have ComfyUI measure and load a model anew that has layers of its own."""
    patched.patches_uuid = uuid.uuid4()
    patched.size = sum(nbytes(tensor) for tensor in tensors(patched))
    lease(patched, dict.fromkeys(own for _, own in own_layers(patched)))
    unmark(patched)
    serve_controls(patched)
    attend(patched, CALLBACKS)
    # first, so that it lends before a bypass LoRA wraps
    ours = [PatcherInjection(inject=lend, eject=lambda model: None)]
    patched.injections = {KEY: ours, **{key: value for key, value in patched.injections.items() if key != KEY}}


def tensors(model: ModelPatcher) -> Iterator[Tensor]:
    """Every parameter and buffer that a patcher will load, each once."""
    found = dict(modules(model)).values()
    held = (t for m in found for t in (*m.parameters(recurse=False), *m.buffers(recurse=False)))
    yield from {id(tensor): tensor for tensor in held}.values()


class Lent:
    """What stands for a layer's forward in the original: a bypass LoRA wraps it, whatever wraps the layer itself.

    The layer has the original's weight while LoRAs are made to wrap it: they are cast to its dtype for good, and are
    of other patchers too, which have the original.
    """

    def __init__(self, own: Own, original: Module) -> None:
        self.forward: Callable[..., Tensor] = own.forward
        self.own, self.weight = own, own._parameters["weight"]
        vars(original)["forward"], own._parameters["weight"] = self, tensor_of(original, "weight")

    def taken(self, original: Module) -> object:
        """The layer as it was, and the original; what wraps this."""
        self.own._parameters["weight"] = self.weight
        return vars(original).pop("forward", self)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.forward(x, *args, **kwargs)


def lend(model: ModelPatcher) -> None:
    """Have a bypass LoRA, made while the original stood there, wrap this patch's layer when it wraps the original."""
    for own, original in replaced(model):
        own.lent = Lent(own, original)


def take(model: ModelPatcher) -> None:
    for own, original, lent in lending(model):
        wrapped = lent.taken(original)
        if wrapped is not lent:
            # another bypass LoRA, made while this layer stood there, has wrapped it
            lent.forward = own.forward
            own.__setattr__("forward", wrapped)


def replaced(model: ModelPatcher) -> Iterator[tuple[Own, Module]]:
    """Each layer of a loaded model's own, once however many places it has, with the one that was there."""
    backup = model.object_patches_backup
    places = [(own, backup[name]) for name, own in own_layers(model) if name in backup]
    # the first place: under a second name of one parent the layer itself was there already
    yield from dict(reversed(places)).items()


def lending(model: ModelPatcher) -> Iterator[tuple[Own, Module, Lent]]:
    """Those that lend, with what they lent."""
    yield from ((own, original, own.lent) for own, original in replaced(model) if own.lent is not None)


def give_back(model: ModelPatcher) -> None:
    for _, original, lent in lending(model):
        if vars(original).get("forward") is lent:
            # a LoRA that raised has left it so
            lent.taken(original)
    for own, original in replaced(model):
        for module in (own, original):
            vars(module).pop("forward", None)


def loaded(model: ModelPatcher, *load: object) -> None:
    keep_backups(model)
    unmark(model)


def keep_backups(model: ModelPatcher) -> None:
    """Let no layer stay under ComfyUI's backups of dynamic VRAM, which outlive it in its place.

    They are of small layers and of those whose shape a LoRA changes; these are cast, and merged, at each use.
    """
    for name, own in own_layers(model):
        for part in PARTS:
            key = f"{name}.{part}"
            if part in own.held and key in model.backup:
                heal(model, key, own)
    for module in model.model.modules():
        # an extent of memory from a block's first layer to its last, which own layers lie outside of
        if "_v_block" in vars(module):
            vars(module)["_v_block"] = None


def heal(model: ModelPatcher, key: str, own: Own) -> None:
    """Undo the loading of one tensor: to its owner what ComfyUI put onto own, to own what is its."""
    name, _, part = key.rpartition(".")
    backup = model.backup.pop(key).weight
    held = own.held[part]
    if held is None or backup.data_ptr() != held.data_ptr():
        setattr(model.object_patches_backup[name], part, Parameter(backup, requires_grad=False))
    setattr(own, part, held)
    setattr(own, f"{part}_function", [LowVramPatch(key, model.patches)] if key in model.patches else [])


CALLBACKS: dict[str, Callable[..., None]] = {
    **DEVICE_CALLBACKS,
    CallbacksMP.ON_CLONE: move_in,
    CallbacksMP.ON_LOAD: loaded,
    CallbacksMP.ON_INJECT_MODEL: take,
    CallbacksMP.ON_EJECT_MODEL: give_back,
}
