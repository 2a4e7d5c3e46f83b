"""Control LoRAs, which ComfyUI makes whole by a model's own weights, taken by name: they are given what those mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import comfy.utils
from comfy.controlnet import ControlBase, ControlLora
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.quant_ops import QuantizedTensor
from torch.nn import Module

KEY = "scaled_fp8_controls"


def serve_controls(model: ModelPatcher) -> None:
    """Have the control LoRAs that a model samples with get its weights, not their codes."""
    model.remove_wrappers_with_key(WrappersMP.CALC_COND_BATCH, KEY)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, served)


def served(executor: Callable[..., Any], model: BaseModel, conds: list[Any], *args: Any, **kwargs: Any) -> Any:
    for control in controls(conds):
        # ComfyUI makes its net anew before each sampling
        if isinstance(control, ControlLora) and not hasattr(control.control_model, KEY):
            give_values(control, model.diffusion_model)
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
            comfy.utils.set_attr_param(net, f"{name}.weight", weight.dequantize())
    setattr(net, KEY, True)
