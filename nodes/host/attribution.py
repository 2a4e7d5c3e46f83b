"""Where two models of one architecture come apart: each layer of one beside the same layer of the other, fed the same.

One model runs as it always does. Whenever it has computed a layer, the other's is made for that call from the tensors
that it stands on, LoRA merged, and gone again: the other is never loaded, so that both may be clones of one model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from torch import Tensor
from torch.nn import Module

from ...quant.quality.sums import Sums
from .detached import bypasses, compute_dtype, layer_of, same_layer
from .plan import choices, linears
from .sampling import Bar, Request, sample

KEY = "scaled_fp8_attribution"
OBSERVED = 3  # steps, from the first to the last


def attribute(a: ModelPatcher, b: ModelPatcher, request: Request, samples: Any, bar: Bar) -> dict[str, Sums]:
    """Layer -> its error in b on what it is fed in a, over a few steps of one sampling of a."""
    watch = Watch(a, b, observed(request.steps))
    listening = a.clone()
    # a compiled graph calls no layer
    listening.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)
    listening.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, watch.call)

    def step(index: int, predicted: Any, x: Any, total: int) -> None:
        watch.step = index + 1
        bar.step(index + 1, total)

    with uncounted(b):
        sample(listening, request, samples, 0, step)
    bar.turn(request.steps)
    return watch.found


@contextmanager
def uncounted(model: ModelPatcher) -> Iterator[None]:
    """Calls of its layers in the block are not the model's own, whose reports tell them."""
    counts = [(choice.calls, dict(choice.calls)) for choice in choices(model).values()]
    try:
        yield
    finally:
        for calls, before in counts:
            calls.clear()
            calls.update(before)


def observed(steps: int) -> frozenset[int]:
    """The steps that are looked at, evenly from the first to the last."""
    count = min(OBSERVED, steps)
    return frozenset(round(i * (steps - 1) / max(1, count - 1)) for i in range(count))


@dataclass
class Watch:
    """Compares the layers of a running model with those of another one, in the steps that are looked at."""

    model: ModelPatcher
    other: ModelPatcher
    steps: frozenset[int]
    found: dict[str, Sums] = field(default_factory=dict)
    step: int = 0

    def __post_init__(self) -> None:
        self.bypasses = bypasses(self.other)
        self.names = [name for name, _ in linears(self.other)]

    def call(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Around one call of the model."""
        if self.step not in self.steps:
            return executor(*args, **kwargs)
        with self.listening(executor.class_obj):
            return executor(*args, **kwargs)

    @contextmanager
    def listening(self, model: Module) -> Iterator[None]:
        modules = dict(model.named_modules(remove_duplicate=False))
        hooks = [
            modules[name].register_forward_hook(self.hook(name), with_kwargs=True)
            for name in self.names
            if name in modules
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def hook(self, name: str) -> Callable[..., None]:
        def see(module: Module, args: tuple, kwargs: dict, output: object) -> None:
            if isinstance(output, Tensor):
                self.see(name, args, kwargs, output)

        return see

    def see(self, name: str, args: tuple, kwargs: dict, output: Tensor) -> None:
        """Add one call of a layer: what it gave, beside what the other's gives."""
        sums = self.found.setdefault(name.removeprefix("diffusion_model."), Sums())
        shared = same_layer(self.model, self.other, name)
        sums.add(output, output if shared else self.beside(name, args, kwargs))

    def beside(self, name: str, args: tuple, kwargs: dict) -> Tensor:
        """What the other's layer gives."""
        dtype = compute_dtype(self.other)
        layer = layer_of(self.other, name, self.bypasses)
        # not by a call, which the hooks that its original has now would see
        return layer.forward(*(cast(x, dtype) for x in args), **{key: cast(x, dtype) for key, x in kwargs.items()})


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Activations as the other model computes with them."""
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
