"""What a patched Linear costs beside its arithmetic: 64 x 64, one token, on a CPU, beside ComfyUI core's FP8 Linear.

    PYTHONPATH=ComfyUI python -m benchmarks.parts.overhead

Runs under ComfyUI's python, where both can be had; each number is the least of many runs taken by turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from .. import comfyui
from ..comfyui import OURS
from ..results import Measurement, Part

if TYPE_CHECKING:
    from scaled_fp8 import quant

SIZE, ROUNDS, CALLS = 64, 30, 200


def overhead() -> Iterator[Part]:
    """This module under ComfyUI's python, by what it prints."""
    title = "One call of a Linear of 64 x 64, one token, on a CPU"
    if reason := comfyui.absent():
        yield comfyui.skipped("overhead", title, reason)
        return
    with tempfile.TemporaryDirectory() as folder:
        printed = comfyui.run("parts.overhead", folder=Path(folder))
    rows = tuple(overhead_row(*told) for told in re.findall(r"^(.+?) +([0-9.]+) us", printed, re.MULTILINE))
    baseline = min((row for row in rows if not row.ours), key=lambda row: row.median).peer
    notes = ("each the least of many, taken by turns",)
    yield Part("overhead", title, "python -m benchmarks --only overhead", baseline, rows, notes=notes)


def overhead_row(name: str, microseconds: str) -> Measurement:
    core = name.startswith("core")
    peer, time = f"ComfyUI {name}" if core else f"{OURS}'s {name}", float(microseconds) / 1e6
    return Measurement("64 x 64", peer, time, time, time, 1, note="" if core else WHY_OVERHEAD)


WHY_OVERHEAD = "it checks and counts its plan at each call, and scaled_mm quantizes every token"


##### Under ComfyUI's python


def package(name: str, folder: Path) -> None:
    """A folder of this repository as a package whose __init__ has not run: it would start all of ComfyUI."""
    module = importlib.util.module_from_spec(ModuleSpec(name, None, is_package=True))
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def on_cpu() -> None:
    """ComfyUI reads its command line when it is imported, and only where it is told to."""
    import comfy.options

    sys.argv = [sys.argv[0], "--cpu"]
    comfy.options.enable_args_parsing()


def weights() -> dict[str, torch.Tensor]:
    """A Linear's state dict as core loads it: float8_e4m3fn, one scale."""
    from scaled_fp8 import quant
    from scaled_fp8.quant.weights.native import native_tensors

    weight = quant.quantize(torch.randn(SIZE, SIZE), quant.FORMATS["float8_e4m3fn"], quant.PerTensor())
    return native_tensors(weight, "")


def core_linear(tensors: dict[str, torch.Tensor], dtype: torch.dtype, disabled: set[str]) -> nn.Module:
    """ComfyUI core's mixed-precision Linear; on a device without FP8 it disables the format and dequantizes."""
    import comfy.ops

    operations = comfy.ops.mixed_precision_ops({}, dtype, False, disabled=disabled)
    linear = operations.Linear(SIZE, SIZE, bias=False, dtype=dtype, device="cpu")
    linear.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()})
    return linear


def host_linear(tensors: dict[str, torch.Tensor], dtype: torch.dtype, compute: str) -> nn.Module:
    """The same layer in core's own class as this pack's nodes give it to ComfyUI."""
    from scaled_fp8 import quant
    from scaled_fp8.nodes.host.linear import scaled_ops
    from scaled_fp8.quant.kernels.mode import Mode
    from scaled_fp8.quant.kernels.plan import choose_for
    from scaled_fp8.quant.nn.tensor import to_tensor, with_choice

    weight = scaled_weight(tensors)
    linear = scaled_ops(dtype, torch.device("cpu")).Linear(SIZE, SIZE, bias=False, dtype=dtype, device="cpu")
    choice = choose_for(weight, torch.device("cpu"), dtype, Mode(compute))
    tensor = with_choice(to_tensor(weight, dtype), choice)
    linear.weight = nn.Parameter(tensor, requires_grad=False)
    assert isinstance(weight, quant.QuantizedWeight)
    return linear


def scaled_weight(tensors: dict[str, torch.Tensor]) -> quant.QuantizedWeight:
    from scaled_fp8 import quant

    scale = tensors["weight_scale"]
    return quant.QuantizedWeight(
        quant.FORMATS["float8_e4m3fn"], tensors["weight"], scale, quant.PerTensor(), (SIZE, SIZE)
    )


def torch_linear(tensors: dict[str, torch.Tensor], dtype: torch.dtype, compute: str) -> nn.Module:
    """The same layer of plain torch, patched."""
    from scaled_fp8 import quant

    model = nn.Sequential(nn.Linear(SIZE, SIZE, bias=False, dtype=dtype))
    quant.patch_linears(model, {"0": scaled_weight(tensors)}, compute=compute)
    return model[0]


def microseconds(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least time of one call of each, by turns."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            least[name] = min(least[name], (time.perf_counter() - start) / CALLS * 1e6)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    dtype = getattr(torch, parser.parse_args().dtype)
    on_cpu()
    torch.set_num_threads(1)
    # where torch lacks core's FP8 product on a CPU, core says so at every call and dequantizes
    logging.disable(logging.WARNING)
    package("scaled_fp8", comfyui.ROOT)
    package("scaled_fp8.nodes", comfyui.ROOT / "nodes")
    x, tensors = torch.randn(1, SIZE).to(dtype), weights()
    layers = {
        "core, dequantizing": core_linear(tensors, dtype, {"float8_e4m3fn"}),
        "core, FP8": core_linear(tensors, dtype, set()),
    }
    for compute in ("scaled_mm", "upcast"):
        layers[f"ComfyUI Linear, {compute}"] = host_linear(tensors, dtype, compute)
        layers[f"torch Linear, {compute}"] = torch_linear(tensors, dtype, compute)
    with torch.inference_mode():
        found = microseconds({name: partial(layer, x) for name, layer in layers.items()})
    least = min(time_ for name, time_ in found.items() if name.startswith("core"))
    for name, time_ in found.items():
        sys.stdout.write(f"{name:32} {time_:8.1f} us  {time_ / least:.2f} of core's faster one\n")


if __name__ == "__main__":
    main()
