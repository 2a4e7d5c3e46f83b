"""A clone of a MODEL that watches what its Linears are fed; images are the same bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY, TORCH_COMPILE_KWARGS
from torch import Tensor
from torch.nn import Module

from ...quant.calibration.store import Facts
from ...quant.calibration.watching import Watch, usual_limit
from ...quant.errors import Refused
from .layers import base_tensor
from .plan import is_linear, linears

Conditions = dict[str, list[dict[str, Any]]]
KEY = "scaled_fp8_watch"
KINDS = (WrappersMP.APPLY_MODEL, WrappersMP.OUTER_SAMPLE)
PREFIX = "diffusion_model."
OTHER_SEED = 0x0F8
QUIET = (None, True)  # callback and disable_pbar, the sixth and seventh of what a sampling is given


@dataclass(frozen=True)
class Watched:
    """What a watching MODEL carries. name: of its file."""

    name: str
    watch: Watch


@dataclass(frozen=True)
class Sampled:
    """A sampling that was watched. image: its latents; calls: of the model; other: what it makes of other noise."""

    image: Tensor
    calls: int
    other: Callable[[], Tensor]


After = Callable[[ModelPatcher, Watch, Sampled], None]


def weights(model: ModelPatcher) -> Iterator[tuple[str, Tensor]]:
    """Name without prefix and weight ``[out, in]``, without LoRA, of every Linear of the diffusion model."""
    for name, _ in linears(model):
        weight = base_tensor(model, name) if name.startswith(PREFIX) else None
        if weight is not None:
            yield name.removeprefix(PREFIX), weight


def watch_for(model: ModelPatcher, limit: int = 0) -> Watch:
    """Nothing seen yet; limit: bytes that all moments may take, Refused where they need more; 0: the usual ones, or
    what the smallest blocks take."""
    shapes = {name: (weight.shape[0], weight.shape[1]) for name, weight in weights(model)}
    watch = Watch({name: inputs for name, (_, inputs) in shapes.items()}, limit or usual_limit(shapes.values()))
    if limit and watch.nbytes > limit:
        needed = f"{watch.nbytes / 1e9:.2g} GB, in blocks of {watch.size} inputs"
        raise Refused(f"memory_gb {limit / 1e9:.2g}: this model's calibration takes at least {needed}; allow more.")
    return watch


def watching(model: ModelPatcher, name: str, memory_gb: float, after: After | None = None) -> ModelPatcher:
    """A clone that watches for the calibration of that name; memory_gb: that all moments may take, 0 for the usual;
    after: what is done behind each sampling.
    """
    if not isfinite(memory_gb) or memory_gb < 0:
        raise Refused(f"memory_gb {memory_gb}: is no number of gigabytes; say how much memory may be used.")
    watch = watch_for(model, int(memory_gb * 1e9))
    clone = with_watch(model, watch, after)
    clone.set_attachments(KEY, Watched(name, watch))
    return clone


def with_watch(model: ModelPatcher, watch: Watch, after: After | None = None) -> ModelPatcher:
    """A clone whose calls are seen by watch; what was not saved yet is forgotten where a sampling is broken off."""

    def call(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Any:
        options = options_of(*args, **kwargs)
        if is_compiled(options):
            return executor(*args, **kwargs)
        if watch.instead is not None:
            return watch.instead(lambda: executor(*args, **kwargs), running(executor.class_obj))
        with watch.listening(running(executor.class_obj), len(options.get("cond_or_uncond", (0,)))):
            return executor(*args, **kwargs)

    def sampling(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Any:
        check_not_compiled(executor.class_obj.model_options)
        calls, conditions = watch.facts.steps, copied(executor.class_obj.conds)
        try:
            found = executor(*args, **kwargs)
            if after is not None:
                other = of_other_noise(executor, conditions, args, kwargs)
                after(model, watch, Sampled(found, watch.facts.steps - calls, other))
        except BaseException:
            watch.clear()
            raise
        watch.facts += Facts(prompts=1)
        return found

    clone = unwatched(model)
    for kind, wrapper in zip(KINDS, (call, sampling), strict=True):
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def of_other_noise(executor: WrapperExecutor, conditions: Conditions, args: Any, kwargs: Any) -> Callable[[], Tensor]:
    """The same sampling of other noise, without previews; random numbers go on as if it had not been."""
    noise, latent, *others = args
    others[3:5] = QUIET[: len(others) - 3]

    def other() -> Tensor:
        executor.class_obj.conds = copied(conditions)
        with torch.random.fork_rng(devices=[noise.device] if noise.is_cuda else []):
            return executor(other_noise(noise), latent.clone(), *others, **kwargs)

    return other


def other_noise(noise: Tensor) -> Tensor:
    """As loud as this, and in no second moment like it: its negative, or its tokens in another order, would be."""
    found = torch.randn(noise.shape, generator=torch.Generator().manual_seed(OTHER_SEED))
    return (found * noise.float().std().cpu()).to(noise)


def copied(conditions: Conditions) -> Conditions:
    """As a guider takes them anew for each sampling, which adds to them."""
    return {kind: [one.copy() for one in known] for kind, known in conditions.items()}


def unwatched(model: ModelPatcher) -> ModelPatcher:
    """A clone that does not watch: of a model that did, its layers will be others."""
    clone = model.clone()
    for kind in KINDS:
        clone.remove_wrappers_with_key(kind, KEY)
    clone.remove_attachments(KEY)
    return clone


def check_not_compiled(options: dict[str, Any]) -> None:
    """A compiled graph asks nobody what its layers are fed."""
    if TORCH_COMPILE_KWARGS in options:
        raise Refused("A compiled model cannot be watched: take TorchCompileModel out while you calibrate.")


def options_of(
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: dict[str, Any] | None = None,
    **others: Any,
) -> dict[str, Any]:
    """The transformer_options of a call of the model, which ComfyUI passes by position."""
    return transformer_options or {}


def is_compiled(options: dict[str, Any]) -> bool:
    """Whether the call goes through a graph, which hooks would break; options: transformer_options."""
    return COMPILE_KEY in options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})


def running(model: Module) -> dict[str, Module]:
    """Layer -> the module that is in its place now, of a model that is being called."""
    inner = model.get_submodule(PREFIX.rstrip("."))
    return {name: module for name, module in inner.named_modules() if is_linear(module)}
