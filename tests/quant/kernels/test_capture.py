"""A forward can be captured in a CUDA graph: it asks no tensor for its value and copies nothing between devices."""

from __future__ import annotations

import pytest
import torch
from launches import Launches
from products import FAKE, fake, faked, weight
from scaled_fp8 import quant
from scaled_fp8.quant.kernels.bits import CODINGS
from scaled_fp8.quant.kernels.diagnosis import typical
from scaled_fp8.quant.kernels.gemm import Codes
from scaled_fp8.quant.kernels.registry import KERNELS
from scaled_fp8.quant.nn.tensor import ScaledWeightLayout
from scaled_fp8.quant.weights import encode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU = torch.device("cpu")
# What waits for the device, or for the host
SYNCHRONISE = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "is_nonzero")
# comfy-kitchen's and Triton's launches need the GPU; two are for CPUs
ELSEWHERE = ("mxfp8", "nvfp4", "fused", "kitchen", "by bits", "upcast compiled")


class NoWaiting(TorchDispatchMode):
    """Raises where a forward would wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not name.startswith(SYNCHRONISE), f"{name} waits for the device"
        out = func(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_"):
            places = {t.device.type for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)}
            assert len(places) == 1, f"{name} copies between {places}"
        return out


def test_the_mode_sees_both():
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        torch.ones(()).item()
    with FAKE, NoWaiting(), pytest.raises(AssertionError, match="copies between"):
        fake(torch.ones(2), "cuda").to("cpu")


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
def test_no_kernel_waits(kernel, dtype):
    if any(word in kernel.name for word in ELSEWHERE):
        pytest.skip(f"{kernel.name} cannot be run on a fake GPU")
    layer = typical(kernel, CPU, dtype)
    values = weight(48, 80)
    made = values if layer.format == values.format else quant.quantize(values.dequantize(), layer.format)
    own = made if layer.format.dtype not in CODINGS else weight(48, 80, granularity=layer.granularity)
    w, scale = faked(own, "cuda"), None
    with FAKE, torch.no_grad():
        x = fake(torch.zeros(3, 80, dtype=dtype), "cuda")
        scale = fake(torch.tensor(0.1), "cuda") if layer.activation == "static" else None
        # what is made once, is made now
        kernel.run(x, w, None, scale)
        with NoWaiting():
            kernel.run(x, w, None, scale)


##### How much is launched


# kernel -> what a second forward launches beside the quantization of its activations, on a GPU and in bfloat16
LAUNCHED = {
    "scaled_mm per-tensor fast": ["_scaled_mm"],
    "scaled_mm per-tensor": ["_scaled_mm"],
    "scaled_mm per-row fast": ["_scaled_mm"],
    "scaled_mm per-row": ["_scaled_mm"],
    "scaled_mm per-tensor dynamic": ["_scaled_mm"],
    "scaled_mm emulated per-row": ["_scaled_mm", "mul_", "mul_", "add_"],
    "scaled_mm int8": ["_int_mm", "mul", "mul_", "add_", "_to_copy"],
    "scaled_mm int8 convrot": ["_int_mm", "mul", "mul_", "add_", "_to_copy"],
}  # fmt: skip


def test_every_kernel_that_can_be_counted_here_is():
    counted = {
        kernel.name for kernel in KERNELS if kernel.on_codes and not any(w in kernel.name for w in COUNT_ELSEWHERE)
    }
    assert counted == set(LAUNCHED)


# those by comfy-kitchen launch its own kernels; scaled_mm's blocks have no arithmetic for tensors without contents
COUNT_ELSEWHERE = ("mxfp8", "nvfp4", "fused", "block")


@pytest.mark.parametrize("given", (False, True), ids=("dynamic", "static"))
@pytest.mark.parametrize("granularity", (quant.PerTensor(), quant.PerRow()), ids=str)
@pytest.mark.parametrize("name", LAUNCHED)
def test_a_second_forward_makes_nothing_anew(name, granularity, given):
    """Scales of rows, of tokens, units and Hadamard matrices are there: the product and what scales it remain."""
    kernel = next(kernel for kernel in KERNELS if kernel.name == name)
    per_tensor = "per-tensor" in name
    if per_tensor and granularity != quant.PerTensor():
        pytest.skip(f"{name} takes one scale")
    layer, values = typical(kernel, CPU, torch.bfloat16), weight(48, 80, granularity=granularity)
    own = values if layer.format.dtype in CODINGS else quant.quantize(torch.randn(48, 256), layer.format)
    w, tokens = faked(own, "cuda"), 32  # of shapes that no GEMM has to fill up
    with FAKE, torch.no_grad():
        codes = fake(torch.zeros(tokens, own.shape[1], dtype=torch.int8), "cuda")
        codes = codes if layer.format.dtype == torch.int8 else codes.view(torch.float8_e4m3fn)
        scale = fake(torch.ones(1 if per_tensor or given and "emulated" in name else tokens, 1), "cuda")
        a, bias = Codes(codes, scale, torch.bfloat16), fake(torch.zeros(48, dtype=torch.bfloat16), "cuda")
        kernel.compute(a, w, bias)
        with Launches() as launched:
            kernel.compute(a, w, bias)
    assert launched.names == LAUNCHED[name]


@pytest.mark.parametrize("format", ("float8_e4m3fn", "nvfp4", "int8_convrot", "int4_convrot"))
def test_a_second_forward_asks_for_no_value(format):
    """On a CPU, whose kernels look at a weight once."""
    chosen = quant.FORMATS[format]
    model = torch.nn.Linear(128, 64).bfloat16()
    quant.patch_linears(torch.nn.Sequential(model), {"0": quant.quantize(model.weight.detach().float(), chosen)})
    x = torch.zeros(3, 128).bfloat16()
    with torch.no_grad():
        model(x)
        with NoWaiting():
            model(x)


##### A merged LoRA


@pytest.mark.parametrize("seed", (0, 7), ids=("nearest", "stochastic"))
@pytest.mark.parametrize("granularity", (quant.PerTensor(), quant.PerRow(), quant.PerBlock(128, 128)), ids=str)
def test_a_weight_is_quantized_anew_without_waiting(granularity, seed, monkeypatch):
    """As a LoRA's merge does it on a GPU, in a few launches whatever the size."""
    # a fake GPU has no generator: the CPU's gives the same operations
    monkeypatch.setattr(encode, "generator", lambda seed, device: torch.Generator() if seed else None)
    monkeypatch.setattr("comfy_kitchen.stochastic_rounding_fp8", lambda x, noise, dtype: x.to(dtype))
    with FAKE:
        merged = fake(torch.empty(9216, 3072, dtype=torch.bfloat16, device="meta"), "cuda")
        with NoWaiting(), Launches() as launched:
            ScaledWeightLayout.quantize(merged, "recalculate", granularity=granularity, stochastic_rounding=seed)
    assert len(launched.names) <= 40, launched.names


def test_a_nan_that_nobody_waited_for_is_not_hidden():
    values = torch.ones(4, 32)
    values[1, 2] = float("nan")
    for format in (quant.FORMATS["float8_e4m3fn"], quant.FORMATS["int8"]):
        found = encode.quantize(values, format, quant.PerRow(), checked=False).dequantize()
        assert found[1].isnan().all() and torch.equal(found[[0, 2, 3]], values[[0, 2, 3]])
        with pytest.raises(quant.Refused, match="has NaN"):
            encode.quantize(values, format, quant.PerRow())
