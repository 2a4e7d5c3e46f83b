"""A clone of a MODEL that watches what its Linears are fed; images are the same bit for bit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.quant_ops import QuantizedTensor
from torch import Tensor
from torch.nn import Module

from ...quant.calibration.store import Calibration, Facts, Record, sample_of, save_calibration
from ...quant.calibration.watching import Watch
from ...quant.errors import Refused
from ...quant.names import without_prefixes
from .plan import is_linear, linears

KEY = "scaled_fp8_watch"
FOLDER = "scaled_fp8"  # below ComfyUI's models
NAME = re.compile(r"[\w][\w .+-]{0,99}")


@dataclass(frozen=True)
class Watched:
    """What a watching MODEL carries. name: of its file."""

    name: str
    watch: Watch


def watching(model: ModelPatcher, name: str, limit: int) -> ModelPatcher:
    """A clone that watches; limit: bytes of what it keeps."""
    path_of(name)
    watch = Watch({short: module.in_features for short, module in layers(model)}, limit)
    clone = with_watch(model, watch)
    clone.set_attachments(KEY, Watched(name, watch))
    return clone


def with_watch(model: ModelPatcher, watch: Watch) -> ModelPatcher:
    """A clone whose calls are seen by watch, one sampling after the other."""
    clone = model.clone()

    def call(executor: Callable, *args: object, **kwargs: object) -> Tensor:
        with watch.listening(running(executor.class_obj)):
            return executor(*args, **kwargs)

    def sampling(executor: Callable, *args: object, **kwargs: object) -> Tensor:
        watch.facts += Facts(prompts=1)
        return executor(*args, **kwargs)

    replace_wrapper(clone, WrappersMP.APPLY_MODEL, call)
    replace_wrapper(clone, WrappersMP.OUTER_SAMPLE, sampling)
    return clone


def replace_wrapper(model: ModelPatcher, kind: str, wrapper: Callable) -> None:
    """The last one watches: a model that watched before is a clone of its own."""
    model.remove_wrappers_with_key(kind, KEY)
    model.add_wrapper_with_key(kind, KEY, wrapper)


def running(model: Module) -> dict[str, Module]:
    """Layer -> the module that is in its place now, of a model that is being called."""
    named = model.diffusion_model.named_modules()
    return {name: module for name, module in named if is_linear(module)}


def layers(model: ModelPatcher) -> Iterator[tuple[str, Module]]:
    """Name without prefix and module of every Linear of the diffusion model."""
    prefix = "diffusion_model."
    return ((name.removeprefix(prefix), module) for name, module in linears(model) if name.startswith(prefix))


def save_watched(model: ModelPatcher) -> tuple[Calibration, Watched]:
    """Add what was seen since the last time to the file; Refused where nothing watches or nothing was seen."""
    watched = model.get_attachment(KEY)
    if watched is None:
        raise Refused("This model does not watch: put Calibrate Model before the sampler, and connect its MODEL here.")
    if not watched.watch.moments:
        raise Refused("Nothing was seen yet: connect the sampler's LATENT to after, so that this node runs behind it.")
    found = save_calibration(path_of(watched.name), records(model, watched.watch), watched.watch.facts)
    watched.watch.clear()
    return found, watched


def records(model: ModelPatcher, watch: Watch, factors: Mapping[str, float] | None = None) -> dict[str, Record]:
    """What was seen of each layer that ran."""
    found = {}
    for name, module in layers(model):
        if name in watch.moments:
            weight = plain(model.get_model_object(f"diffusion_model.{name}.weight"))
            factor = (factors or {}).get(name)
            shape = (module.out_features, module.in_features)
            found[without_prefixes(name)] = Record(shape, sample_of(weight), watch.moments[name], factor)
    return found


def plain(weight: Tensor) -> Tensor:
    return weight.dequantize() if isinstance(weight, QuantizedTensor) else weight.data.to(torch.float32)


##### Files


def folder() -> Path:
    return Path(folder_paths.models_dir) / FOLDER


def path_of(name: str) -> Path:
    """Where a calibration of that name is; Refused for what is no name of a file."""
    if not NAME.fullmatch(name) or name.startswith("."):
        raise Refused(f"name {name!r} is not the name of a file; use letters, digits, spaces and - _ + . only.")
    return folder() / f"{name.removesuffix('.safetensors')}.safetensors"


def calibrations() -> list[str]:
    """Those that are there, by name."""
    return sorted(path.stem for path in folder().glob("*.safetensors"))
