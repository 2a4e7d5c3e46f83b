"""What torch does to a scaled tensor gives what it gives on the dequantized weight, and stays a byte a weight."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from scaled_fp8 import quant
from scaled_fp8.quant.nn.tensor import ScaledTensor, to_tensor
from sharded import CASES
from torch import Tensor

OUT, IN = 384, 512
# (name, what is done); parts lie on the borders of every format's blocks, groups and rotations
KEPT = {
    "split": lambda t: t.split(128),
    "split by sizes": lambda t: t.split([128, 256]),
    "split columns": lambda t: t.split(256, 1),
    "chunk": lambda t: t.chunk(3),
    "chunk columns": lambda t: t.chunk(2, -1),
    "tensor_split": lambda t: t.tensor_split(3),
    "narrow": lambda t: t.narrow(0, 128, 256),
    "narrow columns": lambda t: t.narrow(1, 256, 256),
    "slice": lambda t: t[128:],
    "slice columns": lambda t: t[:, :256],
    "view": lambda t: t.view(OUT, IN),
    "cat": lambda t: torch.cat([t, t[:128]]),
    "cat columns": lambda t: torch.cat([t[:, 256:], t], 1),
    "cut and put together": lambda t: torch.cat(t.split(128)),
    "detach": lambda t: t.detach(),
    "clone": lambda t: t.clone(),
    "contiguous": lambda t: t.contiguous(),
    "_to_copy": lambda t: t.to("cpu", copy=True),
    "_to_copy, dtype": lambda t: t.to(torch.float64),
    "copy_": lambda t: torch.empty_like(t).copy_(t),
    "copy_ into zeros": lambda t: t.new_zeros(t.shape).copy_(t),
    "copy_ into rows of zeros": lambda t: filled_rows(t.new_zeros((OUT + 128, IN)), t)[:OUT],
}
# what has no values of its own
EMPTY = {
    "new_zeros": lambda t: t.new_zeros((128, IN)),
    "empty_like": lambda t: torch.empty_like(t),
    "meta": lambda t: t.to("meta"),
}
# no rows and columns any more: an ordinary tensor
PLAIN = {
    "view of another shape": lambda t: t.view(-1, 2 * IN),
    "transpose": lambda t: t.t(),
    "rows in steps": lambda t: t[::2],
    "row": lambda t: t[7],
    "stack": lambda t: torch.stack([t, t]),
    "sum": lambda t: t.sum(),
}
CHANGED = {
    "zero_": lambda t: t.zero_(),
    "fill_": lambda t: t.fill_(1.0),
    "mul_": lambda t: t.mul_(2),
    "add_": lambda t: t.add_(t),
    "out": lambda t: torch.mul(torch.ones(OUT, IN), 2, out=t),
    "index_fill_": lambda t: t.index_fill_(1, torch.tensor([0]), 0.0),
}
every = pytest.mark.parametrize(("format", "granularity"), CASES, ids=lambda v: getattr(v, "name", v))


def filled_rows(target: Tensor, rows: Tensor) -> Tensor:
    target[: rows.shape[0]].copy_(rows)
    return target


@cache
def quantized(format: quant.Format, granularity: str) -> quant.QuantizedWeight:
    values = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0))
    return quant.quantize(values, format, format.granularity(granularity))


@pytest.fixture
def weight(format: quant.Format, granularity: str) -> quant.QuantizedWeight:
    return quantized(format, granularity)


def several(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (found,) if isinstance(found, Tensor) else tuple(found)


@every
@pytest.mark.parametrize("name", KEPT)
def test_it_stays_scaled_and_is_what_the_dequantized_weight_becomes(weight, name):
    tensor = to_tensor(weight, torch.float32)
    wanted = several(KEPT[name](weight.dequantize()))
    for found, want in zip(several(KEPT[name](tensor)), wanted, strict=True):
        assert type(found) is ScaledTensor and found.shape == want.shape and found.dtype == want.dtype
        assert torch.equal(found.dequantize(), want)
        # as many bytes of codes for each element as before
        assert found._qdata.nbytes * tensor.numel() == tensor._qdata.nbytes * found.numel()


@every
@pytest.mark.parametrize("name", EMPTY)
def test_what_is_to_be_filled_is_of_the_same_kind(weight, name):
    tensor = to_tensor(weight, torch.float32)
    found, want = EMPTY[name](tensor), EMPTY[name](weight.dequantize())
    assert type(found) is ScaledTensor and found.shape == want.shape and found.device == want.device
    assert found._params.format is weight.format and found._params.granularity == weight.granularity


@every
@pytest.mark.parametrize("name", PLAIN)
def test_what_has_no_rows_and_columns_is_an_ordinary_tensor_of_the_same_values(weight, name):
    found = PLAIN[name](to_tensor(weight, torch.float32))
    assert type(found) is Tensor and torch.equal(found, PLAIN[name](weight.dequantize()))


@pytest.mark.parametrize(("format", "granularity"), CASES[:2], ids=lambda v: getattr(v, "name", v))
@pytest.mark.parametrize("name", CHANGED)
def test_what_its_codes_cannot_take_is_refused_and_changes_nothing(weight, name):
    tensor, before = to_tensor(weight, torch.float32), weight.dequantize().clone()
    with pytest.raises(quant.Refused, match="would change a scaled weight in place"):
        CHANGED[name](tensor)
    assert torch.equal(tensor.dequantize(), before)
