"""A layer of a patch's own: a new module in another's place, so that ComfyUI's bookkeeping on a module is its alone."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import comfy.ops
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import Module, Parameter

from ...quant.weights.native import native_tensors
from ...quant.weights.weight import QuantizedWeight
from .linear import Named, ScaledConvolution, ScaledLinear, SetInPlace, core_ops
from .plan import modules, tensor_of

if TYPE_CHECKING:
    from .callbacks import Lent

PARTS = ("weight", "bias")
M = TypeVar("M", bound=Module)
# What ComfyUI keeps on a module to stream, merge and wrap it; nothing of it is true of another module's bytes.
BOOKKEEPING = frozenset(
    {
        "_v", "_v_signature", "_v_weight", "_v_bias", "_pins", "_pin_state", "_prefetch", "seed_key", "forward",
        "weight_function", "bias_function", "weight_lowvram_function", "bias_lowvram_function", "comfy_cast_weights",
        "prev_comfy_cast_weights", "held", "parent", "attribute", "lent", "comfy_force_cast_weights",
        "comfy_patched_weights",
    }
)  # fmt: skip


class Own(Named):
    """Mixed in before a layer's class: a layer that may be out of its place while others hold on to it.

    parent, attribute: where it stands when its patch is loaded; lent: what stands for its forward in the original;
    held: its own tensors where ComfyUI's backups, which go by name, may be put back onto whichever layer stands there
    (dynamic VRAM).
    """

    parent: weakref.ref[Module] | None = None
    attribute = ""
    held: dict[str, Parameter | None] = {}
    weight: Parameter
    bias: Parameter | None
    bias_comfy_model_dtype: torch.dtype | None
    lent: Lent | None = None

    def standing(self) -> Module:
        """The layer that is in this one's place now."""
        parent = self.parent() if self.parent else None
        found = None if parent is None else parent._modules.get(self.attribute)
        return self if found is None else found

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        standing = self.standing()
        if standing is not self:
            # a bypass LoRA was made while this layer stood here, and is used with another one
            return type(standing).forward(standing, x, *args, **kwargs)
        return super().forward(x, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # a bypass LoRA computes in the dtype of what it wraps, and asks the layer that stood here when it was made
        standing = self.standing() if name == "weight" else self
        return super().__getattr__(name) if standing is self else standing.weight

    def __setattr__(self, name: str, value: Any) -> None:
        standing = self.standing() if name == "forward" else self
        if standing is self:
            super().__setattr__(name, value)
        elif getattr(value, "__self__", None) is self:
            vars(standing).pop("forward", None)
        else:
            setattr(standing, name, value)


@cache
def own_class(base: Any, *mixins: type) -> type[Own]:
    """base as a layer of a patch's own; one a class, so that torch.compile sees one type."""
    return base if issubclass(base, Own) else type(f"Own{base.__name__}", (Own, *mixins, base), {})


def own_linear(module: Module, weight: Tensor) -> Own:
    """A new Linear with a scaled weight ``[out, in]`` in the place of module."""
    base = own_class(comfy.ops.manual_cast.Linear, ScaledLinear)
    own = base(module.in_features, module.out_features, bias=False, device="meta")
    own.weight = Parameter(weight, requires_grad=False)
    own.bias_comfy_model_dtype = getattr(module, "bias_comfy_model_dtype", None)
    return own.train(module.training)


def own_core_linear(weight: QuantizedWeight, dtype: torch.dtype, device: torch.device) -> Own:
    """A new Linear of core's own, with a weight as core itself loads it from a file to run it on device."""
    linear: Any = core_ops(dtype, device).Linear
    own = own_class(linear, SetInPlace)(weight.shape[1], weight.shape[0], bias=False)
    own._load_from_state_dict(native_tensors(weight, ""), "", {}, True, [], [], [])
    return own


def own_convolution(module: Module, weight: Tensor) -> Own:
    """A copy of a convolution of any class with a scaled weight."""
    kind: Any = type(module)
    own = copied(module, own_class(kind, ScaledConvolution))
    own.weight = Parameter(weight, requires_grad=False)
    return own


def copied(module: Module, cls: type[M]) -> M:
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
    return tensor_of(module, part)


def base_weight(model: ModelPatcher, name: str) -> Tensor:
    """A layer's weight without LoRA, where it is known to have one."""
    weight = base_tensor(model, name)
    assert weight is not None
    return weight


def put(patched: ModelPatcher, name: str, own: Own) -> None:
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


def stand(patched: ModelPatcher, name: str, own: Own) -> None:
    """Tell a layer where it stands in a patcher's model."""
    parent, _, attribute = name.rpartition(".")
    own.parent, own.attribute = weakref.ref(comfy.utils.get_attr(patched.model, parent)), attribute
    own.held = {part: tensor_of(own, part) for part in PARTS} if patched.is_dynamic() else {}


def own_layers(model: ModelPatcher) -> Iterator[tuple[str, Own]]:
    for name, module in model.object_patches.items():
        if isinstance(module, Own):
            yield name, module
