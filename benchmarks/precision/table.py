"""Wanted beside found: as JSON a subject, and as the tables of docs/precision.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from math import log10
from pathlib import Path
from typing import Any

from scaled_fp8.quant.calibration import curve
from scaled_fp8.quant.calibration.curve import Curve, Point
from scaled_fp8.quant.text import text_table

from ..comfyui import ROOT
from ..machine import machine
from ..results import FOLDER
from .measure import BITS, SEARCHED, UNIFORM, Bench

RESULTS = FOLDER / "precision"
DOCUMENT = ROOT / "docs" / "precision.md"
MARK = "<!-- figures: python -m benchmarks.precision -->"
# of digits-flux2, whose figures were wanted before they were measured
NO_DATA = {"nvfp4": 0.060, "int4": 0.050, "int4_convrot": 0.070}
CALIBRATED = {"nvfp4": 0.036, "int4": 0.040, "float8_e4m3fn": 0.0115, "int8": 0.0033}
BUDGETS = {"7": 0.0075, "6": 0.021, "5": 0.032}
BY_MOMENTS, BY_SENSITIVITY = 0.15, 0.10
BEYOND = 2.0  # dB
SAME = "the same bits"
FIGURES = ("figure", "wanted", "found", "met")
# format -> options of convert_to_quant, with which it writes as many bytes
LEARNED: dict[str, tuple[str, ...]] = {
    "float8_e4m3fn": (),
    "int8": ("--int8", "--scaling_mode", "row"),
    "nvfp4": ("--nvfp4",),
}


# name -> inputs of Quantize Model, of which files are saved that core loads
SAVED = {
    **{method: {"method": method} for method in ("fp8-weight-only", "int8", "int4", "nvfp4")},
    "six-bits": {"method": "budget", "budget": "6 bits"},
}


@dataclass(frozen=True)
class Found:
    """subject: its name; errors: of the images by file; budgets: bits, predicted twice and measured; peers: the same
    bytes rounded by others, with seconds of processor time; saved: files of the graph, and core's latents of them."""

    subject: str
    about: str
    machine: dict[str, Any]
    errors: dict[str, float]
    bits: dict[str, float]
    budgets: dict[str, dict[str, Any]]
    first_and_last: dict[str, float]
    peers: dict[str, dict[str, float]]
    saved: dict[str, dict[str, float]] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)


def found_of(bench: Bench, quick: bool = False) -> Found:
    """Everything that is measured. quick: without others' rounding and without files of the graph."""
    outer, bits = bench.first_and_last()
    learned = {format: bench.learned(*options) for format, options in ({} if quick else LEARNED).items()}
    beside = f"{bits:.2f}"
    files = [
        *map(bench.nearest, UNIFORM), *map(bench.searched, SEARCHED), *map(bench.fed, UNIFORM),
        *map(bench.planned, (*BITS, beside)), outer, *(path for path, _ in learned.values()),
    ]  # fmt: skip
    found = {name.removesuffix(".safetensors"): error for name, error in bench.subject.errors(files).items()}
    budgets = {one: told_of(bench, one, found[f"budget-{one}"]) for one in BITS}
    peers = {
        format: {
            "error": found[path.stem], "seconds": seconds, "bytes": path.stat().st_size,
            "ours": found[f"fed-{format}"], "our seconds": bench.times.get(f"fed-{format}.safetensors", 0.0),
            "our bytes": bench.fed(format).stat().st_size,
        }
        for format, (path, seconds) in learned.items()
    }  # fmt: skip
    sizes = {format: bits_of(bench, format) for format in UNIFORM}
    both = {"bits": bits, "error": found["first-and-last"], "ours": found[f"budget-{beside}"]}
    saved = {} if quick else bench.subject.saved(SAVED, bench.watched)
    levels = dict(bench.measured.facts.levels)
    return Found(bench.subject.name, bench.subject.about, machine(), found, sizes, budgets, both, peers, saved, levels)


def told_of(bench: Bench, bits: str, error: float) -> dict[str, Any]:
    plan = bench.plan(bits)
    predicted = {kind: bench.predicted(bits, kind == "by sensitivity") for kind in ("by moments", "by sensitivity")}
    return {"bits": plan.bits, "formats": plan.formats, "measured": error, **predicted}


def bits_of(bench: Bench, format: str) -> float:
    """Bits a weight of the layers that become format."""
    known = [layer for layer in bench.model.candidates if format in layer.options]
    return sum(layer.options[format].bytes for layer in known) * 8 / bench.model.weights if known else 0.0


##### Wanted beside found


def figures(found: Found) -> Iterator[tuple[str, str, str, bool]]:
    errors = found.errors
    for format, limit in NO_DATA.items():
        yield most(
            f"{format}, no data (to nearest {errors[f'nearest-{format}']:.4f})", errors[f"searched-{format}"], limit
        )
    for format, limit in CALIBRATED.items():
        yield most(
            f"{format}, calibrated (to nearest {errors[f'nearest-{format}']:.4f})", errors[f"fed-{format}"], limit
        )
    for bits, limit in BUDGETS.items():
        yield most(f"budget {bits} bits, calibrated", found.budgets[bits]["measured"], limit)
    for kind, limit in (("by moments", BY_MOMENTS), ("by sensitivity", BY_SENSITIVITY)):
        if any(kind not in one for one in found.budgets.values()):
            continue
        off = max(abs(one["measured"] / one[kind] - 1) for one in found.budgets.values())
        yield (
            f"predicted error off by, at worst of {len(found.budgets)} budgets, {kind}",
            f"<= {limit:.0%}",
            f"{off:.0%}",
            off <= limit,
        )
    yield beside_uniform(found)
    yield from beside_outer(found)
    for format, one in found.peers.items():
        ratio = one["error"] / one["ours"]
        yield f"error by convert_to_quant's learned rounding / ours, {format}", ">= 1.0", f"{ratio:.2f}", ratio >= 1
        if one["our seconds"]:
            share = one["our seconds"] / one["seconds"]
            yield f"our time / its, {format}", "<= 0.10", f"{share:.3f}", share <= 0.1
    if found.saved:
        off = max(one["off"] for one in found.saved.values())
        what = f"saved in {len(found.saved)} ways, loaded by core alone: latents beside the graph's, at worst"
        yield what, SAME, f"{off:.1e} off" if off else SAME, not off


def beside_outer(found: Found) -> Iterator[tuple[str, str, str, bool]]:
    """Nothing where there is no block between the first and the last, so that all became INT8."""
    outer = found.first_and_last
    if outer["bits"] < found.bits["int8"] - 0.1:
        gain = 20 * log10(outer["error"] / outer["ours"])
        what = f"better than INT8 in the first and last block and NVFP4 between, at {outer['bits']:.2f} bits"
        yield what, f">= {BEYOND:.0f} dB", f"{gain:.1f} dB", gain >= BEYOND


def most(what: str, error: float, limit: float) -> tuple[str, str, str, bool]:
    return what, f"<= {limit:g}", f"{error:.4f}", error <= limit


def beside_uniform(found: Found) -> tuple[str, str, str, bool]:
    """The worst budget beside the best uniform format that is no larger."""
    ratios = []
    for one in found.budgets.values():
        smaller = [found.errors[f"fed-{name}"] for name, bits in found.bits.items() if 0 < bits <= one["bits"] + 0.005]
        ratios += [one["measured"] / min(smaller)] if smaller else []
    worst = max(ratios)
    return (
        "a budget's error / the best uniform format's of at most its size, at worst",
        "<= 1",
        f"{worst:.2f}",
        worst <= 1,
    )


def text(found: Found) -> str:
    """For the terminal."""
    rows = [[what, wanted, value, "yes" if met else "NO"] for what, wanted, value, met in figures(found)]
    tables = [text_table(FIGURES, rows), "\n".join([budget_table(found), *level_line(found)])]
    tables += [text_table(COMPUTED, computed_rows(found))] if found.saved else []
    return "\n\n".join([f"{found.subject}: {found.about}", *tables]) + "\n"


PREDICTED = ("by moments", "by sensitivity")
BUDGET = ("budget", "bits", "predicted by moments", "by sensitivity", "measured", "layers")


def budget_rows(found: Found) -> list[list[str]]:
    return [
        [
            bits, f"{one['bits']:.2f}", *(f"{one[kind]:.4f}" if kind in one else "-" for kind in PREDICTED),
            f"{one['measured']:.4f}", ", ".join(f"{count} {name}" for name, count in one["formats"].items()),
        ]
        for bits, one in found.budgets.items()
    ]  # fmt: skip


def level_line(found: Found) -> list[str]:
    """How well errors of layers add up, nothing where that was not measured."""
    told = ", ".join(f"{format} {level:.2f}" for format, level in found.levels.items())
    return [f"All layers in one format, over the sum of what is told of each by sensitivity: {told}."] if told else []


COMPUTED = ("Quantize Model, calibrated", "MB", "error as ComfyUI computes it")


def computed_rows(found: Found) -> list[list[str]]:
    """What was saved from the graph: activations are rounded too where ComfyUI does."""
    return [[name, f"{one['bytes'] / 1e6:.2f}", f"{one['error']:.4f}"] for name, one in found.saved.items()]


def budget_table(found: Found) -> str:
    return text_table(BUDGET, budget_rows(found))


##### Kept


def save(found: Found) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{found.subject}.json"
    path.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return path


def stored() -> list[Found]:
    return [Found(**json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json"))]


def picture(found: Found) -> str:
    """Its name below docs."""
    return f"images/precision-{found.subject}.png"


def measured_curve(found: Found) -> Curve:
    """Measured errors: those of budgets as the curve, uniform formats as points; all calibrated."""
    budgets = [Point(curve.MIXED, "", one["bits"], 0, one["measured"]) for one in found.budgets.values()]
    known = [(name, bits) for name, bits in found.bits.items() if bits]
    return Curve((
        *budgets, *(Point(curve.UNIFORM, name, bits, 0, found.errors[f"fed-{name}"]) for name, bits in known)
    ))  # fmt: skip


def write_document() -> None:
    """The tables of docs/precision.md, below its mark, and its pictures."""
    for one in stored():
        curve.draw_curve(measured_curve(one), curve.MEASURED).save(DOCUMENT.parent / picture(one))
    head = DOCUMENT.read_text().split(MARK)[0]
    DOCUMENT.write_text(head + MARK + "\n\n" + "\n".join(map(markdown, stored())))


def markdown(found: Found) -> str:
    """Two tables of one subject."""
    met = [[what, wanted, value, "yes" if met else "**no**"] for what, wanted, value, met in figures(found)]
    quick = "" if found.peers else " --quick"
    lines = [
        f"### {found.subject}: {found.about}",
        "",
        f"`python -m benchmarks.precision --subject {found.subject}{quick}`",
        "",
    ]
    shown = f"![Measured: error of the image against bits a weight]({picture(found)})"
    lines += [*table(FIGURES, met), "", shown, "", *table(BUDGET, budget_rows(found)), ""]
    lines += [*level_line(found), ""] if found.levels else []
    lines += [*table(COMPUTED, computed_rows(found)), ""] if found.saved else []
    return "\n".join(lines)


def table(columns: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
