"""Memory that is used again belongs to one use of one thread, and no answer lies in it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from products import DTYPES, activation, product, sqnr, weight
from scaled_fp8 import quant
from scaled_fp8.quant.kernels import activations, bits, gemm, scratch
from scaled_fp8.quant.kernels.activations import int8_per_token
from scaled_fp8.quant.kernels.registry import KERNELS

KERNEL = {kernel.name: kernel for kernel in KERNELS}


def test_the_next_of_a_use_has_the_same_memory():
    first = scratch.scratch("one", torch.float32, 8, 8)
    assert scratch.scratch("one", torch.float32, 4, 4).data_ptr() == first.data_ptr()
    assert scratch.scratch("other", torch.float32, 8, 8).data_ptr() != first.data_ptr()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(scratch.scratch, "one", torch.float32, 8, 8).result().data_ptr() != first.data_ptr()


def test_what_is_large_is_not_kept(monkeypatch):
    monkeypatch.setattr(scratch, "MOST", 100)
    assert scratch.scratch("large", torch.float32, 101).shape == (101,)
    assert ("large", torch.float32) not in scratch.OWN.kept


@pytest.mark.parametrize("size", (1, 3, 7, 8, 100))
@pytest.mark.parametrize("dim", (0, 1))
def test_pieces_are_those_of_a_split(size, dim):
    x = torch.arange(8 * 7).view(8, 7)
    assert [p.tolist() for p in scratch.pieces(x, size, dim)] == [p.tolist() for p in x.split(size, dim)]


def test_memory_made_in_inference_mode_serves_outside_of_it():
    w, x = weight(40, 64), activation(1.0, 3, 64)
    with torch.inference_mode():
        bits.upcast_by_bits(x, w, None)
    assert sqnr(bits.upcast_by_bits(x, w, None), product(x, w)) > 100


@pytest.mark.parametrize("name", ("upcast by bits", "upcast compiled", "scaled_mm int8"))
def test_an_output_is_nobodys_memory(name):
    """Two forwards, the first one's output is as it was; threads at once give what one does."""
    format = quant.FORMATS["int8"] if "int8" in name else quant.FORMATS["float8_e4m3fn"]
    w = quant.quantize(weight(96, 64).dequantize(), format)
    inputs = [activation(size, 7, 64) for size in (1.0, 2.0, 3.0, 4.0)]
    run = KERNEL[name].run
    alone = [run(x, w, None, None) for x in inputs]
    kept = [y.clone() for y in alone]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda x: run(x, w, None, None), inputs * 8))
    assert all(torch.equal(y, k) for y, k in zip(alone, kept, strict=True))
    assert all(torch.equal(y, kept[i % 4]) for i, y in enumerate(together))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_int8_codes_by_pieces_are_those_of_the_definition(dtype, monkeypatch):
    x = (activation(1.0, 9, 50) * torch.logspace(-3, 3, 9)[:, None]).to(dtype)
    x[4] = 0
    want = int8_per_token(x)
    monkeypatch.setattr(activations, "PIECE", 120)
    got = int8_per_token(x.t().contiguous().t())
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


@pytest.mark.parametrize(("tokens", "outputs", "inputs"), ((1, 70, 30), (70, 33, 64), (40, 90, 7)))
def test_int8_sums_by_pieces_are_exact(tokens, outputs, inputs, monkeypatch):
    """Against int64 arithmetic, with more pieces than one each way."""
    for name, size in (("PIECE", 64), ("TOKENS", 16), ("OUTPUTS", 8)):
        monkeypatch.setattr(gemm, name, size)
    w, bias = quant.quantize(torch.randn(outputs, inputs), quant.FORMATS["int8"]), torch.randn(outputs)
    codes, scale = int8_per_token(torch.randn(tokens, inputs))
    sums = (codes.long() @ w.codes.long().T).float()
    got = gemm.int8_rows(gemm.Codes(codes, scale, torch.float32), w, bias)
    torch.testing.assert_close(got, sums * w.scale.reshape(1, -1) * scale + bias, rtol=1e-5, atol=1e-5)
