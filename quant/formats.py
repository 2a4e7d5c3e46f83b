"""What a number format is: one frozen object each, in one table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .granularity import Granularity, PerBlock, PerGroup, PerRow, PerTensor
from .refusal import Refused

FP8_GRANULARITIES = (PerTensor(), PerRow(), PerBlock(128, 128))
# The values of a 4-bit float (E2M1) by its code, sign in bit 3.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@dataclass(frozen=True)
class Format:
    """A number format: how codes are stored, what the largest stands for, which scales go with it.

    dtype: torch dtype of the stored codes; maximum: magnitude of the largest code; per_byte: codes in one
    stored element; granularities: those it is written with, default first; comfy: its name in ComfyUI core.
    """

    name: str
    dtype: torch.dtype
    maximum: float
    granularities: tuple[Granularity, ...] = FP8_GRANULARITIES
    per_byte: int = 1
    comfy: str | None = None

    def values(self, codes: Tensor) -> Tensor:
        """Codes as stored, ``[out, in / per_byte]`` -> their float32 values before scaling, ``[out, in]``."""
        return unpack(codes, self.name) if self.per_byte == 2 else codes.float()


def floating(dtype: torch.dtype, comfy: str | None = None) -> Format:
    name = str(dtype).removeprefix("torch.")
    return Format(name, dtype, torch.finfo(dtype).max, comfy=comfy)


float8_e4m3fn = floating(torch.float8_e4m3fn, comfy="float8_e4m3fn")
float8_e5m2 = floating(torch.float8_e5m2, comfy="float8_e5m2")
# AMD MI300's: the same bits mean half of the OCP value, and 0x80 is NaN
float8_e4m3fnuz = floating(torch.float8_e4m3fnuz)
float8_e5m2fnuz = floating(torch.float8_e5m2fnuz)
mxfp8 = Format("mxfp8", torch.float8_e4m3fn, 448.0, (PerGroup(1, 32),), comfy="mxfp8")
nvfp4 = Format("nvfp4", torch.uint8, 6.0, (PerGroup(1, 16),), per_byte=2, comfy="nvfp4")
int8 = Format("int8", torch.int8, 127.0, (PerRow(), PerTensor()), comfy="int8_tensorwise")

FORMATS: dict[str, Format] = {
    f.name: f for f in (float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz, mxfp8, nvfp4, int8)
}


def format_named(name: str) -> Format:
    if name not in FORMATS:
        raise Refused(f"Format {name!r} is unknown; choose one of {', '.join(FORMATS)}.")
    return FORMATS[name]


def unpack(codes: Tensor, name: str) -> Tensor:
    """Two 4-bit codes a byte, the even element in the high nibble: ``[out, in / 2]`` uint8 -> ``[out, in]`` float32."""
    table = torch.tensor(E2M1 if name == "nvfp4" else range(-8, 8), dtype=torch.float32, device=codes.device)
    byte = codes.view(torch.uint8)
    nibbles = torch.stack((byte >> 4, byte & 0xF), dim=-1)
    return table[nibbles.long()].flatten(-2)


def scale_from_amax(amax: Tensor, maximum: float) -> Tensor:
    """Float32 scale that maps amax to the largest code; 1 where amax is zero, so that zeros stay zeros."""
    scale = amax.float() / maximum
    # below the smallest normal number 1 / scale overflows
    tiny = torch.finfo(torch.float32).tiny
    return torch.where(amax == 0, torch.ones_like(scale), scale.clamp(min=tiny))
