"""Layers that put out what they would with other weights; their own stay where and what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor
from torch.nn import Module

from ...quant.calibration.watching import features
from .watch import running

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


@contextmanager
def added(differences: Mapping[Module, Tensor]) -> Iterator[None]:
    """Outputs of modules with those of a difference of their weights added."""
    with ExitStack() as stack:
        for module, difference in differences.items():
            stack.callback(module.register_forward_hook(adding(difference)).remove)
        yield


def adding(difference: Tensor) -> Callable[[Module, Any, Any], Any]:
    def hook(module: Module, inputs: Any, output: Any) -> Any:
        x, y = features(inputs[0]), features(output)
        moved = y + F.linear(x, difference.to(x)).to(y)
        return moved if isinstance(output, Tensor) else output.replace(moved)

    return hook
