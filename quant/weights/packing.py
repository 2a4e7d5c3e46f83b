"""Codes in memory: two of 4 bits in a byte, rounding to the 4-bit float, filling up to multiples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The values of a 4-bit float (E2M1) by its code, sign in bit 3; and of a signed 4-bit integer.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
INT4 = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0)


def pack(codes: Tensor, high_first: bool) -> Tensor:
    """One code an element, ``[out, in]`` -> two a byte, ``[out, in / 2]`` uint8; the even one high or low."""
    codes = codes.view(torch.uint8) & 0xF
    even, odd = codes[..., ::2], codes[..., 1::2]
    return (even << 4) | odd if high_first else (odd << 4) | even


def unpack(codes: Tensor, high_first: bool) -> Tensor:
    """Two codes a byte, ``[out, in / 2]`` -> one an element, ``[out, in]`` uint8, 0 to 15."""
    byte = codes.view(torch.uint8)
    high, low = byte >> 4, byte & 0xF
    return torch.stack((high, low) if high_first else (low, high), dim=-1).flatten(-2)


def e2m1_codes(scaled: Tensor) -> Tensor:
    """Float32 within +-6 -> codes of the nearest E2M1 values, uint8, ties to even."""
    size = scaled.abs()
    # from 2 on E2M1 has steps of 1, from 4 on of 2, below 2 of 0.5
    upper = torch.where(size < 4, size.round() + 2, (size / 2).round() + 4)
    code = torch.where(size < 2, (size * 2).round(), upper).to(torch.uint8)
    return code | (torch.signbit(scaled).to(torch.uint8) << 3)


def up(size: int, step: int) -> int:
    """size, or the next multiple of step."""
    return -(-size // step) * step


def corner(tensor: Tensor, rows: int, columns: int) -> Tensor:
    """The first rows and columns of a matrix, a view."""
    return tensor.narrow(0, 0, rows).narrow(1, 0, columns)


def padded(codes: Tensor, row_step: int, column_step: int) -> Tensor:
    """Codes filled up with zeros to multiples of the steps; as they are where nothing is missing."""
    rows, columns = codes.shape
    if not (rows % row_step or columns % column_step):
        return codes
    # float8 has no pad of its own
    filled = F.pad(codes.view(torch.uint8), (0, -columns % column_step, 0, -rows % row_step))
    return filled.view(codes.dtype)
