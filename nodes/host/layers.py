"""A layer of a patch's own: a new module in another's place, so that ComfyUI's bookkeeping on a module is its alone."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Iterator
from functools import cache

import comfy.ops
import comfy.utils
import torch
from comfy.model_patcher import LowVramPatch, ModelPatcher
from comfy.patcher_extension import CallbacksMP, PatcherInjection
from torch import Tensor
from torch.nn import Module, Parameter

from ...quant.nn.component import nbytes
from ...quant.weights.native import native_tensors
from ...quant.weights.weight import QuantizedWeight
from .leases import lease
from .linear import ScaledConvolution, ScaledLinear, core_ops
from .plan import count_anew, modules, plan_there

PARTS = ("weight", "bias")
# What ComfyUI keeps on a module to stream, merge and wrap it; nothing of it is true of another module's bytes.
BOOKKEEPING = frozenset(
    {
        "_v", "_v_signature", "_v_weight", "_v_bias", "_pins", "_pin_state", "_prefetch", "seed_key", "forward",
        "weight_function", "bias_function", "weight_lowvram_function", "bias_lowvram_function", "comfy_cast_weights",
        "prev_comfy_cast_weights", "held", "parent", "attribute", "lent", "comfy_force_cast_weights",
        "comfy_patched_weights",
    }
)  # fmt: skip


class Own:
    """Mixed in before a layer's class: a layer that may be out of its place while others hold on to it.

    parent, attribute: where it stands when its patch is loaded; lent: what stands for its forward in the original;
    held: its own tensors where ComfyUI's backups, which go by name, may be put back onto whichever layer stands there
    (dynamic VRAM).
    """

    parent: weakref.ref[Module] | None = None
    attribute = ""
    held: dict[str, Tensor] = {}
    lent: Lent | None = None

    def standing(self) -> Module:
        """The layer that is in this one's place now."""
        parent = self.parent() if self.parent else None
        return self if parent is None else parent._modules.get(self.attribute, self)

    def forward(self, x, *args, **kwargs):
        standing = self.standing()
        if standing is not self:
            # a bypass LoRA was made while this layer stood here, and is used with another one
            return type(standing).forward(standing, x, *args, **kwargs)
        return super().forward(x, *args, **kwargs)

    def __setattr__(self, name, value):
        standing = self.standing() if name == "forward" else self
        if standing is self:
            super().__setattr__(name, value)
        elif getattr(value, "__self__", None) is self:
            vars(standing).pop("forward", None)
        else:
            standing.forward = value


@cache
def own_class(base: type, *mixins: type) -> type:
    """base as a layer of a patch's own; one a class, so that torch.compile sees one type."""
    return base if issubclass(base, Own) else type(f"Own{base.__name__}", (Own, *mixins, base), {})


def own_linear(module: Module, weight: Tensor) -> Module:
    """A new Linear with a scaled weight ``[out, in]`` in the place of module."""
    base = own_class(comfy.ops.manual_cast.Linear, ScaledLinear)
    own = base(module.in_features, module.out_features, bias=False, device="meta")
    own.weight = Parameter(weight, requires_grad=False)
    own.bias_comfy_model_dtype = getattr(module, "bias_comfy_model_dtype", None)
    return own.train(module.training)


def own_core_linear(weight: QuantizedWeight, dtype: torch.dtype, device: torch.device) -> Module:
    """A new Linear of core's own, with a weight as core itself loads it from a file to run it on device."""
    own = own_class(core_ops(dtype, device).Linear)(weight.shape[1], weight.shape[0], bias=False)
    own._load_from_state_dict(native_tensors(weight, ""), "", {}, True, [], [], [])
    return own


def own_convolution(module: Module, weight: Tensor) -> Module:
    """A copy of a convolution of any class with a scaled weight."""
    own = copied(module, own_class(type(module), ScaledConvolution))
    own.weight = Parameter(weight, requires_grad=False)
    return own


def copied(module: Module, cls: type) -> Module:
    """Another module of class cls with the same tensors and settings, and nothing of what ComfyUI keeps on it."""
    copy = cls.__new__(cls)
    kept = {name: value for name, value in vars(module).items() if name not in BOOKKEEPING}
    vars(copy).update({name: value.copy() if isinstance(value, dict) else value for name, value in kept.items()})
    return copy


def base_tensor(model: ModelPatcher, name: str, part: str = "weight") -> Tensor | None:
    """A layer's weight or bias without LoRA, whichever clone of the model is loaded now."""
    module, key = model.get_model_object(name), f"{name}.{part}"
    if key in model.object_patches:
        return model.object_patches[key]
    if comfy.utils.get_attr(model.model, name) is module:
        if key in model.hook_backup:
            return model.hook_backup[key][0]
        if key in model.backup:
            return model.backup[key].weight
    return getattr(module, part)


def put(patched: ModelPatcher, name: str, own: Module) -> None:
    """Put a layer in the place of the one called name, with that one's bias, wherever else the model uses it."""
    original = patched.get_model_object(name)
    bias = base_tensor(patched, name, "bias")
    own.bias = None if bias is None else Parameter(bias.data.to(patched.offload_device), requires_grad=False)
    stand(patched, name, own)
    for part in PARTS:
        patched.object_patches.pop(f"{name}.{part}", None)
    for alias, module in list(modules(patched)):
        if module is original:
            patched.add_object_patch(alias, own)


def stand(patched: ModelPatcher, name: str, own: Module) -> None:
    """Tell a layer where it stands in a patcher's model."""
    parent, _, attribute = name.rpartition(".")
    own.parent, own.attribute = weakref.ref(comfy.utils.get_attr(patched.model, parent)), attribute
    own.held = {part: getattr(own, part) for part in PARTS} if patched.is_dynamic() else {}


# model of a clone -> layer of a patch -> the layer in its place there; the same one whenever ComfyUI clones anew
COPIES: weakref.WeakKeyDictionary[Module, weakref.WeakKeyDictionary[Module, Module]] = weakref.WeakKeyDictionary()


def move_in(model: ModelPatcher, clone: ModelPatcher) -> None:
    """Give a clone that is of another model layers of its own: one without dynamic VRAM, or on another device."""
    if clone.model is model.model:
        return
    copies = COPIES.setdefault(clone.model, weakref.WeakKeyDictionary())
    for name, own in own_layers(model):
        if own not in copies:
            copies[own] = copied(own, type(own))
            for part in PARTS:
                tensor = base_tensor(model, name, part)
                setattr(copies[own], part, None if tensor is None else Parameter(tensor.data, requires_grad=False))
            count_anew(copies[own])
            stand(clone, name, copies[own])
        clone.object_patches[name] = copies[own]


def settle(patched: ModelPatcher) -> None:
    """Have ComfyUI measure and load a model anew that has layers of its own."""
    patched.patches_uuid = uuid.uuid4()
    patched.size = sum(nbytes(tensor) for tensor in tensors(patched))
    lease(patched, dict.fromkeys(own for _, own in own_layers(patched)))
    for event, callback in CALLBACKS.items():
        patched.remove_callbacks_with_key(event, KEY)
        patched.add_callback_with_key(event, KEY, callback)
    # first, so that it lends before a bypass LoRA wraps
    ours = [PatcherInjection(inject=lend, eject=lambda model: None)]
    patched.injections = {KEY: ours, **{key: value for key, value in patched.injections.items() if key != KEY}}


def tensors(model: ModelPatcher) -> Iterator[Tensor]:
    """Every parameter and buffer that a patcher will load, each once."""
    found = dict(modules(model)).values()
    held = (t for m in found for t in (*m.parameters(recurse=False), *m.buffers(recurse=False)))
    yield from {id(tensor): tensor for tensor in held}.values()


def own_layers(model: ModelPatcher) -> Iterator[tuple[str, Own]]:
    for name, module in model.object_patches.items():
        if isinstance(module, Own):
            yield name, module


##### What ComfyUI does by a layer's name, done to the right layer


class Lent:
    """What stands for a layer's forward in the original: a bypass LoRA wraps it, whatever wraps the layer itself.

    The original has the layer's weight too while LoRAs are made to wrap it: they compute in its dtype.
    """

    def __init__(self, own: Own, original: Module) -> None:
        self.forward, self.weight = own.forward, original._parameters["weight"]
        vars(original)["forward"], original._parameters["weight"] = self, own.weight

    def taken(self, original: Module) -> object:
        """The original as it was; what wraps this."""
        original._parameters["weight"] = self.weight
        return vars(original).pop("forward", self)

    def __call__(self, x, *args, **kwargs):
        return self.forward(x, *args, **kwargs)


def lend(model: ModelPatcher) -> None:
    """Have a bypass LoRA, made while the original stood there, wrap this patch's layer when it wraps the original."""
    for own, original in replaced(model):
        own.lent = Lent(own, original)


def take(model: ModelPatcher) -> None:
    for own, original in replaced(model):
        wrapped = own.lent.taken(original)
        if wrapped is not own.lent:
            # another bypass LoRA, made while this layer stood there, has wrapped it
            own.lent.forward = own.forward
            own.forward = wrapped


def replaced(model: ModelPatcher) -> Iterator[tuple[Own, Module]]:
    """Each layer of a loaded model's own with the one whose place it has."""
    for name, own in own_layers(model):
        if name in model.object_patches_backup:
            yield own, model.object_patches_backup[name]


def give_back(model: ModelPatcher) -> None:
    for own, original in replaced(model):
        if own.lent is not None and vars(original).get("forward") is own.lent:
            # a LoRA that raised has left it so
            own.lent.taken(original)
        for module in (own, original):
            vars(module).pop("forward", None)


def keep_backups(model: ModelPatcher, *load: object) -> None:
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
            module._v_block = None


def heal(model: ModelPatcher, key: str, own: Own) -> None:
    """Undo the loading of one tensor: to its owner what ComfyUI put onto own, to own what is its."""
    name, _, part = key.rpartition(".")
    backup = model.backup.pop(key).weight
    if backup.data_ptr() != own.held[part].data_ptr():
        setattr(model.object_patches_backup[name], part, Parameter(backup, requires_grad=False))
    setattr(own, part, own.held[part])
    setattr(own, f"{part}_function", [LowVramPatch(key, model.patches)] if key in model.patches else [])


KEY = "scaled_fp8"
CALLBACKS = {
    CallbacksMP.ON_CLONE: move_in,
    CallbacksMP.ON_DEEPCLONE_MULTIGPU: plan_there,
    CallbacksMP.ON_LOAD: keep_backups,
    CallbacksMP.ON_INJECT_MODEL: take,
    CallbacksMP.ON_EJECT_MODEL: give_back,
}
