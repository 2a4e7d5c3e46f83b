"""What a model will need before anything is done, from the shapes of its weights alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import prod

from ..kernels.arrangement import BLOCK_STEP, COLUMN_STEP, GEMM_STEP
from ..kernels.gemm import PIECE
from ..text import text_table
from ..weights.formats import FORMATS, Format, float8_e4m3fn, int8
from ..weights.granularity import Granularity, PerBlock, PerRow
from ..weights.job import GPU_SLAB
from ..weights.native import runs_in_core
from ..weights.packing import up
from .families import TOKENS
from .methods import METHODS, method_named
from .policy import Policy, family_named, recognise

WIDE = 2  # bytes of a bf16 or fp16 element
SINGLE = 4  # of a float32 one
ROUNDING = 16  # that rounding holds for each element of a slab


@dataclass(frozen=True)
class Estimate:
    """Bytes. weights: of all layers as they will be; scales: theirs; activations: what the largest layer allocates
    at a time, its output included; lora: the most that merging a LoRA into one layer holds at a time; arranged: what
    this pack's kernels hold besides where a GPU multiplies the codes: scales in their order, and the codes of layers
    whose sides its GEMM does not take, filled up. None of the formats that ComfyUI core computes itself.
    """

    method: str
    weights: int
    scales: int
    activations: int
    lora: int
    quantized: int
    layers: int
    arranged: int = 0

    @property
    def resident(self) -> int:
        return self.weights + self.scales

    @property
    def peak(self) -> int:
        """All that is held, and the larger of computing and merging: they do not happen at once."""
        return self.resident + self.arranged + max(self.activations, self.lora)

    def fits(self, free: int) -> bool:
        return self.peak <= free

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "resident": self.resident, "peak": self.peak}


def estimate_memory(
    shapes: Mapping[str, tuple[int, ...]],
    method: str = "fp8-dynamic",
    component: str = "transformer",
    granularity: str | None = "per-row",
    tokens: int | None = None,
    keep: str = "",
    family: str | None = None,
) -> Estimate:
    """Memory in ComfyUI of a model whose weights have these shapes (name -> ``[out, in, ...]``), quantized by method.

    tokens: rows of the largest activation, the family's usual ones without; method: of METHODS, but not "auto".
    """
    chosen = method_named(method)
    known = family_named(family) if family else recognise(shapes, component)
    tokens = tokens or (known.tokens if known else None) or TOKENS[component]
    if chosen.format_name is None:
        return account(chosen.name, {name: (shape, None, None) for name, shape in shapes.items()}, tokens, False)
    policy = Policy(chosen.format, chosen.granularity(granularity), component, known, keep)
    decided = {name: policy.decide(name.removesuffix(".weight"), shape).quantize for name, shape in shapes.items()}
    plans = {
        name: (shape, policy.format, policy.granularity) if decided[name] else (shape, None, None)
        for name, shape in shapes.items()
    }
    coded = chosen.compute == "auto" and (chosen.format is int8 or chosen.format.dtype == float8_e4m3fn.dtype)
    return account(chosen.name, plans, tokens, coded)


Plan = tuple[tuple[int, ...], Format | None, Granularity | None]


def account(method: str, plans: Mapping[str, Plan], tokens: int, coded: bool) -> Estimate:
    """The estimate of the memory that a method needs, from what it makes of each layer."""
    sizes = [stored(*plan) for plan in plans.values()]
    matrices = [plan for plan in plans.values() if len(plan[0]) >= 2]
    return Estimate(
        method=method,
        weights=sum(weight for weight, _ in sizes),
        scales=sum(scale for _, scale in sizes),
        activations=max((working(plan, tokens, coded) for plan in matrices), default=0),
        lora=max((merging(plan) for plan in matrices), default=0),
        quantized=sum(plan[1] is not None for plan in plans.values()),
        layers=len(plans),
        arranged=sum(arranged(plan) for plan in matrices) if coded else 0,
    )


def arranged(plan: Plan) -> int:
    """Bytes that a GPU's kernel which multiplies codes may hold of a layer beside what is stored of it."""
    shape, format, granularity = plan
    if format is None or granularity is None or runs_in_core(format, granularity, smoothed=False):
        return 0
    matrix = (shape[0], prod(shape[1:]))
    rows, columns = BLOCK_STEP if granularity == PerBlock(*BLOCK_STEP) else (GEMM_STEP, GEMM_STEP)
    filled = (up(matrix[0], rows), up(matrix[1], columns))
    codes = prod(filled) if filled != matrix else 0
    return codes + scales_arranged(granularity, matrix[0], filled)


def scales_arranged(granularity: Granularity, outputs: int, filled: tuple[int, int]) -> int:
    """Bytes of its scales in the kernel's order: columns of blocks, or one an output where it is not so yet."""
    if isinstance(granularity, PerBlock):
        rows, columns = granularity.scale_shape(filled)
        return rows * up(columns, COLUMN_STEP) * SINGLE if granularity == PerBlock(*BLOCK_STEP) else 0
    as_stored = isinstance(granularity, PerRow) and filled[0] == outputs
    return 0 if as_stored else filled[0] * SINGLE


def stored(shape: tuple[int, ...], format: Format | None, granularity: Granularity | None) -> tuple[int, int]:
    """Memory in bytes of a layer's codes and of its scales in ComfyUI; 16-bit floats where it is not quantized."""
    if format is None or granularity is None:
        return prod(shape) * WIDE, 0
    matrix = (shape[0], prod(shape[1:]))
    if format.grid:
        # one byte a group, one float an output and for each code
        return prod(matrix) // format.per_byte, groups(granularity, matrix) + (shape[0] + len(format.book)) * SINGLE
    if format.name in FILLED:
        return tiled(matrix, format, granularity)
    return prod(matrix) // format.per_byte, groups(granularity, matrix) * SINGLE


# Formats whose codes core fills up to this many outputs and inputs, and whose scales lie in cuBLAS tiles.
FILLED = {"mxfp8": 32, "nvfp4": 16}
TILE = (128, 4)


def tiled(matrix: tuple[int, int], format: Format, granularity: Granularity) -> tuple[int, int]:
    outputs, inputs = (up(size, FILLED[format.name]) for size in matrix)
    rows, columns = granularity.scale_shape((outputs, inputs))
    scales = up(rows, TILE[0]) * up(columns, TILE[1])
    return outputs * inputs // format.per_byte, scales + (SINGLE if format.outer_maximum else 0)


def groups(granularity: Granularity, matrix: tuple[int, int]) -> int:
    return prod(granularity.scale_shape(matrix))


def working(plan: Plan, tokens: int, coded: bool) -> int:
    """Memory in bytes to compute one layer: its output, and codes of its input or a dequantized weight."""
    shape, format, _ = plan
    inputs, output = prod(shape[1:]), tokens * shape[0] * WIDE
    if format is None:
        return output
    if coded and format.dtype == int8.dtype:
        # int32 sums and their float32 copy: of a piece on a CPU, none by CUDA's kernel
        return output + tokens * inputs + min(tokens * shape[0], PIECE) * 2 * SINGLE
    if coded:
        # codes and the float32 copy that they are rounded from; a scale a token
        return output + tokens * inputs * (1 + SINGLE) + tokens * SINGLE
    # dequantized in float32, then cast: the output comes when the float32 copy is gone
    return prod(shape) * WIDE + max(output, prod(shape) * SINGLE)


def merging(plan: Plan) -> int:
    """Bytes held to merge a LoRA into one layer: the weight in float32, its change, and the codes by a GPU's slabs."""
    shape, format, granularity = plan
    changed = prod(shape) * SINGLE * 2 + min(prod(shape), GPU_SLAB) * ROUNDING
    return changed if format is None else changed + sum(stored(shape, format, granularity))


def estimates(
    shapes: Mapping[str, tuple[int, ...]],
    component: str = "transformer",
    granularity: str | None = None,
    tokens: int | None = None,
    keep: str = "",
) -> list[Estimate]:
    """The memory that each method of a component needs; one without that granularity has its own."""
    names = [name for name, method in METHODS.items() if name != "auto" and possible(method.format_name, component)]
    return [
        estimate_memory(shapes, name, component, own_granularity(name, granularity), tokens, keep) for name in names
    ]


def own_granularity(method: str, granularity: str | None) -> str | None:
    format = METHODS[method].format_name
    known = () if format is None else FORMATS[format].granularities
    return granularity if any(found.name == granularity for found in known) else None


def compare_methods(found: Iterable[Estimate], free: int | None = None) -> str:
    """A table of estimates in GB; free: bytes that a device has left, for a column of what fits there."""
    columns = ("method", "weights", "scales", "activations", "LoRA", "peak", "quantized")
    lines = [[*cells(row), *fitting(row, free)] for row in found]
    return text_table((*columns, *(() if free is None else (f"of {free / 1e9:.3f} GB free",))), lines)


def fitting(row: Estimate, free: int | None) -> tuple[str, ...]:
    return () if free is None else ("fits" if row.fits(free) else f"{(row.peak - free) / 1e9:.3f} GB too much",)


def possible(format_name: str | None, component: str) -> bool:
    return component != "vae" or format_name is None or FORMATS[format_name] is FORMATS["int8"]


def cells(row: Estimate) -> list[str]:
    sizes = (row.weights, row.scales, row.activations, row.lora, row.peak)
    return [row.method, *(f"{size / 1e9:.3f} GB" for size in sizes), f"{row.quantized} of {row.layers}"]
