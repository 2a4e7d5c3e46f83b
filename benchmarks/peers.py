"""Everyone who computes a Linear: what each needs, and how it is built from a bfloat16 weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from scaled_fp8 import quant
from torch import Tensor, nn

from .shapes import LARGE

Call = Callable[[Tensor], Tensor]
FLOAT8 = quant.FORMATS["float8_e4m3fn"]
BASELINE = "bf16 F.linear"
LIMIT = "bare _scaled_mm"


@dataclass(frozen=True)
class Built:
    """A Linear ready to run on ``[tokens, in]``; note: for this pack, the kernel and why."""

    call: Call
    note: str = ""


@dataclass(frozen=True)
class Peer:
    """needs: device -> why it cannot run there, or None; build: (weight ``[out, in]``, an activation) -> Built.

    only: the one number of tokens it is timed with, where compiling each shape anew takes longer than all the rest.
    """

    name: str
    needs: Callable[[torch.device], str | None]
    build: Callable[[Tensor, Tensor], Built]
    only: int | None = None

    def built(self, weight: Tensor, x: Tensor) -> tuple[Built | None, str]:
        """The Linear, run once, or None and why not: whatever a peer throws is its answer."""
        if reason := self.needs(weight.device):
            return None, reason
        if self.only not in (None, x.shape[0]):
            return None, f"is timed with {self.only} tokens alone: compiling each shape takes longer than all the rest"
        try:
            built = self.build(weight, x)
            built.call(x)
        except Exception as problem:
            lines = str(problem).strip().splitlines() or [""]
            return None, f"{type(problem).__name__}: {lines[0][:140]}"
        return built, ""


def anywhere(device: torch.device) -> str | None:
    return None


def torchao(device: torch.device) -> str | None:
    return None if find_spec("torchao") else "torchao is not installed"


def compiler(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "compiled peers are left to GPUs: on a CPU they take minutes to start"
    return torchao(device)


##### The peers


def bf16(weight: Tensor, x: Tensor) -> Built:
    own = weight.clone()  # as the others have weights of their own, so that memory compares
    return Built(lambda x: F.linear(x, own))


def bare(weight: Tensor, x: Tensor) -> Built:
    """The matrix product alone, of activations quantized before: no FP8 Linear is faster."""
    found = quant.quantize(weight, FLOAT8, quant.PerRow())
    columns = found.codes.t()
    scale = found.scale.reshape(1, -1).contiguous()
    rows = x.abs().amax(1, True).float() / FLOAT8.maximum
    codes = (x / rows).clamp(-FLOAT8.maximum, FLOAT8.maximum).to(FLOAT8.dtype)
    fast = x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) <= (9, 0)
    product = partial(
        torch._scaled_mm, codes, columns, scale_a=rows, scale_b=scale, out_dtype=x.dtype, use_fast_accum=fast
    )
    return Built(lambda _: product())


def upcast(weight: Tensor, x: Tensor) -> Built:
    """As a reader without kernels does it: dequantize, then multiply."""
    found = quant.quantize(weight, FLOAT8, quant.PerTensor())
    codes, scale = found.codes, found.scale.to(weight.dtype)
    return Built(lambda x: F.linear(x, codes.to(x.dtype) * scale))


def kitchen(weight: Tensor, x: Tensor) -> Built:
    """As ComfyUI core calls it for a file without input_scale: activations by a scale of one."""
    from comfy_kitchen.tensor import QuantizedTensor

    layout, one = "TensorCoreFP8Layout", torch.ones((), device=weight.device)
    resident = QuantizedTensor.from_float(weight, layout, scale="recalculate")
    return Built(lambda x: F.linear(QuantizedTensor.from_float(x, layout, scale=one), resident))


def by_torchao(config: str, granularity: str | None, compiled: bool, weight: Tensor, x: Tensor) -> Built:
    import torchao.quantization as ao

    options = {"granularity": getattr(ao, granularity)()} if granularity else {}
    model = holder(weight)
    ao.quantize_(model, getattr(ao, config)(set_inductor_config=False, **options))
    if type(model[0].weight.data) is Tensor:
        raise RuntimeError("torchao leaves this layer as it is")
    return Built(torch.compile(model, dynamic=False) if compiled else model)


def holder(weight: Tensor) -> nn.Sequential:
    """The weight in a Linear of plain torch, in a module of its own."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return nn.Sequential(linear)


def pack(format: str, compute: str, activation_scale: str, weight: Tensor, x: Tensor) -> Built:
    """This pack's patched Linear; the note is the plan's own reason."""
    granularity = quant.PerTensor() if activation_scale == "static" else quant.PerRow()
    found = quant.quantize(weight, quant.FORMATS[format], granularity)
    if activation_scale == "static":
        found = replace(found, input_scale=x.abs().amax().float() / found.format.maximum)
    model = holder(weight)
    handle = quant.patch_linears(model, {"0": found}, compute=compute, activation_scale=activation_scale)
    row = handle.report().rows[0]
    return Built(model, f"{row.kernel}: {row.reason}")


DYNAMIC = "Float8DynamicActivationFloat8WeightConfig"
OURS = "Scaled FP8, dynamic per token"
OURS_STATIC = "Scaled FP8, static"
OURS_UPCAST = "Scaled FP8, upcast (W8A16)"
OURS_AUTO = "Scaled FP8, auto"
OURS_INT8 = "Scaled FP8, int8"
KITCHEN = "comfy-kitchen, as core calls it"
COMPILED = ("torchao per-row, compiled", "torchao per-tensor, compiled")

PEERS = (
    Peer(BASELINE, anywhere, bf16),
    Peer(LIMIT, anywhere, bare),
    Peer("torchao per-row", torchao, partial(by_torchao, DYNAMIC, "PerRow", False)),
    Peer("torchao per-tensor", torchao, partial(by_torchao, DYNAMIC, "PerTensor", False)),
    Peer(COMPILED[0], compiler, partial(by_torchao, DYNAMIC, "PerRow", True), only=LARGE),
    Peer(COMPILED[1], compiler, partial(by_torchao, DYNAMIC, "PerTensor", True), only=LARGE),
    Peer("torchao int8 weight-only", torchao, partial(by_torchao, "Int8WeightOnlyConfig", None, False)),
    Peer(KITCHEN, anywhere, kitchen),
    Peer("plain upcast", anywhere, upcast),
    Peer(OURS_AUTO, anywhere, partial(pack, "float8_e4m3fn", "auto", "dynamic")),
    Peer(OURS, anywhere, partial(pack, "float8_e4m3fn", "scaled_mm", "dynamic")),
    Peer(OURS_STATIC, anywhere, partial(pack, "float8_e4m3fn", "scaled_mm", "static")),
    Peer(OURS_UPCAST, anywhere, partial(pack, "float8_e4m3fn", "upcast", "dynamic")),
    Peer(OURS_INT8, anywhere, partial(pack, "int8", "scaled_mm", "dynamic")),
)
