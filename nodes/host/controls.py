"""Control LoRAs, control nets that are differences to a model, and those of SD 3.5: ComfyUI makes them whole by the
model's own weights, taken by name. They are given what those mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain
from typing import Any

import comfy.utils
from comfy.controlnet import ControlBase, ControlLora, ControlNetSD35
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy.quant_ops import QuantizedTensor
from torch import Tensor
from torch.nn import Module

from .plan import tensor_of

KEY = "scaled_fp8_controls"


class Served:
    """Mixed in before a patcher's class: whoever reads a weight from its state dict, as ComfyUI does to make a control
    net of a difference, reads what the codes mean."""

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Tensor]:
        patcher: Any = super()
        return Meant(self, patcher.model_state_dict(filter_prefix))


class Meant(dict[str, Tensor]):
    """A model's state dict that answers with a layer's values for its codes, one layer at a time."""

    def __init__(self, model: ModelPatcher, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.model = model

    def __getitem__(self, name: str) -> Tensor:
        layer = name.removesuffix(".weight")
        if f"{layer}.comfy_quant" not in self:
            return super().__getitem__(name)
        return values(self.model.get_model_object(layer))


@cache
def served_class(base: Any) -> type[ModelPatcher]:
    return base if issubclass(base, Served) else type(f"Served{base.__name__}", (Served, base), {})


def serve_controls(model: ModelPatcher) -> None:
    """Have the controls that a model samples with, and nets that are made of it, get its weights, not their codes."""
    kind: Any = type(model)
    model.__class__ = served_class(kind)
    model.remove_wrappers_with_key(WrappersMP.CALC_COND_BATCH, KEY)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, served)
    # ComfyUI clones into another class where it leaves dynamic VRAM
    model.remove_callbacks_with_key(CallbacksMP.ON_CLONE, KEY)
    model.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, lambda model, clone: serve_controls(clone))


def served(executor: Callable[..., Any], model: BaseModel, conds: list[Any], *args: Any, **kwargs: Any) -> Any:
    for control in controls(conds):
        # ComfyUI makes its net anew before each sampling
        if isinstance(control, ControlLora) and not hasattr(control.control_model, KEY):
            give_values(control, model.diffusion_model)
        elif isinstance(control, ControlNetSD35):
            give_embedder(control.control_model, model.diffusion_model)
    return executor(model, conds, *args, **kwargs)


def controls(conds: list[Any]) -> Iterator[ControlBase]:
    """Every control of some conditions, those that stand before another too."""
    for condition in chain.from_iterable(filter(None, conds)):
        control = condition.get("control")
        while control is not None:
            yield control
            control = control.previous_controlnet


def give_values(control: ControlLora, diffusion_model: Module) -> None:
    """Put the dequantized weights where ComfyUI has put codes."""
    net, own = control.control_model, control.control_weights
    places = {name for name, _ in net.named_modules()}
    for name, module in diffusion_model.named_modules():
        weight = getattr(module, "weight", None)
        if name in places and isinstance(weight, QuantizedTensor) and f"{name}.weight" not in own:
            comfy.utils.set_attr_param(net, f"{name}.weight", values(module))
    setattr(net, KEY, True)


def give_embedder(net: Module, diffusion_model: Module) -> None:
    """Put the dequantized weights of the embedder that ComfyUI has copied, over its codes."""
    ours, theirs = ("orig_y_embedder", "y_embedder") if net.double_y_emb else ("x_embedder", "x_embedder")
    target = net.get_submodule(ours)
    for name, layer in diffusion_model.get_submodule(theirs).named_modules():
        if isinstance(getattr(layer, "weight", None), QuantizedTensor):
            comfy.utils.copy_to_param(target, f"{name}.weight", values(layer))


def values(layer: Module) -> Tensor:
    """What a layer's codes mean, with the smoothing that core's own layers keep beside them."""
    weight: Any = tensor_of(layer)
    smooth = layer._parameters.get("pre_quant_scale")
    found: Tensor = weight.dequantize()
    return found if smooth is None else found * smooth.to(found)
