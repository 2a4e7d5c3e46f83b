"""Kernels beside bf16 on this machine's GPU, as ratios of times in one run: ``python -m benchmarks.kernels [--json]``.

For the Linears of FLUX.2 klein and LTX-2.3 at 4096 tokens: F.linear in bfloat16, torch's bare scaled_mm on codes that
lie ready, the patched Linear (dynamic, per token), upcast; and, for 1 to 16 tokens, the product with byte-wide weights.
Without a GPU it says so and runs a small part on the CPU, where the ratios tell nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from scaled_fp8 import quant
from scaled_fp8.quant.kernels.diagnosis import devices
from scaled_fp8.quant.kernels.gemm import rows_of
from scaled_fp8.quant.kernels.plan import choose_for
from scaled_fp8.quant.kernels.timing import beside
from scaled_fp8.quant.nn.forward import apply
from torch import Tensor

# (out, in) of the Linears that take most of a step
SHAPES = {
    "FLUX.2 klein 4B": ((9216, 3072), (27648, 3072), (3072, 12288), (3072, 3072)),
    "LTX-2.3": ((4096, 4096), (16384, 4096), (4096, 16384)),
}
FEW = (1, 8, 16)
# issue 4: what each ratio should be at most
GOALS = {"patched / bf16": 0.62, "patched / scaled_mm": 1.12, "upcast / bf16": 1.10, "few rows / bf16": 0.65}


def measure(shape: tuple[int, int], tokens: int, device: torch.device) -> dict[str, object]:
    """The ratios of one shape and what ran."""
    weight, x, dense = made(shape, tokens, device)
    patched, choice = layer(weight, x, "scaled_mm")
    upcast, upcast_choice = layer(weight, x, "upcast")

    def linear() -> Tensor:
        return F.linear(x, dense)

    found: dict[str, object] = {
        "shape": shape, "tokens": tokens, "kernel": choice.kernel.name, "quantizer": choice.quantizer,
        "upcast kernel": upcast_choice.kernel.name, "patched / bf16": beside(patched, linear, device),
        "upcast / bf16": beside(upcast, linear, device),
    }  # fmt: skip
    if device.type == "cuda":
        found["patched / scaled_mm"] = beside(patched, bare(weight, x), device)
        # what launches cost is gone from a captured graph
        graphs = captured(patched), captured(linear)
        found["patched / bf16 in graphs"] = beside(*graphs, device)
    return found


def few(shape: tuple[int, int], tokens: int, device: torch.device) -> dict[str, object]:
    """Byte-wide weights against bfloat16 ones, in CUDA graphs where there are any: launches take longer than either."""
    weight, x, dense = made(shape, tokens, device)
    run, choice = layer(weight, x, "upcast")

    def linear() -> Tensor:
        return F.linear(x, dense)

    pair = (captured(run), captured(linear)) if device.type == "cuda" else (run, linear)
    return {"shape": shape, "tokens": tokens, "kernel": choice.kernel.name, "few rows / bf16": beside(*pair, device)}


def made(shape: tuple[int, int], tokens: int, device: torch.device) -> tuple[quant.QuantizedWeight, Tensor, Tensor]:
    """A per-row FP8 weight, activations and the weight in bfloat16."""
    rng = torch.Generator(device).manual_seed(0)
    dense = torch.randn(shape, generator=rng, device=device) * 0.02
    x = torch.randn(tokens, shape[1], generator=rng, device=device).bfloat16()
    weight = quant.quantize(dense, quant.FORMATS["float8_e4m3fn"], quant.PerRow())
    return weight, x, dense.bfloat16()


def layer(weight: quant.QuantizedWeight, x: Tensor, compute: str):
    choice = choose_for(weight, x.device, x.dtype, compute)
    return (lambda: apply(x, weight, None, choice)), choice


def bare(weight: quant.QuantizedWeight, x: Tensor) -> Callable[[], Tensor]:
    """torch's GEMM alone: per-row where the device has it, else with one scale."""
    codes, scale = x.to(torch.float8_e4m3fn), torch.ones(len(x), 1, device=x.device)
    rows, one, transposed = rows_of(weight), torch.ones((), device=x.device), weight.codes.t()

    def product(x_scale: Tensor, scales: Tensor) -> Tensor:
        return torch._scaled_mm(codes, transposed, x_scale, scales, out_dtype=x.dtype, use_fast_accum=True)

    try:
        product(scale, rows)
    except RuntimeError:
        return lambda: product(one, one)
    return lambda: product(scale, rows)


def captured(run: Callable[[], Tensor]) -> Callable[[], object]:
    """The same work as a CUDA graph; its capture proves that nothing in it waits for the host."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    as_json = parser.parse_args().json
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.inference_mode():
        report = on_gpu(device) if device.type == "cuda" else on_cpu(device)
    sys.stdout.write(json.dumps(report) + "\n" if as_json else lines(report))


def on_gpu(device: torch.device) -> dict[str, object]:
    rows = [{"model": m, **measure(shape, 4096, device)} for m, shapes in SHAPES.items() for shape in shapes]
    rows += [{"model": m, **few(s, n, device)} for m, shapes in SHAPES.items() for s in shapes for n in FEW]
    return {"devices": devices(), "torch": torch.__version__, "goals": GOALS, "rows": rows}


def on_cpu(device: torch.device) -> dict[str, object]:
    torch.set_num_threads(min(2, torch.get_num_threads()))
    note = "no GPU here: a small part on the CPU, which says nothing of a GPU"
    rows = [{"model": "small", **measure((512, 512), 64, device)}]
    rows += [{"model": "small", **few((512, 512), tokens, device)} for tokens in FEW]
    return {"note": note, "devices": devices(), "torch": torch.__version__, "goals": GOALS, "rows": rows}


def lines(report: dict[str, object]) -> str:
    head = [str(report[key]) for key in ("note", "devices", "torch") if key in report]
    goals = GOALS if "note" not in report else {}
    return "\n".join((*head, *(line(row, goals) for row in report["rows"]))) + "\n"


def line(row: dict[str, object], goals: dict[str, float]) -> str:
    """One shape: each ratio, with the goal that it misses."""
    ratios = [
        f"{name} {value:.3f}{missed(name, value, goals)}" for name, value in row.items() if isinstance(value, float)
    ]
    who = ", ".join(str(row[key]) for key in ("kernel", "quantizer", "upcast kernel") if key in row)
    return f"{row['model']} {row['shape']} x {row['tokens']}: {'; '.join(ratios)} ({who})"


def missed(name: str, value: float, goals: dict[str, float]) -> str:
    return f" (above {goals[name]})" if value > goals.get(name, float("inf")) else ""


if __name__ == "__main__":
    main()
