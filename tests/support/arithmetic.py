"""How producers turn a weight into codes and scales: plain torch arithmetic, nothing of the package under test.

Every function takes a float weight ``[out, in]`` and returns ``(codes, scale)`` with ``weight = codes * scale``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil

import comfy_kitchen
import torch
import torch.nn.functional as F
from torch import Tensor

E4M3, E5M2, E8M0 = torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu
E4M3_FNUZ, E5M2_FNUZ = torch.float8_e4m3fnuz, torch.float8_e5m2fnuz

Encoded = tuple[Tensor, Tensor]
Encoding = Callable[[Tensor, torch.dtype, torch.dtype], Encoded]


def top(dtype: torch.dtype) -> float:
    return 127.0 if dtype == torch.int8 else torch.finfo(dtype).max


def scale_of(amax: Tensor, codes: torch.dtype, stored: torch.dtype) -> Tensor:
    """amax -> the scale as it is stored; a zero amax gets 1."""
    scale = torch.where(amax == 0, 1.0, amax.float() / top(codes))
    if stored in (E8M0, torch.uint8):
        # a power of two, rounded up so that no code overflows
        scale = torch.exp2(torch.ceil(torch.log2(scale))).to(E8M0)
        return scale.view(torch.uint8) if stored == torch.uint8 else scale
    return scale.to(stored)


def decoded(scale: Tensor) -> Tensor:
    return (scale.view(E8M0) if scale.dtype == torch.uint8 else scale).float()


def codes_of(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    scaled = (weight.float() / scale).clamp(-top(dtype), top(dtype))
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype)


def cast(weight: Tensor, dtype: torch.dtype = E4M3, stored: torch.dtype = torch.float32) -> Encoded:
    """No scaling at all."""
    return codes_of(weight, torch.ones(()), dtype), torch.ones((), dtype=stored)


def per_tensor(weight: Tensor, dtype: torch.dtype = E4M3, stored: torch.dtype = torch.float32) -> Encoded:
    scale = scale_of(weight.abs().amax(), dtype, stored)
    return codes_of(weight, decoded(scale), dtype), scale


def per_row(weight: Tensor, dtype: torch.dtype = E4M3, stored: torch.dtype = torch.float32) -> Encoded:
    scale = scale_of(weight.abs().amax(1, keepdim=True), dtype, stored)
    return codes_of(weight, decoded(scale), dtype), scale


def shaped(encoding: Encoding, *shape: int) -> Encoding:
    """The same with its scale stored as another shape: per-tensor ``[1]``, per-row ``[out]``."""

    def encode(weight: Tensor, dtype: torch.dtype = E4M3, stored: torch.dtype = torch.float32) -> Encoded:
        codes, scale = encoding(weight, dtype, stored)
        return codes, scale.reshape(shape)

    return encode


def tiled(weight: Tensor, dtype: torch.dtype, stored: torch.dtype, rows: int, cols: int) -> Encoded:
    """One scale ``[ceil(out / rows), ceil(in / cols)]`` a tile."""
    m, n = ceil(weight.shape[0] / rows), ceil(weight.shape[1] / cols)
    padded = F.pad(weight.float(), (0, n * cols - weight.shape[1], 0, m * rows - weight.shape[0]))
    scale = scale_of(padded.view(m, rows, n, cols).abs().amax((1, 3)), dtype, stored)
    full = decoded(scale).repeat_interleave(rows, 0).repeat_interleave(cols, 1)
    return codes_of(weight, full[: weight.shape[0], : weight.shape[1]], dtype), scale


block128: Encoding = partial(tiled, rows=128, cols=128)
block64: Encoding = partial(tiled, rows=64, cols=64)
group128: Encoding = partial(tiled, rows=1, cols=128)
group32: Encoding = partial(tiled, rows=1, cols=32)


def group64_3d(weight: Tensor, dtype: torch.dtype = E4M3, stored: torch.dtype = torch.float32) -> Encoded:
    """musubi-tuner's: ``[out, in / 64, 1]``, per-row where 64 does not divide in."""
    if weight.shape[1] % 64:
        return per_row(weight, dtype, stored)
    codes, scale = tiled(weight, dtype, stored, 1, 64)
    return codes, scale.unsqueeze(2)


def swizzled(encoding: Encoding) -> Encoding:
    """The same with its scale grid in cuBLAS's 128 x 4 tiles, as ComfyUI stores it."""

    def encode(weight: Tensor, dtype: torch.dtype = E4M3, stored: torch.dtype = torch.uint8) -> Encoded:
        codes, scale = encoding(weight, dtype, stored)
        return codes, comfy_kitchen.to_blocked(scale.view(torch.uint8), flatten=False).view(scale.dtype)

    return encode


def hadamard(size: int) -> Tensor:
    """ConvRot's regular Hadamard matrix, by its definition: entry = product of H4 over the base-4 digits."""
    small = 1 - 2 * torch.eye(4).flip(1)
    index = torch.arange(size)
    matrix = torch.ones(size, size)
    for _ in range((size.bit_length() - 1) // 2):
        matrix *= small[(index % 4)[:, None], (index % 4)[None]]
        index = index // 4
    return matrix / size**0.5


def rotated(encoding: Encoding, group: int) -> Encoding:
    """The same of the weight turned along in by a Hadamard matrix, group by group."""

    def encode(weight: Tensor, dtype: torch.dtype = E4M3, stored: torch.dtype = torch.float32) -> Encoded:
        turned = weight.float().unflatten(1, (-1, group)) @ hadamard(group).T
        return encoding(turned.flatten(1), dtype, stored)

    return encode
