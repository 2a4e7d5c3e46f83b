"""What GEMMs of a GPU are given, seen on tensors that claim to be there."""

from __future__ import annotations

import pytest
import torch
from products import FAKE, fake, faked, weight
from scaled_fp8 import quant
from scaled_fp8.quant.kernels.gemm import Codes, zeros
from scaled_fp8.quant.kernels.registry import KERNELS
from torch.utils._python_dispatch import TorchDispatchMode

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
GEMMS = [kernel for kernel in KERNELS if kernel.name.startswith("scaled_mm per-")]


class Given(TorchDispatchMode):
    """The arguments of each product, by their names, and what is launched behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[dict[str, object]] = []
        self.after: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        names = [argument.name for argument in func._schema.arguments]
        if func.overloadpacket.__name__ == "_scaled_mm":
            self.products.append({**dict(zip(names, args, strict=False)), **(kwargs or {})})
        elif self.products and not func.is_view:
            self.after.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def given(kernel, dtype: torch.dtype, biased: bool, inputs: int = 80) -> tuple[dict[str, object], list[str]]:
    granularity = quant.PerTensor() if "per-tensor" in kernel.name else quant.PerRow()
    held = faked(weight(48, inputs, granularity=granularity), "cuda")
    with FAKE, torch.no_grad():
        codes = fake(torch.zeros(32, inputs, dtype=torch.float8_e4m3fn), "cuda")
        scale = fake(torch.ones(1 if "per-tensor" in kernel.name else 32, 1), "cuda")
        bias = fake(torch.zeros(48, dtype=dtype), "cuda") if biased else None
        with Given() as seen:
            kernel.compute(Codes(codes, scale, dtype), held, bias)
    (product,) = seen.products
    return product, seen.after


@pytest.mark.parametrize("biased", (False, True), ids=("alone", "biased"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kernel", GEMMS, ids=lambda kernel: kernel.name)
def test_a_bias_goes_into_the_product_where_it_is_rounded_once(kernel, dtype, biased):
    """Of float16 there is always one: without it the GEMMs of sm_89 and sm_120 write bfloat16. A float32 output takes
    none, and gets it behind the product."""
    product, after = given(kernel, dtype, biased)
    bias = product["bias"]
    assert product["out_dtype"] == dtype
    assert (bias is not None) == (dtype == torch.float16 or (biased and dtype == torch.bfloat16))
    assert bias is None or (bias.dtype == dtype and bias.shape == (48,) and bias.device.type == "cuda")
    assert ("add_" in after) == (biased and bias is None)


def test_a_bias_of_nothing_is_zeros_and_made_once():
    found = zeros(48, torch.device("cpu"))
    assert found.dtype == torch.float16 and found.shape == (48,) and not found.any()
    assert zeros(48, torch.device("cpu")) is found


@pytest.mark.parametrize("kernel", GEMMS, ids=lambda kernel: kernel.name)
def test_row_scales_are_as_row_wise_gemms_read_them(kernel):
    """``[tokens, 1]`` and ``[1, out]``, contiguous float32; of a tensor one each."""
    product, _ = given(kernel, torch.bfloat16, biased=True)
    shapes = ((), ()) if "per-tensor" in kernel.name else ((32, 1), (1, 48))
    scales = (product["scale_a"], product["scale_b"])
    assert tuple(tuple(scale.shape) for scale in scales) == shapes
    assert all(scale.dtype == torch.float32 and scale.is_contiguous() for scale in scales)
    assert product["self"].shape == (32, 80) and product["mat2"].shape == (80, 48)
    assert product["mat2"].t().is_contiguous()
