"""A kernel that raises in a forward makes place for the next one, for good and with the reason; the step goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from products import E4M3, activation, product, quantized, sqnr
from scaled_fp8 import quant
from scaled_fp8.quant.kernels import demotion, plan
from scaled_fp8.quant.kernels.proof_cache import Proof
from scaled_fp8.quant.nn.report import report_choices
from torch import nn

VALUES = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def forgiven(monkeypatch):
    monkeypatch.setattr(demotion, "DEMOTED", {})


def patched() -> tuple[nn.Module, quant.Handle]:
    model = nn.Sequential(nn.Linear(64, 48, bias=False))
    return model, quant.patch_linears(model, {"0": quantized(VALUES)}, compute="scaled_mm")


def choice_of(handle):
    return next(iter(handle.patches["0"].choices.values()))


def raising(handle, problem: Exception) -> None:
    """Have the planned kernel of a layer raise from now on."""

    def compute(*_):
        raise problem

    choice = choice_of(handle)
    choice.main = replace(choice.main, kernel=replace(choice.kernel, compute=compute))


X, TRUTH = activation(1.0, 5, 64), product(activation(1.0, 5, 64), quantized(VALUES))


def test_the_step_goes_on_and_the_report_says_why():
    model, handle = patched()
    first = choice_of(handle).kernel.name
    raising(handle, RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED\nmore"))
    with torch.no_grad():
        assert sqnr(model(X), TRUTH) >= 28
        assert sqnr(model(X), TRUTH) >= 28
    row = handle.report().rows[0]
    assert row.kernel != first
    assert row.reason.startswith(f"{first} raised in a forward on cpu: RuntimeError: CUBLAS_STATUS_NOT_SUPPORTED; ")
    assert row.ran == {row.kernel: 2}


def test_it_is_not_asked_again_in_this_process():
    model, handle = patched()
    first = choice_of(handle).kernel.name
    other, other_handle = patched()
    raising(handle, RuntimeError("lost"))
    with torch.no_grad():
        model(X)
        assert sqnr(other(X), TRUTH) >= 28
    # planned before, and planned after
    for later in (other_handle, patched()[1]):
        assert later.report().rows[0].kernel != first
    assert "raised in a forward" in patched()[1].patches["0"].choices.popitem()[1].refused[first]


def test_full_memory_is_not_the_kernels_fault():
    model, handle = patched()
    raising(handle, torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError), torch.no_grad():
        model(X)
    assert not demotion.DEMOTED


def test_where_all_raise_the_first_problem_is_told_and_none_is_demoted(monkeypatch):
    model, handle = patched()
    first = choice_of(handle).kernel
    # not to be kept for other tests
    monkeypatch.setattr(plan, "prove", lambda kernel, layer: Proof(0.0, None))
    monkeypatch.setattr(type(first), "run", lambda self, *_: (_ for _ in ()).throw(RuntimeError(self.name)))
    with pytest.raises(RuntimeError, match=f"^{first.name}$"), torch.no_grad():
        model(X)
    assert not demotion.DEMOTED
    assert choice_of(handle).kernel is first


def test_another_format_keeps_the_kernel():
    _, handle = patched()
    choice = choice_of(handle)
    demotion.demote(choice.kernel, choice.layer, RuntimeError("lost"))
    same = replace(choice.layer, format=quant.FORMATS["float8_e5m2"])
    assert demotion.demoted(choice.kernel, choice.layer)
    assert demotion.demoted(choice.kernel, same) is None
    assert report_choices({"0": choice}).rows[0].format == E4M3.name
