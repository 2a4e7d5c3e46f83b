"""What a model of 12 B weights takes to be calibrated, planned and converted: ``python -m benchmarks.precision.large``.

Worked out from parts: each is the engine's own work on a file of one layer of FLUX.1's sizes, random weights, alone on
one core in a process of its own. Seconds are of the processor, memory is the process's peak, python and torch included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from scaled_fp8.quant import Request, convert
from scaled_fp8.quant.calibration.candidates import USUAL
from scaled_fp8.quant.calibration.planner import PlanRequest, weighed
from scaled_fp8.quant.calibration.store import Facts, Record, read_calibration, sample_of, save_calibration
from scaled_fp8.quant.calibration.watching import Watch, usual_limit
from scaled_fp8.quant.text import text_table

from ..comfyui import ROOT
from ..inside import held
from ..machine import machine
from ..shapes import MODELS
from .table import DOCUMENT, RESULTS

TARGET = RESULTS / "large" / "flux1.json"
FLUX = next(model for model in MODELS if model.name == "FLUX.1")
EACH = 38  # 19 double blocks have two streams, and there are 38 single ones
MODULATIONS = 2 * 19 + 38  # Linears of the same width that stay as they are, and are watched too
TOKENS = 4096 + 512  # of one image of 1024 x 1024 and its prompt
REFERENCE = "nvfp4"  # the format that every layer is measured in
ENDS = ("proj", "linear1")  # the smallest layer tells the time of other formats, the largest their memory
WIDE = 8  # gigabytes, for blocks of more inputs
PARTS = ("watch", "step", "plan", *USUAL)


@dataclass(frozen=True)
class Cost:
    """seconds: of the processor; memory: bytes at the peak."""

    seconds: float
    memory: int


##### One part of one layer, in a process of its own


def measured(part: str, name: str) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-m", "benchmarks.precision.large", "--part", part, "--layer", name, "--folder", folder]
        subprocess.run([*run, "--prepare"], cwd=ROOT, check=True)
        return Cost(**json.loads(subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout))


def prepare(name: str, folder: Path) -> None:
    """A file of one layer, and the calibration of it."""
    torch.manual_seed(0)
    shape = FLUX.linears[name]
    weight = torch.randn(shape).mul_(0.02).bfloat16()
    save_file({"layer.weight": weight}, folder / "model.safetensors")
    watch = watching(shape[1])
    watch.see("layer", fed(shape[1]))
    record = Record(shape, sample_of(weight), watch.moments["layer"])
    save_calibration(folder / "calibration.safetensors", {"layer": record}, Facts(1, 1))


def watching(inputs: int) -> Watch:
    """A watch of one layer with blocks as large as those of the whole model."""
    found = Watch({"layer": inputs})
    found.size = whole_watch().size
    return found


def whole_watch(limit: int = 0) -> Watch:
    """limit: bytes of all moments, 0 for those that Calibrate Model takes unless told otherwise."""
    inputs = {f"{name}.{index}": shape[1] for name, shape in FLUX.linears.items() for index in range(EACH)}
    inputs |= {f"modulation.{index}": FLUX.hidden for index in range(MODULATIONS)}
    return Watch(inputs, limit or usual_limit(FLUX.linears.values()))


def fed(inputs: int) -> torch.Tensor:
    """Activations of which few channels are strong, as those of trained models."""
    return (torch.randn(TOKENS, inputs) * torch.logspace(0, 1.5, inputs)).bfloat16()


def work_of(part: str, name: str, folder: Path) -> Callable[[], object]:
    """What is timed."""
    source, known = folder / "model.safetensors", folder / "calibration.safetensors"
    if part == "plan":
        return lambda: weighed(source, PlanRequest("6 bits", USUAL), known)
    if part in USUAL:
        request = Request(part, calibration=read_calibration(known))
        return lambda: convert(source, folder / "converted.safetensors", request)
    out, inputs = FLUX.linears[name]
    x, watch = fed(inputs), watching(inputs)
    if part == "watch":
        return lambda: watch.see("layer", x)
    weight = torch.randn(out, inputs).bfloat16()
    return lambda: x @ weight.T


def timed(work: Callable[[], object]) -> Cost:
    start = time.process_time()
    work()
    return Cost(time.process_time() - start, held(0))


##### The whole model


def measure(parts: Iterable[str] = PARTS) -> dict[str, dict[str, Cost]]:
    """Part -> layer -> cost."""
    found: dict[str, dict[str, Cost]] = {part: {} for part in parts}
    for part in found:
        for name in FLUX.linears if part not in USUAL or part == REFERENCE else ENDS:
            found[part][name] = measured(part, name)
            sys.stderr.write(f"{part} {name}: {found[part][name]}\n")
    return found


def rows(costs: Mapping[str, Mapping[str, Cost]]) -> Iterator[list[str]]:
    """Of the table."""
    step, watch = (sum(cost.seconds for cost in costs[part].values()) * EACH for part in ("step", "watch"))
    share = f"{watch:.0f} s beside {step:.0f} s of its own products"
    for name, limit in (("moments", 0), (f"moments with memory_gb {WIDE}", WIDE * 10**9)):
        kept = whole_watch(limit)
        yield [name, f"blocks of {kept.size} inputs", gigabytes(kept.nbytes)]
    yield ["calibrate, a step more", share, gigabytes(calibrating(costs))]
    yield ["plan", hours(costs["plan"]), peak(costs["plan"])]
    for format in USUAL:
        ratio = costs[format]["proj"].seconds / costs[REFERENCE]["proj"].seconds
        yield [
            f"convert to {format}",
            hours(costs[REFERENCE], ratio),
            peak(costs[format]) if ENDS[1] in costs[format] else "-",
        ]


def calibrating(costs: Mapping[str, Mapping[str, Cost]]) -> int:
    """Bytes of all moments, of python and torch, and of what watching takes beside a layer's own product."""
    beside = max(cost.memory - costs["step"][name].memory for name, cost in costs["watch"].items())
    return whole_watch().nbytes + min(cost.memory for cost in costs["step"].values()) + max(0, beside)


def hours(costs: Mapping[str, Cost], ratio: float = 1.0) -> str:
    return f"{sum(cost.seconds for cost in costs.values()) * EACH * ratio / 3600:.1f} h"


def peak(costs: Mapping[str, Cost]) -> str:
    return gigabytes(max(cost.memory for cost in costs.values()))


def bound() -> int:
    """Bytes: eight times the largest layer in bf16, and 2 GB."""
    return max(out * inputs * 2 for out, inputs in FLUX.linears.values()) * 8 + 2 * 10**9


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


COLUMNS = ("part", "one core", "memory")
MARK, AFTER = "<!-- large: python -m benchmarks.precision.large -->", "## Measured"


def markdown(costs: Mapping[str, Mapping[str, Cost]]) -> str:
    weights = sum(out * inputs for out, inputs in FLUX.linears.values()) * EACH
    lines = [
        f"FLUX.1, worked out from measured parts (`python -m benchmarks.precision.large`): {len(FLUX.linears) * EACH} "
        f"layers of {weights / 1e9:.1f} B weights in all may be quantized. Memory wanted: at most {gigabytes(bound())} "
        "(the largest layer times 8, and 2 GB), python and torch included.",
        "",
        *(f"| {' | '.join(row)} |" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows(costs))),
        "",
        *older(blocks()),
    ]
    return "\n".join(lines)


def older(sizes: Mapping[str, int]) -> list[str]:
    """Which parts were measured when blocks were larger, so that they take no more than is told."""
    wide = {part: size for part, size in sizes.items() if size > whole_watch().size}
    if not wide:
        return []
    return [f"Measured with blocks of {max(wide.values())} inputs, and so at most: {', '.join(wide)}.", ""]


def write_document(costs: Mapping[str, Mapping[str, Cost]]) -> None:
    """The table of docs/precision.md, below its mark."""
    head, rest = DOCUMENT.read_text().split(MARK)
    DOCUMENT.write_text(f"{head}{MARK}\n\n{markdown(costs)}\n{AFTER}{rest.split(AFTER, 1)[1]}")


def blocks() -> dict[str, int]:
    """Part -> inputs of a block of moments when it was measured last."""
    return json.loads(TARGET.read_text())["blocks"] if TARGET.exists() else {}


def stored() -> dict[str, dict[str, Cost]] | None:
    """What was measured last, None where nothing was."""
    if not TARGET.exists():
        return None
    costs = json.loads(TARGET.read_text())["costs"]
    return {part: {name: Cost(**cost) for name, cost in known.items()} for part, known in costs.items()}


def save(costs: Mapping[str, Mapping[str, Cost]], parts: Iterable[str] = PARTS) -> None:
    """parts: those that were measured anew."""
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    sizes = blocks() | dict.fromkeys(parts, whole_watch().size)
    told: dict[str, Any] = {"machine": machine(), "blocks": sizes, "costs": costs}
    TARGET.write_text(json.dumps(told, indent=1, default=asdict) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="one part alone, as JSON")
    parser.add_argument("--layer", choices=FLUX.linears)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="measured anew, the others as stored")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.prepare:
        prepare(asked.layer, asked.folder)
    elif asked.part:
        with torch.inference_mode():
            cost = timed(work_of(asked.part, asked.layer, asked.folder))
        sys.stdout.write(json.dumps(asdict(cost)))
    else:
        costs = (stored() or {}) | measure(asked.only)
        save(costs, asked.only)
        write_document(costs)
        sys.stdout.write(f"{text_table(COLUMNS, list(rows(costs)))}\n\nwanted: {gigabytes(bound())} at most\n")


if __name__ == "__main__":
    main()
