"""What a number format is: one frozen object each, in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import Refused, one_of
from .granularity import Granularity, PerBlock, PerGroup, PerRow, PerTensor
from .packing import E2M1, INT4, e2m1_codes, pack, unpack

FP8_GRANULARITIES = (PerTensor(), PerRow(), PerBlock(128, 128))
HADAMARD_GROUPS = (256, 64, 16)  # of a ConvRot rotation, best first: powers of 4
# What amax is multiplied by in a search for better scales. Smaller: the largest values are clipped and the others get
# finer steps; larger: they come to lie on codes that are nearer, as 4 instead of 6 (Four Over Six, arXiv 2512.02010).
# Scales of 16 values are float8 themselves, an eighth apart: finer factors would find the same ones.
WIDER = (0.75, 0.8125, 0.875, 0.9375, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75)
CLIPPED = tuple(1 - i / 32 for i in range(1, 17))


##### Scales: amax, the largest code, the scale one level up -> float32 scale


def scale_from_amax(amax: Tensor, maximum: float, outer: Tensor | None = None) -> Tensor:
    """Float32 scale that maps amax to the largest code; 1 where amax is zero, so that zeros stay zeros."""
    scale = amax.float() / maximum
    # below the smallest normal number 1 / scale overflows
    tiny = torch.finfo(torch.float32).tiny
    return torch.where(amax == 0, torch.ones_like(scale), scale.clamp(min=tiny))


def power_of_two(amax: Tensor, maximum: float, outer: Tensor | None = None) -> Tensor:
    """The smallest power of two that e8m0 has and no code overflows with; its least, 2^-127, where amax is zero."""
    mantissa, exponent = torch.frexp(amax.float() / maximum)
    exponent = torch.where(mantissa > 0.5, exponent, exponent - 1).clamp(-127, 127)
    return torch.ldexp(torch.ones_like(mantissa), torch.where(amax == 0, -127, exponent))


def e4m3_of_outer(amax: Tensor, maximum: float, outer: Tensor | None = None) -> Tensor:
    """Block scales that are float8_e4m3fn multiples of the tensor's, zero where that is too small for them."""
    assert outer is not None
    return outer * inner_scale(amax.float() / maximum, outer).float()


def inner_scale(scale: Tensor, outer: Tensor) -> Tensor:
    """Product of both levels -> the float8_e4m3fn scale that is stored; exact where the product was made of one."""
    e4m3 = torch.float8_e4m3fn
    return (scale / outer).clamp(max=torch.finfo(e4m3).max).to(e4m3)


##### Codes: values in units of their scale, float32 -> as stored


def signed_bytes(scaled: Tensor) -> Tensor:
    return scaled.round_().to(torch.int8)


def signed_nibbles(scaled: Tensor) -> Tensor:
    return pack(scaled.round_().to(torch.int8), high_first=False).view(torch.int8)


def offset_nibbles(scaled: Tensor) -> Tensor:
    return pack((scaled.round_() + 8).to(torch.uint8), high_first=False).view(torch.int8)


def packed_e2m1(scaled: Tensor) -> Tensor:
    return pack(e2m1_codes(scaled), high_first=True)


def book_on(book: tuple[float, ...], device: torch.device) -> Tensor:
    """The values of codes on device, ``[16]`` float32; copied there once, but for a compiled graph."""
    if torch.compiler.is_compiling():
        return torch.tensor(book, dtype=torch.float32, device=device)
    return kept_book(book, device)


@lru_cache(maxsize=64)
def kept_book(book: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(book, dtype=torch.float32, device=device)


@dataclass(frozen=True)
class Format:
    """A number format: how codes are stored, what the largest stands for, which scales go with it.

    dtype: torch dtype of the stored codes; maximum: magnitude of the largest code; per_byte: codes in one
    stored element; granularities: those it is written with, default first; comfy: its name in ComfyUI core.
    scale_of: amax -> scale; outer_maximum: largest block scale of formats that have a second scale above them;
    book: value of each 4-bit code, high_first: whether the even element is in the high nibble;
    rotates: whether weights are rotated by ConvRot before; grid: whether values lie on an int8 grid of the outer scale.
    factors: of amax that a search for better scales tries; none where the search was measured to gain nothing.
    feeds_itself: whether error feedback by the weight alone was measured to gain where nothing is known of its inputs.
    """

    name: str
    dtype: torch.dtype
    maximum: float
    granularities: tuple[Granularity, ...] = FP8_GRANULARITIES
    per_byte: int = 1
    comfy: str | None = None
    scale_of: Callable[[Tensor, float, Tensor | None], Tensor] = field(default=scale_from_amax, repr=False)
    rounded: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    outer_maximum: float = 0.0
    book: tuple[float, ...] = field(default=(), repr=False)
    high_first: bool = True
    rotates: bool = False
    grid: bool = False
    factors: tuple[float, ...] = field(default=(), repr=False)
    feeds_itself: bool = False

    def values(self, codes: Tensor, codebook: Tensor | None = None) -> Tensor:
        """Codes as stored, ``[out, in / per_byte]`` -> their float32 values before scaling, ``[out, in]``."""
        if self.per_byte == 1:
            return codes.float()
        book = book_on(self.book, codes.device) if codebook is None else codebook
        return book[unpack(codes, self.high_first).int()]

    def codes(self, scaled: Tensor) -> Tensor:
        """Float32 values in units of their scale -> codes as stored; overwrites scaled."""
        scaled = scaled.clamp_(-self.maximum, self.maximum)
        return self.rounded(scaled) if self.rounded else scaled.to(self.dtype)

    def half_step(self, size: Tensor, scale: Tensor) -> Tensor:
        """Half of the distance between codes around values of this size, as far as rounding may move them."""
        if self.dtype.is_floating_point:
            normal = torch.finfo(self.dtype).smallest_normal
            return torch.maximum(size, normal * scale) * (step_at_one(self.dtype) / 2)
        if self.outer_maximum:  # e2m1: 1.5 and 2, then 3 and 4, 6
            return torch.maximum(size, scale) * 0.25
        return scale * 0.5

    def granularity(self, name: str | None = None) -> Granularity:
        """Its granularity of that name, the default one without."""
        named = {g.name: g for g in self.granularities}
        if name is not None and name not in named:
            raise Refused(f"granularity {name!r} is none of {self.name}'s; choose {' or '.join(named)}.")
        return named[name] if name else self.granularities[0]


def step_at_one(dtype: torch.dtype) -> float:
    """From 1 to the next larger code; finfo's eps of float8_e5m2fnuz is half of that."""
    one = torch.ones(1).to(dtype).view(torch.uint8)
    return float((one + 1).view(dtype).float() - 1)


def floating(dtype: torch.dtype, comfy: str | None = None) -> Format:
    name = str(dtype).removeprefix("torch.")
    return Format(name, dtype, torch.finfo(dtype).max, comfy=comfy)


float8_e4m3fn = floating(torch.float8_e4m3fn, comfy="float8_e4m3fn")
float8_e5m2 = floating(torch.float8_e5m2, comfy="float8_e5m2")
# AMD MI300's: the same bits mean half of the OCP value, and 0x80 is NaN
float8_e4m3fnuz = floating(torch.float8_e4m3fnuz)
float8_e5m2fnuz = floating(torch.float8_e5m2fnuz)
mxfp8 = Format(
    "mxfp8", torch.float8_e4m3fn, float8_e4m3fn.maximum, (PerGroup(1, 32),), comfy="mxfp8", scale_of=power_of_two
)
nvfp4 = Format(
    "nvfp4", torch.uint8, max(E2M1), (PerGroup(1, 16),), per_byte=2, comfy="nvfp4", scale_of=e4m3_of_outer,
    rounded=packed_e2m1, outer_maximum=float8_e4m3fn.maximum, book=E2M1, factors=WIDER,
)  # fmt: skip
int8 = Format("int8", torch.int8, 127.0, (PerRow(), PerTensor()), comfy="int8_tensorwise", rounded=signed_bytes)
int8_convrot = Format(
    "int8_convrot", torch.int8, 127.0, (PerRow(),), comfy="int8_tensorwise", rounded=signed_bytes, rotates=True
)
# W4A8: a codebook's values, scaled by group to an int8 grid that the GEMM runs on
int4 = Format(
    "int4", torch.int8, 7.0, (PerGroup(1, 16),), per_byte=2, comfy="asym_w4a8_int8", book=tuple(range(-8, 8)),
    high_first=False, rotates=True, grid=True, factors=WIDER,
)  # fmt: skip
# W4A4
int4_convrot = Format(
    "int4_convrot", torch.int8, 7.0, (PerRow(),), per_byte=2, comfy="convrot_w4a4", rounded=signed_nibbles,
    book=INT4, high_first=False, rotates=True, factors=CLIPPED, feeds_itself=True,
)  # fmt: skip

# What others make by calibration: read, run, passed on, never made here.
# SVDQuant's residual of a low-rank part, and AWQ's unsigned codes less 8 with zero points
svdquant_w4a4 = Format(
    "svdquant_w4a4", torch.int8, 7.0, (PerGroup(1, 64),), per_byte=2, rounded=signed_nibbles, book=INT4,
    high_first=False,
)  # fmt: skip
awq_w4a16 = Format(
    "awq_w4a16", torch.int8, 7.0, (PerGroup(1, 64),), per_byte=2, rounded=offset_nibbles, book=tuple(range(-8, 8)),
    high_first=False,
)  # fmt: skip

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz, mxfp8, nvfp4,
        int8, int8_convrot, int4, int4_convrot,
    )
}  # fmt: skip

CALIBRATED: dict[str, Format] = {f.name: f for f in (svdquant_w4a4, awq_w4a16)}


def format_named(name: str) -> Format:
    return FORMATS[one_of("format", name, FORMATS)]
