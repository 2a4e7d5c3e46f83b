"""Products with a weight cut by its inputs: each device's part of a sum that is taken over all of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.activations import ACTIVATION, BY_TOKENS, INT8, PER_TENSOR, SCHEMES
from ..kernels.choice import Choice
from ..kernels.gemm import Codes
from ..weights.rotation import rotated
from ..weights.weight import QuantizedWeight

# scheme -> format of its codes, where a token or a tensor has one scale, so that all devices need the same
SHARED = {
    "float8 per-token": ACTIVATION, PER_TENSOR: ACTIVATION, PER_TENSOR + BY_TOKENS: ACTIVATION, "int8 per-token": INT8
}  # fmt: skip


def partial_sum(x: Tensor, weight: QuantizedWeight, choice: Choice, group: object) -> Tensor:
    """``[..., part of in] -> [..., out]`` float32: nothing is rounded here that the sum would not round.

    Activations are quantized by the largest scale of all devices in group, as one device would have done.
    """
    rows, scheme = x.reshape(-1, x.shape[-1]), choice.kernel.scheme
    shared = choice.activation == "dynamic" and scheme in SHARED
    y = product_of_codes(rows, weight, choice, group) if shared else dequantized(rows, weight)
    choice.count(choice.kernel.name if shared else "dequantized, cut by inputs")
    return y.view(*x.shape[:-1], weight.shape[0])


def product_of_codes(x: Tensor, weight: QuantizedWeight, choice: Choice, group: object) -> Tensor:
    """This device's part of the sum, of codes by the scale that all devices share."""
    import torch.distributed as dist

    scheme = choice.kernel.scheme
    # whole groups: a part begins where one does
    x = rotated(x, weight.rotation) if weight.rotation else x
    _, scale = SCHEMES[scheme](x, None)
    dist.all_reduce(scale, dist.ReduceOp.MAX, group)  # type: ignore[arg-type]
    codes = SHARED[scheme].codes(x.float() / scale)
    return choice.kernel.compute(Codes(codes, scale, torch.float32), weight, None)


def dequantized(x: Tensor, weight: QuantizedWeight) -> Tensor:
    """In float32; on a GPU the operands of 16 bits stay so, and their sums are of 32."""
    if x.is_cuda and x.dtype != torch.float32:
        return torch.mm(x, weight.dequantize(x.dtype).t(), out_dtype=torch.float32)
    return F.linear(x.float(), weight.dequantize())
