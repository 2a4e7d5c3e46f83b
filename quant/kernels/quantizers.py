"""Who quantizes activations: comfy-kitchen, Triton, torch.compile or eager torch, in one ordered list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from .activations import ACTIVATION, BY_TOKENS, INT8, PER_TENSOR, RUN, SCHEMES, STATIC, TINY, Quantize, filled
from .compiled import int8_per_token
from .compiler import compiler_refuses


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

    def int8(x: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
        return ck.quantize_int8_rowwise(x)

    return of_any_number({STATIC: given, "int8 per-token": int8})


@cache
def kitchen_after_torch() -> dict[str, Quantize]:
    """What comfy-kitchen has no one kernel for: the largest value, and a scale once a token, are torch's."""
    given = kitchen()[STATIC]

    def largest(x: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor]:
        amax = torch.linalg.vector_norm(x, float("inf"), dtype=torch.float32)
        # in one launch; TINY is nothing beside any other scale
        return given(x, torch.add(least(x.device), amax, alpha=1 / ACTIVATION.maximum))

    def by_tokens(quantize: Quantize) -> Quantize:
        def repeated(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
            codes, scale = quantize(x, scale)
            return codes, scale.repeat(len(x), 1)

        return repeated

    schemes = {PER_TENSOR: largest, PER_TENSOR + BY_TOKENS: by_tokens(largest), STATIC + BY_TOKENS: by_tokens(given)}
    return of_any_number(schemes)


@lru_cache(maxsize=16)
def least(device: torch.device) -> Tensor:
    """A scale of activations that are all zero, ``[]`` float32, made once."""
    with torch.inference_mode(False):
        return torch.full((), TINY, device=device)


def of_any_number(schemes: dict[str, Quantize]) -> dict[str, Quantize]:
    """The schemes, with eager arithmetic for no tokens at all, which kernels cannot be launched for."""

    def one(name: str, quantize: Quantize) -> Quantize:
        return lambda x, scale: quantize(x, scale) if x.numel() else SCHEMES[name](x, scale)

    return {name: one(name, quantize) for name, quantize in schemes.items()}


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

    return of_any_number({
        STATIC: lambda x, scale: own.static(x, scale, top),
        STATIC + BY_TOKENS: lambda x, scale: own.static(x, scale, top, by_tokens=True),
        "float8 per-token": lambda x, _: own.per_token(x, ACTIVATION.dtype, top),
        PER_TENSOR: lambda x, _: own.per_tensor(x, top),
        PER_TENSOR + BY_TOKENS: lambda x, _: own.per_tensor(x, top, by_tokens=True),
        "float8 1x128": lambda x, _: own.by_runs(filled(x), RUN, top),
        "int8 per-token": lambda x, _: own.per_token(x, INT8.dtype, INT8.maximum),
    })  # fmt: skip


@cache
def compiled() -> dict[str, Quantize]:
    return {name: torch.compile(scheme, dynamic=True, fullgraph=True) for name, scheme in SCHEMES.items()}


def compiled_refuses(device: torch.device) -> str | None:
    return "is left to GPUs: it needs a compiler and a start of seconds" if device.type == "cpu" else None


def by_c_refuses(device: torch.device) -> str | None:
    return compiler_refuses() if device.type == "cpu" else f"is for CPUs, not {device.type}"


# Best first; the last has no refusals
QUANTIZERS: tuple[Quantizer, ...] = (
    Quantizer("comfy-kitchen", kitchen_refuses, kitchen),
    Quantizer("Triton", triton_refuses, by_triton),
    Quantizer("comfy-kitchen after torch", kitchen_refuses, kitchen_after_torch),
    Quantizer("torch.compile", compiled_refuses, compiled),
    Quantizer("gcc", by_c_refuses, lambda: {"int8 per-token": int8_per_token}),
    Quantizer("eager", lambda device: None, partial(dict, SCHEMES)),
)
