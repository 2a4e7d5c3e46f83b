"""The ConvRot rotation of a weight's inputs, by groups."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(weight: Tensor, group: int) -> Tensor:
    """ConvRot's rotation of weight ``[out, in]`` float32; the matrix is symmetric and orthogonal, its own inverse."""
    return (weight.reshape(-1, group) @ hadamard(group).to(weight.device)).view_as(weight)


def hadamard(size: int) -> Tensor:
    """Normalized regular Hadamard matrix of a power of 4 (ConvRot, as in comfy-kitchen), ``[size, size]`` float32."""
    corner = torch.ones(4, 4) - 2 * torch.eye(4).flip(1)
    matrix = corner
    while len(matrix) < size:
        matrix = torch.kron(matrix, corner)
    return matrix / size**0.5
