"""A probe believes numbers, not tables: a kernel that raises or is wrong does not work, and says why."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from products import DTYPES, E4M3
from scaled_fp8 import quant
from scaled_fp8.quant.capability import BOUND, SHAPE, doctor, measured, prove, typical
from scaled_fp8.quant.kernels import KERNELS, Kernel, Layer

CPU = torch.device("cpu")
LAYER = Layer(E4M3, quant.PerRow(), (4096, 4096), CPU, torch.bfloat16)
UPCAST = next(kernel for kernel in KERNELS if kernel.name == "upcast")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_a_kernel_works_or_says_why(kernel, dtype):
    proof = prove(kernel, typical(kernel, CPU, dtype))
    assert proof.works == (proof.reason is None)
    assert (proof.error is not None and proof.error <= BOUND) if proof.works else "raises on cpu" in str(proof.reason)


@pytest.mark.parametrize("format", quant.FORMATS.values(), ids=lambda f: f.name)
def test_upcast_is_proven_for_every_format(format):
    for granularity in format.granularities:
        assert prove(UPCAST, replace(LAYER, format=format, granularity=granularity)).works


def twisted(change) -> Kernel:
    return replace(UPCAST, name=f"twisted {change.__name__}", compute=change)


def wrong_scales(x, weight, bias, _):
    swapped = replace(weight, scale=weight.scale.flip(0))
    return UPCAST.run(x, swapped, bias, None)


def no_bias(x, weight, bias, _):
    return UPCAST.run(x, weight, None, None)


def two_percent_more(x, weight, bias, _):
    return UPCAST.run(x, weight, bias, None) * 1.02


def not_a_number(x, weight, bias, _):
    return UPCAST.run(x, weight, bias, None) * float("nan")


@pytest.mark.parametrize("change", (wrong_scales, no_bias, two_percent_more, not_a_number), ids=lambda f: f.__name__)
def test_wrong_numbers_are_no_proof(change):
    proof = prove(twisted(change), LAYER)
    assert not proof.works
    assert "is wrong on cpu: relative error" in str(proof.reason)


def test_an_exception_is_told_in_its_first_line():
    def missing(*_):
        raise NotImplementedError("'addmm' not implemented for 'Float8'\nat line 12 of something long")

    proof = prove(twisted(missing), LAYER)
    assert proof.reason == "raises on cpu: NotImplementedError: 'addmm' not implemented for 'Float8'"


def test_no_probe_on_meta():
    with pytest.raises(quant.Refused, match="meta"):
        prove(UPCAST, replace(LAYER, device=torch.device("meta")))


def test_measured_once_whatever_the_shape():
    runs = []

    def counted(x, weight, bias, _):
        runs.append(weight.shape)
        return UPCAST.run(x, weight, bias, None)

    kernel = twisted(counted)
    for shape in ((64, 64), (128, 32)):
        prove(kernel, replace(LAYER, shape=shape))
    assert runs == [SHAPE]


@pytest.mark.parametrize("mode", (torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)))
def test_the_same_proof_in_any_mode(mode):
    outside = measured.__wrapped__(UPCAST, replace(LAYER, shape=SHAPE))
    with mode():
        assert measured.__wrapped__(UPCAST, replace(LAYER, shape=SHAPE)) == outside


def test_doctor_lists_every_kernel_on_every_device():
    diagnosis = doctor()
    told = json.loads(json.dumps(diagnosis.to_json()))
    assert {(row["device"], row["kernel"]) for row in told["kernels"]} == {
        (device, kernel.name) for device in diagnosis.devices for kernel in KERNELS
    }
    assert all(row["works"] or row["reason"] for row in told["kernels"])
    assert told["versions"]["torch"] == torch.__version__
    for kernel in KERNELS:
        assert kernel.name in diagnosis.table()
