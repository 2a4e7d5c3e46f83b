"""ConvRot's rotation is its own inverse and changes no length."""

from __future__ import annotations

import pytest
import torch
from scaled_fp8.quant.weights.formats import HADAMARD_GROUPS
from scaled_fp8.quant.weights.rotation import hadamard, rotate


@pytest.mark.parametrize("group", HADAMARD_GROUPS)
def test_the_matrix_is_symmetric_orthogonal_and_of_one_magnitude(group):
    matrix = hadamard(group).double()
    assert torch.equal(matrix, matrix.T)
    assert torch.allclose(matrix @ matrix, torch.eye(group, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(matrix.abs(), torch.full_like(matrix, group**-0.5))


@pytest.mark.parametrize("group", HADAMARD_GROUPS)
def test_rotating_twice_gives_the_weight_back(group):
    weight = torch.randn(8, 512, generator=torch.Generator().manual_seed(0))
    once = rotate(weight, group)
    assert torch.allclose(rotate(once, group), weight, atol=1e-5)
    assert torch.allclose(once.norm(dim=1), weight.norm(dim=1), rtol=1e-5)
    assert not torch.allclose(once, weight, atol=0.1)
