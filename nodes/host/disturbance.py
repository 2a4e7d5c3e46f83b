"""Clones of a MODEL whose layers put out what they would with other weights; their own stay where and what they are."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ...quant.calibration.disturbance import DISTURBED_BY, added
from ...quant.nn.component import already
from ...quant.recipes.policy import Policy, recognise
from .calibrations import plain
from .layers import base_weight
from .watch import PREFIX, running, weights

KEY = "scaled_fp8_disturbed"


def disturbing(model: ModelPatcher, differences: Mapping[str, Tensor]) -> ModelPatcher:
    """A clone whose layers compute with their weights plus differences ``[out, in]``, by layer."""

    def call(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Any:
        modules = running(executor.class_obj)
        with added({modules[name]: difference for name, difference in differences.items()}):
            return executor(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, call)
    return clone


def disturbed(model: ModelPatcher, groups: str) -> list[list[str]]:
    """The layers that may be quantized, each alone or by block."""
    held = dict(weights(model))
    family = recognise(f"{name}.weight" for name in held)
    policy = Policy(DISTURBED_BY, DISTURBED_BY.granularities[0], family=family)
    wanted = {name: policy.decide(name, tuple(weight.shape), already(weight)).quantize for name, weight in held.items()}
    chosen = [name for name, is_wanted in wanted.items() if is_wanted]
    if groups == "layer":
        return [[name] for name in chosen]
    return [list(group) for _, group in groupby(chosen, key=lambda name: ".".join(name.split(".")[:2]))]


def weight_of(model: ModelPatcher, name: str) -> Tensor:
    """A layer's weight without LoRA, float32 ``[out, in]`` on the model's device."""
    return plain(base_weight(model, PREFIX + name)).to(model.load_device)
