"""Which method a device runs best, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from ..kernels.plan import choose
from ..weights.formats import float8_e4m3fn
from ..weights.granularity import PerRow
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
    device: torch.device | str, dtype: torch.dtype = torch.bfloat16, component: str = "transformer"
) -> str:
    """Name of the method that device runs best, tried there."""
    return pick("auto", device, dtype, component).method.name


def check_fp8_support(device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> tuple[bool, str]:
    """Whether device has been seen to multiply FP8 matrices right, and the kernel or the reason why not."""
    choice = choose(float8_e4m3fn, PerRow(), (4096, 4096), torch.device(device), dtype, "scaled_mm")
    return choice.kernel.family == "scaled_mm", f"{choice.kernel.name}: {choice.reason}"


@cache
def best(device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Name and reason, by trying on the device."""
    if device.type == "cpu":
        return "fp8-weight-only", "a CPU has no FP8 units: weights take half the memory and are upcast to compute"
    choice = choose(float8_e4m3fn, PerRow(), (4096, 4096), device, dtype)
    if choice.kernel.on_codes:
        return "fp8-dynamic", f"{choice.kernel.name} on {device}: {choice.reason}"
    problem = int8_problem(device)
    if problem is None:
        return (
            "int8",
            f"no FP8 GEMM on {device} ({choice.reason}), but an exact INT8 one; INT8 weights are more exact too",
        )
    return "fp8-weight-only", f"neither FP8 ({choice.reason}) nor INT8 GEMM ({problem}) on {device}"


def int8_problem(device: torch.device) -> str | None:
    """Why device cannot multiply INT8 matrices exactly, or None."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8) for shape in ((32, 64), (64, 48)))
    try:
        product = torch._int_mm(a.to(device), b.to(device)).cpu()
    except (RuntimeError, NotImplementedError) as problem:
        return f"_int_mm raises {type(problem).__name__}"
    return None if torch.equal(product, a.int() @ b.int()) else "_int_mm is wrong"
