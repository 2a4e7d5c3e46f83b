"""How much of each layer's error reaches the image: one run with the layer disturbed, for each layer or block."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from math import sqrt
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.nn import Module

from ...quant.calibration.store import Calibration, read_calibration, write_calibration
from ...quant.calibration.watching import LIMIT, Watch
from ...quant.files.atomic import write_whole
from ...quant.recipes.policy import Policy, recognise
from ...quant.weights.encode import quantize
from ...quant.weights.formats import FORMATS
from .watch import KEY, layers, path_of, plain, records, running, with_watch

SAMPLERS, SCHEDULERS = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
DISTURBED_BY = FORMATS["nvfp4"]  # an error as large as the largest that is planned with


@dataclass(frozen=True)
class Sampling:
    """What is sampled, each time the same. groups: "layer" or "block", what is disturbed at a time."""

    positive: Any
    negative: Any
    latent: Mapping[str, Any]
    steps: int
    seed: int
    cfg: float = 1.0
    sampler_name: str = "euler"
    scheduler: str = "simple"
    groups: str = "layer"

    def run(self, model: ModelPatcher) -> Tensor:
        samples = comfy.sample.fix_empty_latent_channels(model, self.latent["samples"])
        noise = comfy.sample.prepare_noise(samples, self.seed)
        found = comfy.sample.sample(
            model, noise, self.steps, self.cfg, self.sampler_name, self.scheduler, self.positive, self.negative,
            samples, disable_pbar=True, seed=self.seed,
        )  # fmt: skip
        return found.float().cpu()

    def key(self, model: ModelPatcher) -> str:
        """What tells this measurement from others: the model's weights and everything that is sampled."""
        found = sha256(repr((self.steps, self.seed, self.cfg, self.sampler_name, self.scheduler, self.groups)).encode())
        tensors = [*tensors_in((self.positive, self.negative, self.latent))]
        tensors += [module.weight for _, module in layers(model)]
        for tensor in tensors:
            some = plain(tensor).reshape(-1)
            found.update(some[:: max(1, some.numel() // 64)].cpu().float().numpy().tobytes())
        return found.hexdigest()[:12]


def tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (tensor for item in value.values() for tensor in tensors_in(item))
    elif isinstance(value, list | tuple):
        yield from (tensor for item in value for tensor in tensors_in(item))


def measure_sensitivity(model: ModelPatcher, sampling: Sampling) -> tuple[Calibration, str]:
    """Factors and moments of a model as a file, and lines for people; goes on where it was interrupted."""
    name = f"sensitivity-{sampling.key(model)}"
    path, done = path_of(name), Progress(path_of(name).with_suffix(".json"))
    watch = Watch({short: module.in_features for short, module in layers(model)}, LIMIT)
    start = time.monotonic()
    want = sampling.run(with_watch(model, watch))
    seconds = time.monotonic() - start
    groups = disturbed(model, watch, sampling.groups)
    left = [group for group in groups if not all(layer in done.factors for layer in group)]
    took = f"{len(groups)} runs, {len(groups) - len(left)} of them done before; one took {seconds:.1f} s"
    logging.info(
        "Scaled FP8: sensitivity of %d layers: %s: %.0f s to go.", len(watch.moments), took, seconds * len(left)
    )
    bar = comfy.utils.ProgressBar(len(groups))
    bar.update(len(groups) - len(left))
    for group in left:
        comfy.model_management.throw_exception_if_processing_interrupted()
        done.add(factors(model, group, watch, lambda clone: distance(sampling.run(clone), want)))
        bar.update(1)
    write_calibration(path, records(model, watch, done.factors), watch.facts)
    done.path.unlink(missing_ok=True)
    return read_calibration(path), f"{took}\n{path.name}: {len(watch.moments)} layers, {watch.blocks}"


def distance(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


def disturbed(model: ModelPatcher, watch: Watch, groups: str) -> list[list[str]]:
    """The layers that may be quantized, each alone or by block."""
    names = [name for name, _ in layers(model) if name in watch.moments]
    policy = Policy(DISTURBED_BY, DISTURBED_BY.granularities[0], family=recognise(f"{name}.weight" for name in names))
    shapes = {name: (module.out_features, module.in_features) for name, module in layers(model)}
    chosen = [name for name in names if policy.decide(name, shapes[name]).quantize]
    if groups == "layer":
        return [[name] for name in chosen]
    return [list(group) for _, group in groupby(chosen, key=lambda name: ".".join(name.split(".")[:2]))]


def factors(
    model: ModelPatcher, group: list[str], watch: Watch, measure: Callable[[ModelPatcher], float]
) -> dict[str, float]:
    """Each layer's error in the image for each unit of error of its output, from one run with all of them disturbed."""
    differences, local = {}, 0.0
    for name in group:
        weight = plain(model.get_model_object(f"diffusion_model.{name}.weight"))
        difference = quantize(weight, DISTURBED_BY, name=name).dequantize() - weight
        moments = watch.moments[name]
        local += moments.energy(difference) / max(moments.energy(weight), 1e-30)
        differences[name] = difference.to(model.load_device)
    found = measure(disturbing(model, differences))
    return dict.fromkeys(group, found / max(sqrt(local), 1e-12))


def disturbing(model: ModelPatcher, differences: Mapping[str, Tensor]) -> ModelPatcher:
    """A clone whose layers put out what they would with other weights; its weights stay where and what they are."""
    clone = model.clone()

    def call(executor: Callable, *args: object, **kwargs: object) -> Tensor:
        modules = running(executor.class_obj)
        with added({modules[name]: difference for name, difference in differences.items()}):
            return executor(*args, **kwargs)

    clone.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, call)
    return clone


@contextmanager
def added(differences: Mapping[Module, Tensor]) -> Iterator[None]:
    """Outputs of modules with those of a difference of their weights added."""

    def hook(difference: Tensor) -> Callable:
        return lambda module, inputs, output: output + F.linear(inputs[0], difference.to(inputs[0])).to(output)

    with ExitStack() as stack:
        for module, difference in differences.items():
            stack.callback(module.register_forward_hook(hook(difference)).remove)
        yield


class Progress:
    """The factors that are measured already, in a file beside the calibration until that is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.factors: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.factors = {}

    def add(self, found: Mapping[str, float]) -> None:
        self.factors |= found
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(self.factors).encode())
