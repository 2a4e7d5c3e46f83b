"""Every kernel against float32 arithmetic: numbers, shapes, paddings, and the clauses by which it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from products import (
    DTYPES,
    E4M3,
    FAKE,
    SPREADS,
    activation,
    fake,
    faked,
    product,
    quantized,
    sqnr,
    torchao_rounded,
    weight,
)
from scaled_fp8 import quant
from scaled_fp8.quant.kernels import gemm, registry, upcast
from scaled_fp8.quant.kernels.diagnosis import typical
from scaled_fp8.quant.kernels.proof import prove
from scaled_fp8.quant.kernels.proof_cache import Proof
from scaled_fp8.quant.kernels.registry import KERNELS, Workload

NAMED = {kernel.name: kernel for kernel in KERNELS}
PER_TOKEN = ("scaled_mm per-row", "scaled_mm emulated per-row")
CPU = torch.device("cpu")
LAYER = Workload(E4M3, quant.PerRow(), (48, 80), CPU, torch.bfloat16)


def runnable(name: str) -> registry.Kernel:
    """The kernel, where this torch has it."""
    kernel = NAMED[name]
    layer = typical(kernel, CPU, torch.float32)
    if reason := kernel.refuses(layer):
        pytest.skip(f"{name} {reason}")
    proof: Proof = prove(kernel, layer)
    if not proof.works and "raises" in str(proof.reason):
        pytest.skip(f"{name} {proof.reason}")
    return kernel


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize("name", PER_TOKEN)
def test_per_token_kernels_reach_28_db(name, spread, dtype):
    x, w = activation(spread, 64, 512).to(dtype), weight(256, 512)
    assert sqnr(runnable(name).run(x, w, None, None), product(x, w)) >= 28


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", PER_TOKEN)
def test_per_token_kernels_are_torchaos_arithmetic(name, dtype):
    x, w = activation(1.0, 32, 128).to(dtype), weight(96, 128)
    want = torchao_rounded(x) @ w.dequantize().T
    # what is left is the rounding of the output
    assert sqnr(runnable(name).run(x, w, None, None), want) >= (90 if dtype == torch.float32 else 45)


@pytest.mark.parametrize("granularity", (quant.PerTensor(), quant.PerRow()), ids=lambda g: g.name)
@pytest.mark.parametrize("format", ("float8_e4m3fn", "float8_e5m2"))
@pytest.mark.parametrize("name", PER_TOKEN)
def test_per_token_kernels_take_both_granularities_and_formats(name, format, granularity):
    x, w = activation(1.0, 16, 64), weight(48, 64, quant.FORMATS[format], granularity)
    assert sqnr(runnable(name).run(x, w, None, None), torchao_rounded(x) @ w.dequantize().T) >= 90


@pytest.mark.parametrize("format", ("float8_e4m3fn", "float8_e5m2"))
def test_per_tensor_kernel_uses_the_files_scale(format):
    x, w = activation(3.0, 16, 64), weight(48, 64, quant.FORMATS[format], quant.PerTensor())
    input_scale = x.abs().amax() / quant.FORMATS[format].maximum
    assert sqnr(NAMED["scaled_mm per-tensor"].run(x, w, None, input_scale), product(x, w)) >= 28


@pytest.mark.parametrize("name", ("scaled_mm per-tensor", *PER_TOKEN))
def test_static_activations_are_clamped(name):
    w = weight(48, 64, granularity=quant.PerTensor())
    x = torch.full((4, 64), 100.0)
    got = runnable(name).run(x, w, None, torch.tensor(50.0 / E4M3.maximum))
    torch.testing.assert_close(got, product(torch.full((4, 64), 50.0), w), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_sums_of_large_codes_do_not_overflow(dtype):
    w = quantized(torch.full((16, 4096), 1e-4), E4M3, quant.PerRow())
    x = torch.full((2, 4096), 0.5, dtype=dtype)
    for name in PER_TOKEN:
        torch.testing.assert_close(runnable(name).run(x, w, None, None).float(), product(x, w), rtol=1e-2, atol=0)


@pytest.mark.parametrize("shape", ((33, 50), (1, 1), (16, 7), (5, 128)), ids=str)
@pytest.mark.parametrize("step", (1, 16), ids=("as on a CPU", "padded as on a GPU"))
@pytest.mark.parametrize("name", ("scaled_mm per-tensor", *PER_TOKEN))
def test_any_shape(name, step, shape, monkeypatch):
    monkeypatch.setattr(gemm, "alignment", lambda device: step)
    granularity = quant.PerTensor() if name == "scaled_mm per-tensor" else quant.PerRow()
    w, x = weight(*shape, granularity=granularity), activation(1.0, 3, shape[1])
    scale = x.abs().amax() / E4M3.maximum
    want = (x / scale).to(torch.float8_e4m3fn).float() * scale @ w.dequantize().T
    got = runnable(name).run(x, w, None, scale)
    assert got.is_contiguous()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "format", [f for f in quant.FORMATS.values() if f.dtype.is_floating_point], ids=lambda f: f.name
)
@pytest.mark.parametrize(
    "granularity", (quant.PerBlock(128, 128), quant.PerBlock(16, 32), quant.PerGroup(1, 32)), ids=str
)
def test_dequantized_block(format, granularity):
    w, x = weight(200, 130, format, granularity), activation(1.0, 5, 130)
    torch.testing.assert_close(NAMED["dequantized block"].run(x, w, None, None), product(x, w))


@pytest.mark.parametrize(
    "format", [f for f in quant.FORMATS.values() if f.dtype.is_floating_point], ids=lambda f: f.name
)
def test_the_table_has_every_code(format):
    codes = torch.arange(256, dtype=torch.uint8).view(16, 16).view(format.dtype)
    w = quant.QuantizedWeight(format, codes, torch.tensor(0.5), quant.PerTensor(), (16, 16))
    x = torch.eye(16)[:1]
    table, bits, want = (NAMED[name].run(x, w, None, None) for name in ("upcast by table", "upcast by bits", "upcast"))
    torch.testing.assert_close(table, want, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(bits, want, rtol=0, atol=0, equal_nan=True)
    looked_up = upcast.table(format.dtype, CPU)
    torch.testing.assert_close(looked_up.view(16, 16), codes.float(), rtol=0, atol=0, equal_nan=True)


def weight_for(layer: Workload, *shape: int) -> quant.QuantizedWeight:
    """A random weight of the layer's format and granularity."""
    if layer.format == E4M3:
        return weight(*shape, granularity=layer.granularity)
    return quant.quantize(weight(*shape).dequantize(), layer.format, layer.granularity)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_bias_and_dtype(kernel, dtype):
    layer = typical(kernel, CPU, dtype)
    if reason := kernel.refuses(layer):
        pytest.skip(f"{kernel.name} {reason}")
    w, x = weight_for(layer, 48, 80), activation(1.0, 7, 80).to(dtype)
    bias = torch.linspace(-3, 3, 48).to(dtype)
    scale = x.abs().amax().float() / E4M3.maximum if layer.activation == "static" else None
    got = runnable(kernel.name).run(x, w, bias, scale)
    assert got.dtype == dtype
    assert sqnr(got, product(x, w, bias)) >= 28
    assert sqnr(got, product(x, w, bias)) > sqnr(got, product(x, w)) + 3


# What a fake GPU cannot try
ELSEWHERE = {
    "scaled_mm mxfp8": "comfy-kitchen's operators need the GPU",
    "scaled_mm nvfp4": "comfy-kitchen's operators need the GPU",
    "scaled_mm int8 convrot fused": "comfy-kitchen's operators need the GPU",
    "scaled_mm int8 fused": "comfy-kitchen's operators need the GPU",
    "upcast by comfy-kitchen": "comfy-kitchen's operators need the GPU",
    "upcast by bits": "it is for CPUs",
    "upcast compiled": "it is for CPUs",
    "upcast fused": "Triton's kernels are compiled for GPUs in test_triton_kernels",
}


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch knows nothing of CUDA")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ((48, 80), (33, 50), (1, 1)), ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_a_fake_gpu_accepts_the_shapes(kernel, shape, dtype):
    """Torch's own checks of what a GPU's kernel takes (alignment, order in memory, scales) need no GPU."""
    if kernel.name in ELSEWHERE:
        pytest.skip(ELSEWHERE[kernel.name])
    layer = typical(kernel, CPU, dtype)
    w = faked(weight_for(layer, *shape), "cuda")
    scale = fake(torch.tensor(0.1), "cuda") if layer.activation == "static" else None
    with FAKE, torch.no_grad():
        y = kernel.run(fake(torch.zeros(3, shape[1], dtype=dtype), "cuda"), w, None, scale)
    assert (y.shape, y.dtype, y.device.type) == ((3, shape[0]), dtype, "cuda")


REFUSALS = {
    "scaled_mm per-tensor": [
        ({"has_transform": True}, "needs a weight without smoothing or rotation"),
        ({"granularity": quant.PerRow()}, "needs a per-tensor scale, not per-row"),
        ({"granularity": quant.PerTensor()}, "needs one scale for all activations"),
        ({"format": quant.FORMATS["int8"]}, "needs float8_e4m3fn or float8_e5m2 codes, not int8"),
        ({"dtype": torch.float64}, "needs bfloat16, float16 or float32 activations"),
    ],
    "scaled_mm per-row": [
        ({"granularity": quant.PerBlock()}, "needs per-row scales, not block"),
        ({"format": quant.FORMATS["float8_e4m3fnuz"]}, "needs float8_e4m3fn or float8_e5m2 codes"),
        ({}, None),
        ({"granularity": quant.PerTensor()}, None),
    ],
    "scaled_mm emulated per-row": [({"granularity": quant.PerGroup()}, "needs per-row scales, not group"), ({}, None)],
    "scaled_mm per-tensor fast": [
        ({"granularity": quant.PerTensor()}, "needs one scale for all activations"),
        ({"granularity": quant.PerTensor(), "activation": "static"}, "needs an NVIDIA GPU, not cpu"),
    ],
    "scaled_mm per-row fast": [
        ({"granularity": quant.PerBlock()}, "needs per-row scales, not block"),
        ({}, "needs an NVIDIA GPU, not cpu"),
    ],
    "scaled_mm per-tensor dynamic": [
        ({}, "needs a per-tensor scale, not per-row"),
        ({"granularity": quant.PerTensor()}, None),
    ],
    "scaled_mm block": [
        ({}, "needs blocks of 128 x 128, not per-row"),
        ({"granularity": quant.PerBlock(64, 64)}, "needs blocks of 128 x 128, not block"),
        ({"granularity": quant.PerGroup(128, 128)}, "needs blocks of 128 x 128, not group"),
        ({"format": quant.FORMATS["float8_e5m2"], "granularity": quant.PerBlock()}, "needs float8_e4m3fn codes"),
        ({"granularity": quant.PerBlock()}, None),
    ],
    "scaled_mm mxfp8": [
        ({}, "needs mxfp8 codes, not float8_e4m3fn"),
        ({"format": quant.FORMATS["mxfp8"]}, "needs scales of PerGroup(rows=1, cols=32), not of PerRow()"),
        ({"format": quant.FORMATS["mxfp8"], "granularity": quant.PerGroup(1, 32)}, "needs an NVIDIA GPU, not cpu"),
    ],
    "scaled_mm nvfp4": [
        ({}, "needs nvfp4 codes, not float8_e4m3fn"),
        (
            {"format": quant.FORMATS["nvfp4"], "granularity": quant.PerGroup(1, 32)},
            "needs scales of PerGroup(rows=1, cols=16), not of PerGroup(rows=1, cols=32)",
        ),
        ({"format": quant.FORMATS["nvfp4"], "granularity": quant.PerGroup(1, 16)}, "needs an NVIDIA GPU, not cpu"),
    ],
    "scaled_mm int8 fused": [
        ({}, "needs int8 codes, not float8_e4m3fn"),
        ({"format": quant.FORMATS["int8"]}, "needs an NVIDIA GPU, not cpu"),
    ],
    "scaled_mm int8 convrot fused": [
        ({}, "needs a weight that is rotated"),
        ({"format": quant.FORMATS["int8_convrot"], "rotation": 16}, "needs an NVIDIA GPU, not cpu"),
    ],
    "scaled_mm int8 convrot": [
        ({"format": quant.FORMATS["int8_convrot"], "has_transform": True}, "needs a weight that is rotated"),
        ({"format": quant.FORMATS["int8"], "rotation": 16}, "needs int8_convrot codes, not int8"),
        ({"format": quant.FORMATS["int8_convrot"], "rotation": 16, "has_transform": True}, None),
    ],
    "scaled_mm int8": [
        ({}, "needs int8 codes, not float8_e4m3fn"),
        ({"format": quant.FORMATS["int8"], "has_transform": True}, "needs a weight without smoothing or rotation"),
        ({"format": quant.FORMATS["int8"], "shape": (8, 131073)}, "sums at most 131072 products in int32"),
        ({"format": quant.FORMATS["int8"], "shape": (8, 131072)}, None),
    ],
    "upcast fused": [({"has_transform": True}, "needs a weight without smoothing"), ({}, "needs Triton, which is ")],
    "dequantized block": [
        ({}, "needs block or group scales, not float8_e4m3fn per-row"),
        ({"format": quant.FORMATS["nvfp4"], "granularity": quant.PerGroup(1, 16)}, "needs block or group scales"),
        ({"granularity": quant.PerBlock()}, None),
    ],
    "upcast by comfy-kitchen": [
        ({}, "needs a per-tensor scale, not per-row"),
        ({"granularity": quant.PerTensor()}, "needs an NVIDIA GPU, not cpu"),
    ],
    "upcast by bits": [
        ({"has_transform": True}, "needs a weight without smoothing"),
        ({"format": quant.FORMATS["int8"]}, "needs one float8 a byte, not int8"),
        ({"dtype": torch.float64}, "needs bfloat16, float16 or float32 activations"),
        ({"device": torch.device("cuda")}, "is for CPUs, not cuda"),
        ({"granularity": quant.PerBlock()}, None),
    ],
    "upcast compiled": [
        ({"has_transform": True}, "needs a weight without smoothing"),
        ({"format": quant.FORMATS["int8"]}, "needs one float8 a byte, not int8"),
        ({"dtype": torch.float64}, "needs bfloat16, float16 or float32 activations"),
        ({"device": torch.device("cuda")}, "is for CPUs, not cuda"),
    ],
    "upcast": [({"has_transform": True, "format": quant.FORMATS["nvfp4"]}, None)],
    "upcast by table": [({"format": quant.FORMATS["nvfp4"]}, "needs one float8 a byte, not nvfp4"), ({}, None)],
}


@pytest.mark.parametrize(
    ("name", "change", "clause"),
    [pytest.param(name, *case, id=f"{name}-{i}") for name in REFUSALS for i, case in enumerate(REFUSALS[name])],
)
def test_refusals_name_what_is_needed(name, change, clause):
    said = NAMED[name].refuses(replace(LAYER, **change))
    assert said is None if clause is None else str(said).startswith(clause)


def test_every_kernel_has_its_refusals_tested():
    assert set(REFUSALS) == set(NAMED)


def test_int8_is_exact_integer_arithmetic():
    codes = torch.tensor([[127, -127, 127, -128], [-128, -128, -128, -128], [127, 127, 127, 127]], dtype=torch.int8)
    x = torch.tensor([[127.0, -127.0, 127.0, 127.0], [-127.0] * 4, [127.0] * 4]).repeat(1, 256)
    w = quant.QuantizedWeight(quant.FORMATS["int8"], codes.repeat(1, 256), torch.ones(3, 1), quant.PerRow(), (3, 1024))
    got = runnable("scaled_mm int8").run(x, w, None, None)
    assert torch.equal(got, (x.int() @ w.codes.int().T).float())


@pytest.mark.parametrize("granularity", quant.FORMATS["int8"].granularities, ids=lambda g: g.name)
@pytest.mark.parametrize("shape", ((33, 50), (1, 1), (2, 1), (16, 7), (5, 4096)), ids=str)
def test_int8_is_what_int32_sums_give(shape, granularity):
    w = quant.quantize(weight(*shape).dequantize(), quant.FORMATS["int8"], granularity)
    x = activation(1.0, 9, shape[1])
    scale = (x.abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)
    sums = (x / scale).round().clamp(-127, 127).int() @ w.codes.int().T
    want = sums.double() * scale.double() * w.scale.double().reshape(1, -1)
    torch.testing.assert_close(runnable("scaled_mm int8").run(x, w, None, None).double(), want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", ((128, 128), (300, 700), (1, 5)), ids=str)
def test_blocks_reach_torch_as_hopper_wants_them(shape, monkeypatch):
    """In place of Hopper: the rules of torch's own check of shapes and strides, and float32 arithmetic."""
    seen = []

    def hopper(x, codes, x_scale, x_kind, scale, kind, output_dtype):
        (tokens, inputs), outputs = x.shape, codes.shape[1]
        steps, rounded = inputs // 128, -(-(inputs // 128) // 4) * 4
        assert (inputs % 128, outputs % 128, codes.stride()) == (0, 0, (1, inputs))
        assert (x_scale.shape, scale.shape) == ((tokens, steps), (rounded, outputs // 128))
        assert x_scale.stride(0) == 1 and scale.stride() == (1, rounded)
        assert (x_kind.name, kind.name) == ("BlockWise1x128", "BlockWise128x128")
        seen.append(shape)
        left = x.float() * x_scale.repeat_interleave(128, 1)
        right = codes.float() * scale[:steps].repeat_interleave(128, 0).repeat_interleave(128, 1)
        return (left @ right).to(output_dtype)

    monkeypatch.setattr(torch.nn.functional, "scaled_mm", hopper)
    w, x = weight(*shape, granularity=quant.PerBlock(128, 128)), activation(1.0, 7, shape[1]).bfloat16()
    bias = torch.ones(shape[0]).bfloat16()
    assert sqnr(NAMED["scaled_mm block"].run(x, w, bias, None), product(x, w, bias)) >= 26
    assert seen == [shape]
