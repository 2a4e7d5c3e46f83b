"""What a model will need before anything is done, from the shapes of its weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod

from ..weights.encode import SLAB
from ..weights.formats import Format, float8_e4m3fn, int8
from ..weights.granularity import Granularity
from .methods import method_named
from .policy import Policy, family_named, recognise

WIDE = 2  # bytes of a bf16 or fp16 element
SINGLE = 4  # of a float32 one
ROUNDING = 16  # that rounding holds for each element of a slab


@dataclass(frozen=True)
class Estimate:
    """Bytes. weights: of all layers as they will be; scales: theirs; activations: what the largest layer allocates
    at a time, its output included; lora: the most that merging a LoRA into one layer holds at a time.
    """

    method: str
    weights: int
    scales: int
    activations: int
    lora: int
    quantized: int
    layers: int

    @property
    def resident(self) -> int:
        return self.weights + self.scales

    @property
    def peak(self) -> int:
        """Resident, and the larger of computing and merging: they do not happen at once."""
        return self.resident + max(self.activations, self.lora)

    def fits(self, free: int) -> bool:
        return self.peak <= free

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "resident": self.resident, "peak": self.peak}


def estimate_memory(
    shapes: Mapping[str, tuple[int, ...]],
    method: str = "fp8-dynamic",
    component: str = "transformer",
    granularity: str | None = "per-row",
    tokens: int = 4608,
    keep: str = "",
    family: str | None = None,
) -> Estimate:
    """Memory of a model whose weights have these shapes (name -> ``[out, in, ...]``), quantized by method.

    tokens: rows of the largest activation, 4608 is FLUX at 1024 x 1024; method: of METHODS, but not "auto".
    """
    chosen = method_named(method)
    if chosen.format_name is None:
        return account(chosen.name, {name: (shape, None, None) for name, shape in shapes.items()}, tokens, False)
    known = family_named(family) if family else recognise(shapes, component)
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
    )


def stored(shape: tuple[int, ...], format: Format | None, granularity: Granularity | None) -> tuple[int, int]:
    """Bytes of a layer's codes and of its scales; 16-bit floats and none where it is not quantized."""
    if format is None or granularity is None:
        return prod(shape) * WIDE, 0
    matrix = (shape[0], prod(shape[1:]))
    # a scale one level up: one for the tensor, or one an output
    outer = 1 if format.outer_maximum else shape[0] + len(format.book) if format.grid else 0
    return prod(matrix) // format.per_byte, (prod(granularity.scale_shape(matrix)) + outer) * SINGLE


def working(plan: Plan, tokens: int, coded: bool) -> int:
    """Bytes allocated to compute one layer: its output, and codes of its input or a dequantized weight."""
    shape, format, _ = plan
    inputs, output = prod(shape[1:]), tokens * shape[0] * WIDE
    if format is None:
        return output
    if coded and format.dtype == int8.dtype:
        # int32 sums and their float32 copy
        return output + tokens * inputs + tokens * shape[0] * 2 * SINGLE
    if coded:
        # codes and the float32 copy that they are rounded from; a scale a token
        return output + tokens * inputs * (1 + SINGLE) + tokens * SINGLE
    # dequantized in float32, then cast: the output comes when the float32 copy is gone
    return prod(shape) * WIDE + max(output, prod(shape) * SINGLE)


def merging(plan: Plan) -> int:
    """Bytes held to merge a LoRA into one layer: the weight in float32, its change, and the codes anew by slabs."""
    shape, format, granularity = plan
    changed = prod(shape) * SINGLE * 2 + min(prod(shape), SLAB) * ROUNDING
    return changed if format is None else changed + sum(stored(shape, format, granularity))
