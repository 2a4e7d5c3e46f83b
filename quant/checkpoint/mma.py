"""Nunchaku's order of tensors, in which its matrix instructions load them, taken apart.

Source: Li et al., SVDQuant (arXiv 2411.05007), and the layout that DeepCompressor writes for Nunchaku's kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..weights.packing import pack

ROWS = 128  # outputs of a tile
DEPTH = 64  # inputs of a tile, and of a group that shares a scale
AWQ_ROWS, AWQ_DEPTH = 4, 64


def codes(stored: Tensor, inputs: int) -> Tensor:
    """``[rows, in / 2]`` int8 of whole tiles -> the same rows in order, the even element in the low nibble."""
    rows = stored.numel() * 2 // inputs
    words = stored.contiguous().view(torch.int32).reshape(rows // ROWS, inputs // DEPTH, 8, 8, 4, 2, 2)
    # tile of rows, of columns, 16 rows, row of 8, quad of columns, half of 16 rows, half of 64 columns
    ordered = words.permute(0, 2, 5, 3, 1, 6, 4).contiguous()
    return ordered.view(torch.int8).reshape(rows, inputs // 2)


def by_output(stored: Tensor, outputs: int) -> Tensor:
    """Values of outputs, ``[groups, out]`` or ``[out]`` -> ``[out, groups]`` in order."""
    tiles = stored.reshape(outputs // ROWS, -1, 8, 4, 2, 2)
    # tile, group, 16 outputs, pair, half of 16 outputs, of the pair
    return tiles.permute(0, 2, 4, 3, 5, 1).reshape(outputs, -1)


def micro(stored: Tensor, outputs: int) -> Tensor:
    """Bytes of groups of 16 inputs, ``[in / 16, out]`` -> ``[out, in / 16]`` in order; four groups are a word."""
    words = stored.contiguous().view(torch.uint8).reshape(outputs // ROWS, -1, 8, 4, 4, 4)
    # tile, word, row of 8, 8 rows, 32 rows, group of the word
    return words.permute(0, 4, 3, 2, 1, 5).reshape(outputs, -1)


def low_rank(stored: Tensor) -> Tensor:
    """``[channels, rank]`` in fragments of 16 x 16 -> in order, for the side of outputs."""
    return fragments(stored).permute(0, 4, 2, 1, 5, 3, 6).reshape(stored.shape)


def low_rank_down(stored: Tensor) -> Tensor:
    """``[channels, rank]`` in fragments of 16 x 16 -> ``[rank, channels]`` in order, for the side of inputs."""
    channels, rank = stored.shape
    return fragments(stored).permute(1, 4, 2, 0, 5, 3, 6).reshape(rank, channels)


def fragments(stored: Tensor) -> Tensor:
    """As 16 channels, 16 ranks, row of 8, quad, half of rows, half of columns, pair."""
    channels, rank = stored.shape
    return stored.reshape(channels // 16, rank // 16, 8, 4, 2, 2, 2)


##### AWQ, in the order of TinyChat


def awq_codes(stored: Tensor, inputs: int) -> Tensor:
    """A file's ``[out / 4, in / 2]`` int32 of whole rows -> ``[out, in / 2]`` int8, even element in the low nibble."""
    words = stored.contiguous().view(torch.int16).reshape(-1, inputs // AWQ_DEPTH, AWQ_ROWS, 16).permute(0, 2, 1, 3)
    # a word holds columns i, i + 8, i + 16 and i + 24 of 32
    shifts = torch.arange(0, 16, 4, dtype=torch.int16)
    nibbles = (words.reshape(-1, inputs // 32, 8, 1) >> shifts) & 0xF
    ordered = nibbles.transpose(2, 3).reshape(-1, inputs)
    return pack(ordered.to(torch.uint8), high_first=False).view(torch.int8)


##### comfy-kitchen's own tiles


def tiled_codes(stored: Tensor, inputs: int) -> Tensor:
    """``[tiles, in / 64, 32, 128]`` -> ``[rows, in / 2]``: four rows of 64 columns lie together."""
    tiles = stored.reshape(-1, inputs // DEPTH, 32, 4, DEPTH // 2)
    return tiles.permute(0, 2, 3, 1, 4).reshape(-1, inputs // 2)
