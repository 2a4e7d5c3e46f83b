"""How long each kernel takes on a device beside bfloat16, by tokens and class of shapes: measured once, and kept."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from math import inf, log2
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.weight import QuantizedWeight
from .moment import in_forward
from .place import on
from .probe import encoded_anyhow
from .proof import quantizer_of
from .proof_cache import Time, recall, remembered
from .registry import Kernel
from .rules import Workload
from .timing import beside, noise

# numbers of tokens that are measured; each stands for those that are nearer to it, as a ratio, than to the next
TOKENS = (1, 16, 64, 512, 4096)
BETWEEN = tuple(round((less * more) ** 0.5) for less, more in zip(TOKENS, TOKENS[1:], strict=False))


class Bounds(NamedTuple):
    """What is measured on a device: the most tokens, the least and the most rows and columns.

    margin: the part of an earlier kernel's time that a later one may take to go first; more is a clock's noise;
    hopeless: a kernel that takes so many times as long as another is not tried with more tokens.
    """

    tokens: int
    least: int
    most: int
    margin: float
    hopeless: float


# A CPU's largest is beyond its caches, as layers of models are: within them a table is as fast as arithmetic
BOUNDS = {"cpu": Bounds(64, 256, 2048, 0.6, 8.0)}
GPU_BOUNDS = Bounds(4096, 512, 4096, 0.85, 30.0)
# On CPUs the products of float8 codes are slower than what dequantizes, where nothing was measured
FLOAT8_ON_CPU = 50.0


def nearest(tokens: int) -> int:
    """Which of TOKENS stands for a number of tokens."""
    return TOKENS[bisect_left(BETWEEN, tokens)]


def order(times: Mapping[Kernel, float], device: torch.device) -> list[Kernel]:
    """Fastest first; where times are near each other, as they are given."""
    ranked, margin = list[Kernel](), bounds(device).margin
    for kernel, time in times.items():
        ahead = next((i for i, other in enumerate(ranked) if time < margin * times[other]), len(ranked))
        ranked.insert(ahead, kernel)
    return ranked


def ratios(kernels: Iterable[Kernel], layer: Workload, tokens: int) -> dict[Kernel, float]:
    """Kernel -> its time over that of a bfloat16 Linear, for as many tokens as are measured on this device."""
    found = dict.fromkeys(kernels, 0.0)
    if len(found) < 2:
        return found
    most, hopeless = bounds(layer.device).tokens, bounds(layer.device).hopeless
    for count in (count for count in TOKENS if count <= min(tokens, most)):
        best = min(found.values())
        # what was hopeless for fewer tokens keeps the time it had then
        found |= {k: time_of(k, layer, count) for k, time in found.items() if time <= hopeless * best or not best}
    return found


def time_of(kernel: Kernel, layer: Workload, tokens: int) -> float:
    """As measured, or as it is known to be about where nothing is to be measured now."""
    alike = class_of(layer)
    if measuring():
        return ratio(kernel, alike, tokens)
    if in_group():
        return presumed(kernel, layer)
    known = recall(question(kernel, alike, tokens), alike.device, Time)
    return known.ratio if known else presumed(kernel, layer)


def busy_time(kernel: Kernel, layer: Workload) -> float:
    """A kernel's time with as many tokens as are measured on this device, over that of a bfloat16 Linear."""
    try:
        return time_of(kernel, layer, min(TOKENS[-1], bounds(layer.device).tokens))
    finally:
        release()


def measuring() -> bool:
    return not (in_forward() or in_group())


def in_group() -> bool:
    """Whether processes compute together: they must take one kernel, and clocks would tell each another."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def presumed(kernel: Kernel, layer: Workload) -> float:
    slow = layer.device.type == "cpu" and kernel.family == "scaled_mm" and layer.format.dtype.is_floating_point
    return FLOAT8_ON_CPU if slow else 1.0


def bounds(device: torch.device) -> Bounds:
    return BOUNDS.get(device.type, GPU_BOUNDS)


def class_of(layer: Workload) -> Workload:
    """The layer that stands for all of about its shape: powers of two within what is measured."""
    measured = bounds(layer.device)
    outputs, inputs = (min(max(2 ** round(log2(max(side, 1))), measured.least), measured.most) for side in layer.shape)
    device = torch.empty(0, device=layer.device).device
    return replace(layer, shape=(outputs, inputs), device=device, has_transform=False)


def question(kernel: Kernel, layer: Workload, tokens: int) -> str:
    place = f"{layer.format.name} {layer.granularity} {layer.shape} {layer.dtype} {layer.activation} {layer.rotation}"
    return f"time of {kernel.name} [{quantizer_of(kernel, layer)}] for {tokens} tokens: {place}"


@torch.compiler.disable
@cache
def ratio(kernel: Kernel, layer: Workload, tokens: int) -> float:
    """Time of kernel over that of a bfloat16 Linear of layer's shape; infinite where it raises."""
    return remembered(question(kernel, layer, tokens), layer.device, lambda: measured(kernel, layer, tokens)).ratio


def measured(kernel: Kernel, layer: Workload, tokens: int) -> tuple[Time, bool]:
    """A few runs of each by turns, and whether the answer will be the same next time."""
    device = layer.device
    try:
        with on(device), torch.inference_mode(), torch.autocast(device.type, enabled=False):
            return Time(beside_bfloat16(kernel, layer, tokens)), True
    except Exception:  # whatever a device throws: the proof will tell
        return Time(inf), False


def beside_bfloat16(kernel: Kernel, layer: Workload, tokens: int) -> float:
    """On random values: contents are no matter of time."""
    device, (weight, base) = layer.device, stand_in(layer)
    x = noise(tokens, layer.shape[1], device=device)
    given, scale = x.to(layer.dtype), torch.full((), 0.01, device=device) if layer.activation == "static" else None
    # what a layer holds is not made in each run
    quantizer, weight = quantizer_of(kernel, layer), kernel.arranged(weight, device)
    return beside_linear(lambda: kernel.run(given, weight, None, scale, quantizer), x.bfloat16(), base)


def beside_linear(run: Callable[[], object], x: Tensor, weight: Tensor) -> float:
    """Time of run over that of F.linear of these activations and weight."""
    return beside(run, lambda: F.linear(x, weight), x.device, 3)


@lru_cache(maxsize=1)
def stand_in(layer: Workload) -> tuple[QuantizedWeight, Tensor]:
    """A weight like layer's, and as bfloat16; kept until the layer is planned."""
    plain = noise(*layer.shape, device=layer.device)
    weight = encoded_anyhow(plain, layer.format, layer.granularity)
    return replace(weight, rotation=layer.rotation), plain.bfloat16()


def release() -> None:
    """Give back the memory of what was measured."""
    stand_in.cache_clear()
