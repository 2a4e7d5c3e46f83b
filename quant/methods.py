"""Ways to quantize as users name them: a format, its granularities and how activations are computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from .formats import FORMATS, Format, float8_e4m3fn
from .granularity import GRANULARITIES, Granularity, PerGroup, PerRow
from .plan import choose
from .refusal import Refused

# Granularities that a user chooses between; formats that scale by group have no choice.
CHOICES = tuple(name for name in GRANULARITIES if name != PerGroup.name)


@dataclass(frozen=True)
class Method:
    """One way to quantize. compute: for patch_linears ("auto" takes the device's best kernel, "upcast" dequantizes).

    format: name in FORMATS, None for a method that quantizes nothing or picks another one; torchao: name of its config.
    """

    name: str
    title: str
    format_name: str | None
    compute: str = "auto"
    torchao: str | None = None

    @property
    def format(self) -> Format:
        if self.format_name is None:
            raise Refused(f"Method {self.name!r} has no format of its own.")
        return FORMATS[self.format_name]

    def granularity(self, name: str | None = None) -> Granularity:
        """The format's granularity of that name; formats that scale by group always do."""
        grouped = isinstance(self.format.granularities[0], PerGroup)
        if name is not None and name not in GRANULARITIES:
            raise Refused(f"Granularity {name!r} is unknown; choose one of {', '.join(CHOICES)}.")
        return self.format.granularity(None if grouped else name)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("none", "leave the model as it is", None),
        Method("auto", "what this device runs best", None),
        Method("fp8-dynamic", "FP8 weights, activations scaled per token, FP8 GEMM", "float8_e4m3fn",
               torchao="Float8DynamicActivationFloat8WeightConfig"),
        Method("fp8-weight-only", "FP8 weights, dequantized to compute: half the memory, no faster", "float8_e4m3fn",
               "upcast", "Float8WeightOnlyConfig"),
        Method("int8", "INT8 weights: three times as exact as FP8", "int8", torchao="Int8WeightOnlyConfig"),
        Method("int8-convrot", "INT8 weights, rotated against outliers", "int8_convrot"),
        Method("int4", "INT4 weights with a codebook, INT8 GEMM in ComfyUI: a quarter of the memory", "int4",
               torchao="Int4WeightOnlyConfig"),
        Method("mxfp8", "FP8 weights scaled by groups of 32, for Blackwell", "mxfp8"),
        Method("nvfp4", "4-bit floats scaled by groups of 16, for Blackwell", "nvfp4"),
    )
}  # fmt: skip
ALIASES = {"fp8": "fp8-dynamic"}


@dataclass(frozen=True)
class Pick:
    """A method and why it is the one."""

    method: Method
    reason: str


def method_named(name: str) -> Method:
    """The method of that name or alias."""
    name = ALIASES.get(name, name)
    if name not in METHODS:
        raise Refused(f"Method {name!r} is unknown; choose one of {', '.join((*METHODS, *ALIASES))}.")
    return METHODS[name]


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


@cache
def best(device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Name and reason, by trying on the device."""
    if device.type == "cpu":
        return "fp8-weight-only", "a CPU has no FP8 units: weights take half the memory and are upcast to compute"
    choice = choose(float8_e4m3fn, PerRow(), (4096, 4096), device, dtype)
    if choice.kernel.family == "scaled_mm":
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
