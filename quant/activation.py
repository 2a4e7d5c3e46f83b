"""Activations to codes: ``[tokens, in] -> (codes, scale)``, always clamped, never in place.

Each scheme is defined by eager arithmetic; the quantizers are faster ways to the same codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from .formats import FORMATS, Format, float8_e4m3fn

# e4m3 carries a bit more of an activation than e5m2; its range is what the scale is for
ACTIVATION: Format = float8_e4m3fn
INT8 = FORMATS["int8"]
RUN = 128
TINY = torch.finfo(torch.float32).tiny

Quantize = Callable[[Tensor, "Tensor | None"], tuple[Tensor, Tensor]]


##### The schemes: activations and a static scale or None -> codes and float32 scale


def static(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """By a scale that is given: codes and scale ``[1, 1]``."""
    assert scale is not None
    scale = scale.reshape(1, 1)
    return to_codes(x, scale), scale


def per_token(x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One scale a token: ``[tokens, 1]``."""
    scale = scale_of(x.abs().amax(1, True), ACTIVATION.maximum)
    return to_codes(x, scale), scale


def per_tensor(x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One scale for all: ``[1, 1]``."""
    scale = scale_of(x.abs().amax((0, 1), True), ACTIVATION.maximum)
    return to_codes(x, scale), scale


def by_runs(x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One scale for each 128 inputs of a token, ``[tokens, in / 128]`` column after column; in is filled up to that."""
    x = filled(x)
    runs = x.reshape(x.shape[0], -1, RUN)
    scale = scale_of(runs.abs().amax(2, True), ACTIVATION.maximum)
    return to_codes(runs, scale).view(x.shape), scale.squeeze(2).t().contiguous().t()


def filled(x: Tensor) -> Tensor:
    """With zeros up to a multiple of RUN inputs."""
    return F.pad(x, (0, -x.shape[1] % RUN)) if x.shape[1] % RUN else x


def int8_per_token(x: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """int8 codes and one scale a token: ``[tokens, 1]``."""
    scale = scale_of(x.abs().amax(1, True), INT8.maximum)
    return x.div(scale).round_().clamp_(-INT8.maximum, INT8.maximum).to(INT8.dtype), scale


def scale_of(amax: Tensor, maximum: float) -> Tensor:
    """Float32 scale that maps amax to the largest code; never so small that dividing by it overflows."""
    return (amax.float() / maximum).clamp_(min=TINY)


def to_codes(x: Tensor, scale: Tensor) -> Tensor:
    # float32 by promotion; a NaN passes through the clamp and has a code of its own
    return x.div(scale).clamp_(-ACTIVATION.maximum, ACTIVATION.maximum).to(ACTIVATION.dtype).contiguous()


SCHEMES: dict[str, Quantize] = {
    "float8 static": static,
    "float8 per-token": per_token,
    "float8 per-tensor": per_tensor,
    "float8 1x128": by_runs,
    "int8 per-token": int8_per_token,
}


##### The quantizers: who computes a scheme


@dataclass(frozen=True)
class Quantizer:
    """One way to quantize activations. refuses: device -> None or why not; schemes: those it has, made when asked."""

    name: str
    refuses: Callable[[torch.device], str | None]
    schemes: Callable[[], dict[str, Quantize]] = field(repr=False)

    def lacks(self, scheme: str, device: torch.device) -> str | None:
        """None where it has the scheme on device, else the reason."""
        if reason := self.refuses(device):
            return reason
        return None if scheme in self.schemes() else f"has no {scheme} quantization"


def kitchen_refuses(device: torch.device) -> str | None:
    import comfy_kitchen

    cuda = comfy_kitchen.list_backends().get("cuda", {})
    if device.type != "cuda":
        return f"is for CUDA, not {device.type}"
    return None if cuda.get("available") and not cuda.get("disabled") else "has its CUDA backend disabled"


@cache
def kitchen() -> dict[str, Quantize]:
    import comfy_kitchen as ck

    def given(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        assert scale is not None
        return ck.quantize_per_tensor_fp8(x.contiguous(), scale.reshape(()), ACTIVATION.dtype), scale.reshape(1, 1)

    def largest(x: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
        amax = torch.linalg.vector_norm(x, float("inf"), dtype=torch.float32)
        return given(x, scale_of(amax, ACTIVATION.maximum))

    def int8(x: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
        return ck.quantize_int8_rowwise(x)

    return {"float8 static": given, "float8 per-tensor": largest, "int8 per-token": int8}


def triton_refuses(device: torch.device) -> str | None:
    if problem := triton_problem():
        return problem
    if device.type in ("cuda", "xpu"):
        return None
    interpreted = device.type == "cpu" and triton_kernels().INTERPRETED
    return None if interpreted else f"is for GPUs, not {device.type}"


@cache
def triton_problem() -> str | None:
    """Why Triton cannot be had, or None; an installation may be there and broken."""
    if find_spec("triton") is None:
        return "is not installed"
    try:
        triton_kernels()
    except Exception as problem:
        return f"cannot be imported: {type(problem).__name__}"
    return None


def triton_kernels() -> ModuleType:
    """The module of Triton kernels, imported when first needed: Triton is optional."""
    return import_module(".triton_kernels", __package__)


@cache
def by_triton() -> dict[str, Quantize]:
    own = triton_kernels()
    top = ACTIVATION.maximum

    def given(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        assert scale is not None
        return own.static(x, scale.reshape(1, 1), top)

    return {
        "float8 static": given,
        "float8 per-token": lambda x, _: own.per_token(x, ACTIVATION.dtype, top),
        "float8 per-tensor": lambda x, _: own.per_tensor(x, top),
        "float8 1x128": lambda x, _: own.by_runs(filled(x), RUN, top),
        "int8 per-token": lambda x, _: own.per_token(x, INT8.dtype, INT8.maximum),
    }


@cache
def compiled() -> dict[str, Quantize]:
    return {name: torch.compile(scheme, dynamic=True, fullgraph=True) for name, scheme in SCHEMES.items()}


def compiled_refuses(device: torch.device) -> str | None:
    return "is left to GPUs: it needs a compiler and a start of seconds" if device.type == "cpu" else None


# Best first; the last has no refusals
QUANTIZERS: tuple[Quantizer, ...] = (
    Quantizer("comfy-kitchen", kitchen_refuses, kitchen),
    Quantizer("Triton", triton_refuses, by_triton),
    Quantizer("torch.compile", compiled_refuses, compiled),
    Quantizer("eager", lambda device: None, partial(dict, SCHEMES)),
)


##### Static scales


def static_scale(input_scale: Tensor, format: Format) -> Tensor:
    """A file's input_scale, made for its own format, as a scale for the codes used here."""
    scale, factor = input_scale.float(), format.maximum / ACTIVATION.maximum
    return scale if factor == 1 else scale * factor


def implausible(input_scale: Tensor | None) -> str | None:
    """Why an input_scale cannot be trusted, or None. Reads its value: for planning, not for a forward."""
    if input_scale is None:
        return "the file has no input_scale"
    if input_scale.is_meta:
        return "input_scale is on the meta device"
    if input_scale.numel() != 1:
        return f"input_scale has {input_scale.numel()} values, not one"
    value = float(input_scale)
    if value == 1.0:
        return "input_scale is 1, a placeholder"
    # amax of 5e-5 to 5e6: nothing that a Linear is fed lies outside
    return None if 1e-7 < value < 1e4 else f"input_scale is {value:g}, which no activation needs"


def same_device(scale: Tensor | None, x: Tensor) -> Tensor | None:
    """The scale where x is: a scale may have stayed on another device."""
    return scale if scale is None or scale.device == x.device else scale.to(x.device)
