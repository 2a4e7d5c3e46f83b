"""A probe believes numbers, not tables: a kernel that raises or is wrong does not work, and says why."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from products import DTYPES, E4M3, activation, product, rng, sqnr, weight_for
from scaled_fp8 import quant
from scaled_fp8.quant.kernels import quantizers
from scaled_fp8.quant.kernels.activations import SCHEMES
from scaled_fp8.quant.kernels.compiler import compiler_refuses
from scaled_fp8.quant.kernels.diagnosis import doctor, typical
from scaled_fp8.quant.kernels.probe import TOKENS
from scaled_fp8.quant.kernels.proof import SHAPE, measured, probed_shapes, prove, prove_quantizer, quantizer_for
from scaled_fp8.quant.kernels.quantizers import QUANTIZERS, Quantizer, of_any_number
from scaled_fp8.quant.kernels.registry import BOUND, KERNELS, Kernel
from scaled_fp8.quant.kernels.rules import Workload

CPU = torch.device("cpu")
LAYER = Workload(E4M3, quant.PerRow(), (4096, 4096), CPU, torch.bfloat16)
UPCAST = next(kernel for kernel in KERNELS if kernel.name == "upcast")


def outcome(kernel: Kernel, layer: Workload) -> str:
    """What a kernel does on values of this test's own: raises, or is right or wrong beside the product in float32."""
    weight, x = weight_for(layer, torch.randn(48, 128, generator=rng())), activation(1.0, 5, 128).to(layer.dtype)
    static = x.float().abs().amax() / layer.format.maximum if layer.activation == "static" else None
    try:
        got = kernel.run(x, weight, None, static)
    except Exception:
        return "raises"
    # rounding activations to float8 leaves 28 dB, a scale on the wrong axis 6
    return "right" if sqnr(got, product(x, weight)) > 24 else "is wrong"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_a_kernel_works_where_its_numbers_are_right_or_says_what_it_does(kernel, dtype):
    layer = typical(kernel, CPU, dtype)
    if reason := kernel.refuses(layer):
        pytest.skip(f"{kernel.name} {reason}")
    proof, does = prove(kernel, layer), outcome(kernel, layer)
    assert proof.works == (does == "right"), proof
    assert proof.error <= BOUND if proof.works else str(proof.reason).startswith(f"{does} on cpu")


@pytest.mark.parametrize("format", quant.FORMATS.values(), ids=lambda f: f.name)
def test_upcast_is_proven_for_every_format(format):
    for granularity in format.granularities:
        assert prove(UPCAST, replace(LAYER, format=format, granularity=granularity)).works


def twisted(change) -> Kernel:
    return replace(UPCAST, name=f"twisted {change.__name__}", compute=change)


def wrong_scales(x, weight, bias):
    swapped = replace(weight, scale=weight.scale.flip(0))
    return UPCAST.run(x, swapped, bias, None)


def no_bias(x, weight, bias):
    return UPCAST.run(x, weight, None, None)


def two_percent_more(x, weight, bias):
    return UPCAST.run(x, weight, bias, None) * 1.02


def not_a_number(x, weight, bias):
    return UPCAST.run(x, weight, bias, None) * float("nan")


@pytest.mark.parametrize("change", (wrong_scales, no_bias, two_percent_more, not_a_number), ids=lambda f: f.__name__)
def test_wrong_numbers_are_no_proof(change):
    proof = prove(twisted(change), LAYER)
    assert not proof.works
    assert "is wrong on cpu: relative error" in str(proof.reason)


def wrong_for_many(x, weight, bias):
    """As a second kernel for more rows than a first one takes."""
    return UPCAST.run(x, weight, bias, None) * (1 if x.shape[0] <= 32 else 1.1)


def wrong_for_one(x, weight, bias):
    return UPCAST.run(x, weight, bias, None) * (1.1 if x.shape[0] == 1 else 1)


def wrong_past_a_tile(x, weight, bias):
    """As a kernel that forgets what is beyond the last whole tile of inputs."""
    whole = weight.shape[1] // 128 * 128
    y = x.float()[:, :whole] @ weight.dequantize()[:, :whole].T
    return (y + bias.float()).to(x.dtype)


def wrong_past_a_row_of_tiles(x, weight, bias):
    y = UPCAST.run(x, weight, bias, None)
    y[:, 256:] = 0
    return y


@pytest.mark.parametrize(
    "change", (wrong_for_many, wrong_for_one, wrong_past_a_tile, wrong_past_a_row_of_tiles), ids=lambda f: f.__name__
)
def test_every_number_of_rows_and_what_is_beyond_a_tile_is_proven(change):
    assert "is wrong on cpu" in str(prove(twisted(change), LAYER).reason)


def wrong_where_it_is(tall: int, wide: int):
    """As a kernel that computes weights of more outputs or inputs in another way, which is wrong."""

    def wrong(x, weight, bias):
        beyond = weight.shape[0] > tall or weight.shape[1] > wide
        return UPCAST.run(x, weight, bias, None) * (1.1 if beyond else 1)

    return wrong


@pytest.mark.parametrize(
    ("tall", "wide", "shape", "works"),
    (
        (10**6, 1024, (4096, 1000), True), (10**6, 1024, (4096, 4096), False),
        (1000, 10**6, (900, 4096), True), (1000, 10**6, (4096, 4096), False), (1000, 1024, (900, 1000), True),
    ),
)  # fmt: skip
def test_each_way_in_which_a_kernel_computes_a_layer_is_proven(tall, wide, shape, works):
    """Limits of its own beyond the probe's shape: those that the layer is beyond."""
    kernel = replace(UPCAST, name="limited", compute=wrong_where_it_is(tall, wide), tall=(tall,), wide=(wide,))
    assert prove(kernel, replace(LAYER, shape=shape)).works is works


def test_parts_of_sums_and_the_widest_programs_are_among_the_ways():
    """What Triton's kernel for few rows does from 8,192 outputs and from 1,024 inputs on, by its own arithmetic."""
    pytest.importorskip("triton")
    from scaled_fp8.quant.kernels import triton_kernels

    fused = next(kernel for kernel in KERNELS if kernel.name == "upcast fused")
    (rows, few), (_, more) = probed_shapes(fused, replace(LAYER, shape=(13824, 5120)))
    assert rows >= triton_kernels.TALL
    assert [triton_kernels.parts_of(1, inputs, CPU)[0] for inputs in (few, more)] == [1, 2]


def transposed_scales(x, weight, bias):
    grid = weight.scale
    return UPCAST.run(x, replace(weight, scale=grid.t().reshape(grid.shape)), bias, None)


def test_the_axes_of_block_scales_are_proven():
    layer = replace(LAYER, granularity=quant.PerBlock(128, 128))
    assert prove(UPCAST, layer).works
    assert not prove(twisted(transposed_scales), layer).works


##### Sums in fewer bits


def rounded_sums(bits: int, step: int = 128):
    """A GEMM whose running sums keep so many bits, as FP8 units do: after each step the rest is cut off."""

    def compute(a, weight, bias):
        x, w = a.codes.float() * a.scale, weight.dequantize()
        total = torch.zeros(x.shape[0], w.shape[0])
        for start in range(0, x.shape[1], step):
            total += x[:, start : start + step] @ w[:, start : start + step].T
            mantissa, exponent = torch.frexp(total)
            total = torch.ldexp((mantissa * 2**bits).trunc(), exponent - bits)
        return (total + bias.float()).to(a.dtype)

    return compute


@pytest.mark.parametrize(("bits", "works"), ((14, True), (8, False)))
@pytest.mark.parametrize("inputs", (4096, 16384))
def test_fast_sums_may_add_a_hundredth(inputs, bits, works):
    """Kept where they pay, with 14 bits and many inputs; refused where they would be heard."""
    fast = next(kernel for kernel in KERNELS if kernel.name == "scaled_mm per-row fast")
    simulated = replace(fast, name=f"simulated {bits}", rules=(), compute=rounded_sums(bits))
    proof = prove(simulated, replace(LAYER, shape=(4096, inputs)))
    assert proof.works is works, proof


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

    def counted(x, weight, bias):
        runs.append(weight.shape)
        return UPCAST.run(x, weight, bias, None)

    kernel = twisted(counted)
    for shape in ((64, 64), (128, 32)):
        prove(kernel, replace(LAYER, shape=shape))
    assert runs == [SHAPE] * len(TOKENS)


@pytest.mark.parametrize("mode", (torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)))
def test_the_same_proof_in_any_mode(mode):
    outside = measured.__wrapped__(UPCAST, replace(LAYER, shape=SHAPE))
    with mode():
        assert measured.__wrapped__(UPCAST, replace(LAYER, shape=SHAPE)) == outside


def test_doctor_lists_every_kernel_on_every_device():
    diagnosis = doctor()
    told = json.loads(json.dumps(diagnosis.to_json()))
    listed = [(row["device"], row["dtype"], row["kernel"]) for row in told["kernels"]]
    assert len(listed) == len(set(listed))
    names = {name for _, _, name in listed}
    assert {kernel.name for kernel in KERNELS} <= names
    by = {name.partition(" by ")[2] for name in names if name.startswith(("float8 ", "int8 "))}
    assert by == {q.name for q in QUANTIZERS}
    for row in told["kernels"]:
        # a time and an error where it works, else a reason
        assert (row["reason"] is None) == row["works"] == (row["time"] is not None)
        assert not row["works"] or row["time"] > 0 <= row["error"]
    assert told["versions"]["torch"] == torch.__version__
    for kernel in KERNELS:
        assert kernel.name in diagnosis.table()


def lying(change) -> Quantizer:
    schemes = {name: lambda x, scale, name=name: change(*SCHEMES[name](x, scale)) for name in SCHEMES}
    return Quantizer(f"lying {change.__name__}", lambda device: None, lambda: schemes)


def two_codes_off(codes, scale):
    return (codes.view(torch.uint8) ^ 2).view(codes.dtype), scale


def larger_scale(codes, scale):
    return codes, scale * 1.001


def many_one_off(codes, scale):
    return (codes.view(torch.uint8) ^ 1).view(codes.dtype), scale


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("change", (two_codes_off, larger_scale, many_one_off), ids=lambda f: f.__name__)
def test_other_codes_are_no_proof(change, scheme):
    assert not prove_quantizer(lying(change), scheme, CPU, torch.float32).works


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_cpu_quantizes_eagerly_or_in_c(scheme, dtype):
    in_c = scheme == "int8 per-token" and compiler_refuses() is None
    assert quantizer_for(scheme, replace(LAYER, dtype=dtype)) == ("gcc" if in_c else "eager")
    assert prove_quantizer(QUANTIZERS[-1], scheme, CPU, dtype).error == 0


def test_a_broken_triton_is_a_reason(monkeypatch):
    def broken():
        raise ImportError("libtriton.so")

    monkeypatch.setattr(quantizers, "find_spec", lambda name: object())
    monkeypatch.setattr(quantizers, "triton_kernels", broken)
    quantizers.triton_problem.cache_clear()
    assert quantizers.triton_refuses(torch.device("cuda")) == "cannot be imported: ImportError"
    monkeypatch.setattr(quantizers, "find_spec", lambda name: None)
    quantizers.triton_problem.cache_clear()
    assert quantizers.triton_refuses(torch.device("cuda")) == "is not installed"
    quantizers.triton_problem.cache_clear()


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda quantizer: quantizer.name)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_tokens_at_all_are_quantized_by_everyone(quantizer, scheme):
    if problem := quantizer.lacks(scheme, torch.device("cpu")):
        pytest.skip(problem)
    given = torch.tensor([[0.02]]) if scheme.startswith("float8 static") else None
    codes, scale = quantizer.schemes()[scheme](torch.empty(0, 256), given)
    one_each = {"float8 1x128": (0, 2), "float8 static": (1, 1), "float8 per-tensor": (1, 1)}
    assert (tuple(codes.shape), tuple(scale.shape)) == ((0, 256), one_each.get(scheme, (0, 1)))


def test_kernels_that_cannot_be_launched_for_nothing_are_not():
    def launched(x, scale):
        raise AssertionError("launched")

    guarded = of_any_number(dict.fromkeys(SCHEMES, launched))
    assert guarded["float8 per-token"](torch.empty(0, 64), None)[0].shape == (0, 64)
    with pytest.raises(AssertionError, match="launched"):
        guarded["float8 per-token"](torch.empty(1, 64), None)
