"""The ConvRot rotation of a weight's inputs, by groups.

ConvRot (Huang et al., arXiv 2512.03673): regular Hadamard matrices, whose rows all have the same sum.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def rotate(weight: Tensor, group: int) -> Tensor:
    """ConvRot's rotation of weight ``[out, in]`` float32; the matrix is symmetric and orthogonal, its own inverse."""
    return (weight.reshape(-1, group) @ matrix_for(weight, group)).view_as(weight)


def rotated(x: Tensor, group: int) -> Tensor:
    """Activations ``[tokens, in]`` for a rotated weight, in x's dtype, which holds the matrix exactly."""
    return (x.reshape(-1, group) @ matrix_for(x, group)).view(x.shape)


def matrix_for(x: Tensor, size: int) -> Tensor:
    """The matrix where and as x is; made once, but for a compiled graph, which folds it itself."""
    return hadamard(size).to(x) if torch.compiler.is_compiling() else kept(size, x.device, x.dtype)


@lru_cache(maxsize=64)
def kept(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return hadamard(size).to(device, dtype)


def hadamard(size: int) -> Tensor:
    """Normalized regular Hadamard matrix of a power of 4 (ConvRot, as in comfy-kitchen), ``[size, size]`` float32."""
    corner = torch.ones(4, 4) - 2 * torch.eye(4).flip(1)
    matrix = corner
    while len(matrix) < size:
        matrix = torch.kron(matrix, corner)
    return matrix / size**0.5
