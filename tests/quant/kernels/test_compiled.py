"""What gcc makes of compiled.c: every number of a float8, any shape and tile of scales; and where it is made."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from products import DTYPES, activation, product, sqnr, weight
from scaled_fp8 import quant
from scaled_fp8.quant.kernels import compiled, compiler
from scaled_fp8.quant.kernels.activations import SCHEMES
from scaled_fp8.quant.kernels.moment import InForward
from scaled_fp8.quant.kernels.plan import choose

FLOAT8 = [format for format in quant.FORMATS.values() if format.name.startswith("float8")]
GRIDS = (quant.PerTensor(), quant.PerRow(), quant.PerBlock(128, 128), quant.PerBlock(16, 32), quant.PerGroup(1, 32))
REASON = compiler.compiler_refuses()
needs_gcc = pytest.mark.skipif(REASON is not None, reason=f"the compiled kernel {REASON}")


@needs_gcc
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32), ids=str)
@pytest.mark.parametrize("format", FLOAT8, ids=lambda f: f.name)
def test_every_number_of_a_float8(format, dtype):
    """Exactly, subnormal ones too."""
    codes = torch.arange(256, dtype=torch.uint8).view(format.dtype)
    numbers = codes.view(torch.uint8)[torch.isfinite(codes.float())].view(format.dtype).reshape(1, -1)
    w = quant.QuantizedWeight(format, numbers, torch.ones(1, 1), quant.PerRow(), (1, numbers.shape[1]))
    (values,) = compiled.slabs(w, dtype)
    assert torch.equal(values.float(), numbers.float())


@needs_gcc
@pytest.mark.parametrize("granularity", GRIDS, ids=str)
def test_weights_are_rounded_as_torch_rounds(granularity):
    """The float32 weight to the nearest bfloat16, of ties the even one, numbers between all powers of two."""
    w = weight(64, 96, granularity=granularity)
    for size in (1e-30, 1.0, 3.0, 1e6):
        scaled = replace(w, scale=w.scale / w.scale.max() * size)
        (values,) = compiled.slabs(scaled, torch.bfloat16)
        assert torch.equal(values, scaled.dequantize().bfloat16())


@needs_gcc
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("granularity", GRIDS, ids=str)
@pytest.mark.parametrize("format", FLOAT8, ids=lambda f: f.name)
@pytest.mark.parametrize("tokens", (1, 2, 70))
def test_products_in_slabs(format, granularity, dtype, tokens, monkeypatch):
    """More rows than a slab has, blocks that the shape cuts off, operands that do not lie row after row."""
    monkeypatch.setattr("scaled_fp8.quant.kernels.bits.SLAB", 130 * 100)
    w, x = weight(300, 130, format, granularity), activation(1.0, tokens, 130).to(dtype)
    bias, truth = torch.linspace(-3, 3, 300).to(dtype), product(x, w)
    turned = replace(w, codes=w.codes.view(torch.uint8).t().contiguous().t().view(format.dtype))
    bound = {torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float32: 1e-6}[dtype]
    for own, given in ((None, x), (bias, x.t().contiguous().t())):
        want = truth if own is None else truth + own.float()
        got = compiled.upcast_compiled(given, turned, own)
        assert got.dtype == dtype and got.is_contiguous()
        assert (got.float() - want).norm() / want.norm() <= bound


@needs_gcc
def test_codes_that_are_no_numbers_stay_so():
    for tokens in (1, 3):
        w, x = weight(16, 16), torch.ones(tokens, 16)
        assert torch.isfinite(compiled.upcast_compiled(x, w, None)).all()
        w.codes.view(torch.uint8)[3, 4] = 0x7F
        assert compiled.upcast_compiled(x, w, None).isnan().nonzero()[:, 1].unique().tolist() == [3]


@needs_gcc
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_int8_codes_are_those_of_the_definition(dtype):
    """Zeros, what is near the least number, and what is none: a NaN is in the scale, and so in the output."""
    x = activation(1.0, 9, 50) * torch.logspace(-3, 3, 9)[:, None]
    x[3], x[4] = 0, x[4] * 1e-38
    x[5, 7], x[6, 8] = float("nan"), float("inf")
    x = x.to(dtype)
    for given in (x, x.t().contiguous().t()):
        (codes, scale), (want, want_scale) = compiled.int8_per_token(given), SCHEMES["int8 per-token"](given, None)
        torch.testing.assert_close(scale, want_scale, rtol=0, atol=0, equal_nan=True)
        finite = torch.isfinite(x).all(1)
        assert torch.equal(codes[finite], want[finite]) and codes.dtype == want.dtype


##### Where it is built


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    """A folder of proofs of this test's own, and a library that is asked for anew."""
    monkeypatch.setattr(compiler, "private", lambda path, real=compiler.private: real_within(path, tmp_path, real))
    monkeypatch.setenv("SCALED_FP8_CACHE", str(tmp_path / "own"))
    compiler.library.cache_clear()
    yield tmp_path / "own"
    compiler.library.cache_clear()


def real_within(path: Path, base: Path, real) -> bool:
    """The answer of compiler.private, whoever may write above the tests' own folder."""
    path.mkdir(parents=True, exist_ok=True)
    return compiler.sealed(path) if path.is_relative_to(base) else real(path)


@needs_gcc
def test_it_is_built_once(folder, monkeypatch):
    assert compiler.compiler_refuses() is None
    assert [path.suffix for path in folder.iterdir()] == [".so"]
    compiler.library.cache_clear()
    monkeypatch.setattr(compiler, "build", lambda *_: pytest.fail("built again"))
    assert compiler.compiler_refuses() is None


@needs_gcc
def test_what_others_may_write_holds_no_library(folder):
    folder.mkdir()
    folder.chmod(0o777)
    assert compiler.compiler_refuses() is None, "it is built elsewhere"
    assert not list(folder.iterdir())


@needs_gcc
def test_a_library_that_others_may_write_is_built_anew(folder):
    assert compiler.compiler_refuses() is None
    (library,) = folder.iterdir()
    library.chmod(0o777)
    before = library.stat().st_ino
    compiler.library.cache_clear()
    assert compiler.compiler_refuses() is None
    assert library.stat().st_ino != before
    assert not library.stat().st_mode & compiler.OTHERS_WRITE


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system has no owners of folders")
def test_a_folder_below_one_that_others_may_write_is_not_private(tmp_path):
    shared, own = tmp_path / "shared", tmp_path / "shared" / "own"
    own.mkdir(parents=True, mode=0o700)
    shared.chmod(0o777)
    assert not compiler.private(own)
    # as /tmp is: nobody can take away what is another's
    shared.chmod(0o1777)
    assert compiler.sealed(shared, compiler.S_ISVTX) and not compiler.sealed(shared)


@needs_gcc
def test_a_library_that_cannot_be_loaded_is_built_anew_the_next_time(folder):
    folder.mkdir()
    broken = folder / f"{compiler.name_of(compiler.features())}.so"
    broken.write_bytes(b"no library")
    assert str(compiler.compiler_refuses()).startswith("cannot be built: ")
    compiler.library.cache_clear()
    assert compiler.compiler_refuses() is None


def fails_with(said: str, folder: Path) -> str:
    """A compiler that says something and fails."""
    script = folder / "gcc"
    script.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    script.chmod(0o755)
    return str(script)


@pytest.mark.skipif(shutil.which("sh") is None, reason="this system has no shell")
def test_no_compiler_and_one_that_fails_are_reasons(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(compiler.sys, "platform", "linux")
    for found, said in (
        (None, "needs gcc, which is not installed"),
        (fails_with("fatal error: stdint.h", tmp_path), "cannot be built: fatal error: stdint.h"),
        (str(tmp_path / "gone"), "cannot be built: "),
    ):
        monkeypatch.setattr(compiler.shutil, "which", lambda name, found=found: found)
        compiler.library.cache_clear()
        assert str(compiler.compiler_refuses()).startswith(said)
        chosen = choose(FLOAT8[0], quant.PerRow(), (48, 64), "cpu", torch.bfloat16)
        assert str(chosen.refused["upcast compiled"]).startswith(said)
        assert chosen.kernel.name == "upcast by bits"


def test_nothing_is_built_in_a_forward(folder, monkeypatch):
    monkeypatch.setattr(compiler, "loaded", lambda *_: pytest.fail("built in a forward"))
    with InForward():
        assert compiler.compiler_refuses() == "is built while a model loads, not in a forward"


@needs_gcc
def test_it_is_chosen_by_time(monkeypatch):
    from scaled_fp8.quant.kernels import speed

    monkeypatch.setattr(speed, "ratio", lambda kernel, layer, tokens: 0.5 if kernel.name == "upcast compiled" else 1.0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 48, bias=False)).bfloat16()
    w = weight(48, 64)
    handle = quant.patch_linears(model, {"0": w})
    assert [row.kernel for row in handle.report().rows] == ["upcast compiled"]
    for tokens in (1, 9):
        x = activation(1.0, tokens, 64).bfloat16()
        with torch.no_grad():
            assert sqnr(model(x), product(x, w)) >= 45
