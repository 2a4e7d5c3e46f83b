"""Fused weights are the concatenation of their parts, value by value, or are refused."""

from __future__ import annotations

import pytest
import torch
from scaled_fp8 import quant
from scaled_fp8.quant import FORMATS, PerBlock, PerRow, PerTensor, Refused

E4M3 = FORMATS["float8_e4m3fn"]


def parts(granularities, rows=(128, 256, 128), format=E4M3) -> list[quant.QuantizedWeight]:
    noise = torch.Generator().manual_seed(5)
    weights = (torch.randn(count, 256, generator=noise) * 10.0**i for i, count in enumerate(rows))
    return [quant.quantize(w, format, g) for w, g in zip(weights, granularities, strict=True)]


@pytest.mark.parametrize(
    "granularities",
    [(PerTensor(),) * 3, (PerRow(),) * 3, (PerTensor(), PerRow(), PerTensor()), (PerBlock(128, 128),) * 3],
    ids=["per-tensor", "per-row", "mixed", "block"],
)
def test_values_are_those_of_the_parts(granularities):
    given = parts(granularities)
    fused = quant.fuse_rows(given)
    assert torch.equal(fused.dequantize(), torch.cat([part.dequantize() for part in given]))
    assert fused.shape == (512, 256) and fused.input_scale is None
    assert fused.granularity == (granularities[0] if isinstance(granularities[0], PerBlock) else PerRow())


def test_a_block_may_end_short_only_in_the_last_part():
    blocks = (PerBlock(128, 128),) * 3
    last = parts(blocks, rows=(128, 256, 100))
    assert torch.equal(quant.fuse_rows(last).dequantize(), torch.cat([part.dequantize() for part in last]))
    with pytest.raises(Refused, match="border"):
        quant.fuse_rows(parts(blocks, rows=(100, 256, 128)))


def test_blocks_do_not_go_with_rows():
    with pytest.raises(Refused, match="border"):
        quant.fuse_rows(parts((PerRow(), PerBlock(128, 128), PerRow())))


def test_unlike_formats_are_refused():
    one, *others = parts((PerRow(),) * 3)
    (other,) = parts((PerRow(),), rows=(64,), format=FORMATS["float8_e5m2"])
    with pytest.raises(Refused, match="unlike"):
        quant.fuse_rows([one, *others, other])
