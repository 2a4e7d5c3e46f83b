"""Parts of weights are rows and columns of the dequantized weight, and together they are the whole."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from scaled_fp8 import quant
from scaled_fp8.quant.distributed import parts
from sharded import CASES

OUT, IN = 384, 512
ALL = pytest.mark.parametrize(("format", "granularity"), CASES, ids=lambda v: getattr(v, "name", v))


def weight(format: quant.Format, granularity: str) -> quant.QuantizedWeight:
    values = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0))
    return quant.quantize(values, format, format.granularity(granularity))


@ALL
@pytest.mark.parametrize("dim", (0, 1))
def test_a_part_is_that_part_of_the_dequantized_weight(format, granularity, dim):
    whole = weight(format, granularity)
    piece = parts.part(whole, dim, 256, (OUT, IN)[dim])
    assert torch.equal(piece.dequantize(), whole.dequantize().narrow(dim, 256, (OUT, IN)[dim] - 256))


@ALL
@pytest.mark.parametrize("dim", (0, 1))
def test_parts_together_are_the_whole(format, granularity, dim):
    whole = weight(format, granularity)
    ends = [0, 128, 256, OUT] if dim == 0 else [0, 256, IN]
    pieces = [parts.part(whole, dim, a, b) for a, b in zip(ends, ends[1:], strict=False)]
    again = parts.joined(pieces, dim)
    assert again.shape == whole.shape and torch.equal(again.dequantize(), whole.dequantize())


@ALL
@pytest.mark.parametrize("dim", (0, 1))
def test_filled_up_it_keeps_its_values_and_ends_in_zeros(format, granularity, dim):
    whole = weight(format, granularity)
    size = whole.shape[dim] + 256
    more = parts.filled(whole, dim, size)
    assert more.shape[dim] == size and more.codes.shape[0] == more.shape[0]
    assert torch.equal(parts.part(more, dim, 0, whole.shape[dim]).dequantize(), whole.dequantize())


def test_a_part_begins_on_a_border():
    for format, granularity, dim, at in (
        ("float8_e4m3fn", "block", 0, 64), ("mxfp8", "group", 1, 16), ("nvfp4", "group", 1, 8),
        ("int8_convrot", None, 1, 64),
    ):  # fmt: skip
        kind = quant.FORMATS[format]
        with pytest.raises(quant.Refused, match="cannot be cut at"):
            parts.part(weight(kind, granularity or kind.granularities[0].name), dim, at, OUT)


@pytest.mark.parametrize(("size", "count"), ((10, 4), (333, 2), (3, 4), (1024, 8)))
def test_shares_are_torchs_chunks(size, count):
    wanted = [len(chunk) for chunk in torch.arange(size).chunk(count)]
    found = [stop - start for start, stop in (parts.Share(i, count).span(size) for i in range(count))]
    assert [n for n in found if n] == wanted and sum(found) == size


def test_a_mesh_of_two_dimensions_has_no_one_order_of_parts():
    with pytest.raises(quant.Refused, match=r"mesh \(2, 4\) has no one order of parts; give one dimension"):
        parts.Share.of(SimpleNamespace(ndim=2, shape=(2, 4)))
