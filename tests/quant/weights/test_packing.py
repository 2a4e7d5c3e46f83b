"""4-bit codes: packing is undone by unpacking, and E2M1 is rounded as a search over all its values rounds."""

from __future__ import annotations

import pytest
import torch
from scaled_fp8.quant.weights.packing import E2M1, INT4, e2m1_codes, pack, unpack


@pytest.mark.parametrize("high_first", [True, False])
def test_unpack_undoes_pack(high_first):
    codes = torch.randint(0, 16, (5, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    packed = pack(codes, high_first)
    assert packed.shape == (5, 6) and torch.equal(unpack(packed, high_first), codes)
    even = packed >> 4 if high_first else packed & 15
    assert torch.equal(even, codes[:, ::2])


def test_negative_integers_keep_their_twos_complement():
    codes = torch.arange(-8, 8, dtype=torch.int8).view(1, -1)
    table = torch.tensor(INT4)
    assert torch.equal(table[unpack(pack(codes, False), False).int()], codes.float())


def test_e2m1_is_the_nearest_value():
    scaled = torch.linspace(-6, 6, 4801)
    values = torch.tensor(E2M1)
    nearest = (scaled.unsqueeze(1) - values).abs().amin(1)
    assert torch.allclose((values[e2m1_codes(scaled).int()] - scaled).abs(), nearest)


def test_e2m1_ties_go_to_the_even_code():
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    assert torch.tensor(E2M1)[e2m1_codes(ties).int()].tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
