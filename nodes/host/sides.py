"""The two models of a comparison: whether they may be compared, and what is told of each."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from comfyui_version import __version__ as comfyui_version
from torch import Tensor

from ...quant.errors import Refused
from ...quant.nn.tensor import from_tensor, is_scaled
from ...quant.quality.quality import Side
from . import callbacks
from .plan import CORE_FORMATS, linears, model_report, tensor_of
from .sampling import Request, Subject, first


def check_alike(a: ModelPatcher, b: ModelPatcher) -> None:
    """Refused unless both are models of one architecture with layers of the same shapes."""
    if type(a.model) is not type(b.model):
        raise Refused(f"model_a, model_b: are {called(a)} and {called(b)}; compare two models of one architecture.")
    ours, theirs = shapes(a), shapes(b)
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            one, other = (f"{called(x)} has {told(has.get(name))}" for x, has in ((a, ours), (b, theirs)))
            raise Refused(f"{name}: {one} and {other}; compare two models of one architecture.")


def shapes(model: ModelPatcher) -> dict[str, tuple[int, int]]:
    """Layer -> ``(out, in)``."""
    return {name: (module.out_features, module.in_features) for name, module in linears(model)}  # type: ignore[misc]


def told(shape: tuple[int, int] | None) -> str:
    return "no such layer" if shape is None else f"{list(shape)} there"


def called(model: ModelPatcher) -> str:
    """A model by its file and its architecture."""
    return f"{file_name(model)} ({type(model.model).__name__})"


def file_name(model: ModelPatcher) -> str:
    """Of the file that a model came from, without its folder; its architecture where nobody noted the file."""
    arguments = model.cached_patcher_init[1] if model.cached_patcher_init else ()
    path = next((value for value in arguments if isinstance(value, str)), type(model.model).__name__)
    return Path(path).name


##### What is told of them


def side(subject: Subject) -> Side:
    model = subject.model
    return Side(
        name=file_name(model),
        format=summary(model),
        bytes=model.model_size(),
        seconds_per_step=subject.clock.seconds_per_step,
        first_step_seconds=subject.clock.first_step_seconds,
        peak_bytes=subject.peak.bytes,
    )


def summary(model: ModelPatcher) -> str:
    """Layers by format and kernel: "168 float8_e4m3fn by upcast, 12 bfloat16"."""
    kernels = {row.layer: row.kernel for row in model_report(model).rows}
    found = Counter(
        f"{format} by {kernels[name]}" if name in kernels else format for name, format in formats(model).items()
    )
    return ", ".join(f"{count} {way}" for way, count in found.most_common())


def formats(model: ModelPatcher) -> dict[str, str]:
    """Layer -> format of its weight."""
    return {name.removeprefix("diffusion_model."): format_of(tensor_of(module)) for name, module in linears(model)}


def format_of(weight: Tensor | None) -> str:
    if weight is None:
        return "absent"
    if is_scaled(weight):
        inner = from_tensor(weight)
        return f"{inner.format.name} {inner.granularity.name}"
    if isinstance(weight, QuantizedTensor):
        return CORE_FORMATS.get(weight._layout_cls, weight._layout_cls)
    return str(weight.dtype).removeprefix("torch.")


def lora(model: ModelPatcher) -> dict[str, tuple]:
    """Weight -> strengths of what is merged into it; what stands beside layers by its name."""
    merged = {key: tuple(patch[0] for patch in patches) for key, patches in model.patches.items()}
    return merged | {key: () for key in model.injections if key != callbacks.KEY}


def settings(request: Request, samples: Any, images: int) -> dict[str, str]:
    asked = {
        "seed": request.seed, "images": images, "steps": request.steps, "cfg": request.cfg,
        "sampler_name": request.sampler_name, "scheduler": request.scheduler, "latent": list(first(samples).shape),
    }  # fmt: skip
    return {name: str(value) for name, value in asked.items()}


def versions() -> dict[str, str]:
    found = {"ComfyUI": comfyui_version, "torch": torch.__version__}
    for name in ("scaled-fp8", "comfy-kitchen", "kornia"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            # a folder in custom_nodes is no installed package
            continue
    return found
