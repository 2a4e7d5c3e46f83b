"""Which method a device runs best, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..kernels.choice import Choice
from ..kernels.diagnosis import devices
from ..kernels.int8 import activations
from ..kernels.plan import choose
from ..kernels.speed import busy_time
from ..weights.encode import quantize
from ..weights.formats import float8_e4m3fn
from ..weights.granularity import PerRow
from ..weights.weight import QuantizedWeight
from .methods import METHODS, Method, method_named


@dataclass(frozen=True)
class Pick:
    """A method and why it is the one."""

    method: Method
    reason: str


def pick(
    name: str, device: torch.device | str, dtype: torch.dtype = torch.bfloat16, component: str = "transformer"
) -> Pick:
    """The method of that name; for "auto" the one that device runs best, with the reason."""
    method = method_named(name)
    if method.name != "auto":
        return Pick(method, "as asked")
    if component == "vae":
        return Pick(METHODS["int8"], "a VAE is quantized to INT8 only")
    found, reason = best(torch.device(device), dtype)
    return Pick(METHODS[found], reason)


def get_recommended_method(
    device: torch.device | str | None = None, dtype: torch.dtype = torch.bfloat16, component: str = "transformer"
) -> str:
    """Name of the method that device runs best, tried there; None: usual_device."""
    return pick("auto", device or usual_device(), dtype, component).method.name


def check_fp8_support(
    device: torch.device | str | None = None, dtype: torch.dtype = torch.bfloat16
) -> tuple[bool, str]:
    """Whether device, usual_device for None, was seen to multiply FP8 matrices right, and the kernel or why not."""
    there = torch.device(device or usual_device())
    choice = choose(float8_e4m3fn, PerRow(), (4096, 4096), there, dtype, "scaled_mm")
    return choice.kernel.family == "scaled_mm", f"{choice.kernel.name}: {choice.reason}"


def usual_device() -> str:
    """This machine's first GPU, or its CPU."""
    return next((name for name in devices() if name != "cpu"), "cpu")


##### What is weighed


# Where times are near each other, the more exact is taken; of equals the first
CANDIDATES = ("fp8-dynamic", "int8", "int8-convrot", "fp8-weight-only")
NEAR = 1.15
SHAPE = (4096, 4096)
# a signal's own scatter, in dB
ALIKE = 0.5


@dataclass(frozen=True)
class MethodCandidate:
    """One method on one device. time: of its kernel over a bfloat16 Linear's, with as many tokens as are measured
    there; decibels: signal to error of a Linear's output, the least of activations of several sizes and with outliers.
    """

    method: str
    kernel: str
    time: float
    decibels: float

    def __str__(self) -> str:
        return f"{self.method} {self.time:.2f} of bf16's time and {self.decibels:.1f} dB ({self.kernel})"


@cache
def best(device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Name and reason, by trying on the device."""
    found = [weighed(name, device, dtype) for name in CANDIDATES]
    candidates = [one for one in found if isinstance(one, MethodCandidate)]
    chosen = most_exact(candidates)
    weighing = "; ".join(map(str, (chosen, *(one for one in found if one != chosen))))
    return chosen.method, f"weighed on {device} by time and exactness: {weighing}"


def most_exact(candidates: list[MethodCandidate]) -> MethodCandidate:
    """Of those that take about as long as the fastest, the one with the most signal."""
    fastest = min(one.time for one in candidates)
    near = [one for one in candidates if one.time <= NEAR * fastest]
    most = max(one.decibels for one in near)
    return next(one for one in near if one.decibels >= most - ALIKE)


def weighed(name: str, device: torch.device, dtype: torch.dtype) -> MethodCandidate | str:
    """A method as a candidate for auto, with its time and signal on device; or why it is none there."""
    method, plain = METHODS[name], sample().to(device)
    weight = quantize(plain, method.format, PerRow())
    choice = choose(
        method.format, weight.granularity, SHAPE, device, dtype, method.compute,
        has_transform=weight.transformed, rotation=weight.rotation,
    )  # fmt: skip
    if method.compute != "upcast" and not choice.kernel.on_codes:
        return f"{name} not: {choice.reason}"
    time = busy_time(choice.kernel, choice.layer)
    return MethodCandidate(name, choice.kernel.name, time, signal(choice, weight, plain))


def sample() -> Tensor:
    """A weight ``[out, in]`` float32 as trained ones are, seeded otherwise than the activations."""
    return torch.randn(256, 1024, generator=torch.Generator().manual_seed(1)) * 1024**-0.5


def signal(choice: Choice, weight: QuantizedWeight, plain: Tensor) -> float:
    """Of the output against the full weight's, in dB."""
    with torch.inference_mode():
        return min(
            decibels(choice.kernel.run(x, weight, None, None, choice.quantizer), x.float() @ plain.T)
            for _, x in activations(plain.shape[1], plain.device, choice.layer.dtype)
        )


def decibels(got: Tensor, want: Tensor) -> float:
    return float(20 * torch.log10(want.norm() / (got.float() - want).norm()))
