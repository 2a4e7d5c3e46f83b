"""Float8 codes as floats by integer arithmetic: every number exactly, in slabs, whatever the scales."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from products import DTYPES, activation, product, sqnr, weight
from scaled_fp8 import quant
from scaled_fp8.quant.kernels import bits

FLOAT8 = [format for format in quant.FORMATS.values() if format.name.startswith("float8")]


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32), ids=str)
@pytest.mark.parametrize("format", FLOAT8, ids=lambda f: f.name)
def test_bits_are_every_number_of_a_float8(format, dtype):
    """Exactly, subnormal ones too; those that are no numbers are left to the cast."""
    codes = torch.arange(256, dtype=torch.uint8).view(format.dtype)
    numbers = codes.view(torch.uint8)[torch.isfinite(codes.float())].view(format.dtype).reshape(1, -1)
    w = quant.QuantizedWeight(format, numbers, torch.ones(1, 1), quant.PerRow(), (1, numbers.shape[1]))
    (values,) = bits.slabs(w, dtype)
    assert torch.equal(values.float(), numbers.float())
    assert bits.all_numbers(numbers)
    assert bits.all_numbers(codes.view(1, -1)) == (len(numbers[0]) == 256)


GRIDS = (quant.PerTensor(), quant.PerRow(), quant.PerBlock(128, 128), quant.PerBlock(16, 32), quant.PerGroup(1, 32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("granularity", GRIDS, ids=str)
@pytest.mark.parametrize("format", FLOAT8, ids=lambda f: f.name)
def test_bits_in_slabs(format, granularity, dtype, monkeypatch):
    """More rows than a slab has, blocks that the shape cuts off; no further from float32 than rounding is."""
    monkeypatch.setattr(bits, "SLAB", 130 * 100)
    w, x = weight(300, 130, format, granularity), activation(1.0, 5, 130).to(dtype)
    bias = torch.linspace(-3, 3, 300).to(dtype)
    error = (bits.upcast_by_bits(x, w, bias).float() - product(x, w, bias)).norm() / product(x, w, bias).norm()
    # block scales are rounded to bfloat16 beside weight and output
    assert error <= {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 1e-6}[dtype]


def test_scales_of_any_size_are_no_overflow():
    """2^120, by which codes become numbers, leaves no room for a scale beside it."""
    for granularity in (quant.PerTensor(), quant.PerRow(), quant.PerBlock(16, 32)):
        for size in (1e-30, 1e6):
            w = weight(64, 64, granularity=granularity)
            w = replace(w, scale=w.scale / w.scale.max() * size)
            x = activation(1.0, 4, 64).bfloat16()
            assert sqnr(bits.upcast_by_bits(x, w, None), product(x, w)) >= 45


def test_a_code_that_becomes_nan_is_seen():
    w, x = weight(16, 16), torch.ones(1, 16)
    assert torch.isfinite(bits.upcast_by_bits(x, w, None)).all()
    w.codes.view(torch.uint8)[3, 4] = 0x7F
    assert bits.upcast_by_bits(x, w, None).isnan().nonzero().tolist() == [[0, 3]]
