"""Core's own FP8 product of one Linear, from tensors saved with a calibration and without its input_scale."""

from __future__ import annotations

import importlib
import sys

import comfy.ops
import torch
from inside import answer, pack, sqnr

pack()
ENGINE = next(name for name in sys.modules if name.endswith("scaled-fp8.quant"))
quant = sys.modules[ENGINE]
moments, native, rounding = (
    importlib.import_module(f"{ENGINE}.{name}")
    for name in ("calibration.moments", "weights.native", "calibration.rounding")
)
FP8 = quant.FORMATS["float8_e4m3fn"]
OPS = comfy.ops.mixed_precision_ops({}, torch.float32, full_precision_mm=False)
KINDS = {"small": 1e-3, "large": 300.0, "usual": 1.0}
calls = []


def by_core(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """What core's Linear makes of x with these tensors; its activations are quantized, which is counted."""
    linear = OPS.Linear(x.shape[1], 64, bias=False)
    linear.load_state_dict(tensors, strict=False)
    before = comfy.ops.QuantizedTensor.from_float

    def counted(*inputs, **more):
        calls.append(more)
        return before(*inputs, **more)

    comfy.ops.QuantizedTensor.from_float = counted
    try:
        return linear(x)
    finally:
        comfy.ops.QuantizedTensor.from_float = before


torch.manual_seed(0)
weight = torch.randn(64, 128) * 0.05
found = {}
for kind, size in KINDS.items():
    seen, x = torch.randn(500, 128) * size, torch.randn(16, 128) * size
    made = rounding.calibrated(weight, FP8, quant.PerTensor(), moments.moments_of(seen)).weight
    tensors = native.native_tensors(made, "")
    named = {key.removeprefix("."): tensor for key, tensor in tensors.items()}
    want = x @ weight.T
    without = {key: tensor for key, tensor in named.items() if key != "input_scale"}
    found[kind] = {"with": sqnr(by_core(named, x), want), "without": sqnr(by_core(without, x), want)}
answer({"dB": found, "calls": len(calls), "keys": sorted(named)})
