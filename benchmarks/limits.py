"""The figures that this pack wants to be judged by, computed from results, beside what they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import exp, log

from .comfyui import CORE
from .comfyui import OURS as OURS_STEP
from .peers import BASELINE, COMPILED, KITCHEN, LIMIT, OURS, OURS_AUTO, OURS_INT8, OURS_UPCAST
from .results import Measurement, Part, Results
from .shapes import LARGE

Pick = Callable[[Measurement], bool]


@dataclass(frozen=True)
class Figure:
    """A ratio of times and what it should be at most."""

    what: str
    value: float
    wanted: str


def mean(values: list[float]) -> float:
    """The geometric one."""
    return exp(sum(map(log, values)) / len(values))


def ratios(part: Part, ours: str, *others: str, among: Pick = lambda row: True) -> list[float]:
    """Time of one peer over that of the fastest of others, for each case that both have."""
    theirs: dict[tuple[str, str], float] = {}
    for row in part.rows:
        if row.peer in others:
            key = (row.case, row.group)
            theirs[key] = min(row.median, theirs.get(key, row.median))
    mine = [row for row in part.rows if row.peer == ours and among(row)]
    return [row.median / theirs[row.case, row.group] for row in mine if (row.case, row.group) in theirs]


def tokens(row: Measurement) -> int:
    return int(row.group.split()[0])


def many(row: Measurement) -> bool:
    return tokens(row) >= LARGE


def of_tokens(count: int) -> Pick:
    return lambda row: tokens(row) == count


def figures(results: Results) -> list[Figure]:
    """Those that this machine has measured."""
    parts = {part.name: part for part in results.parts}
    makers = {
        "linears": of_linears, "blocks": of_blocks, "blocks-graph": of_graphs, "step": of_step, "load": of_load,
        "convert": of_convert,
    }  # fmt: skip
    return [figure for name, make in makers.items() if name in parts for figure in make(parts[name])]


def of_linears(part: Part) -> Iterator[Figure]:
    where = f"from {LARGE} tokens on, geometric mean"
    dynamic = ratios(part, OURS, BASELINE, among=many)
    if dynamic:
        yield Figure(f"{OURS} / bf16, {where}", mean(dynamic), "at most 0.62")
        yield Figure(f"{OURS} / bf16, from {LARGE} tokens on, worst shape", max(dynamic), "at most 0.75")
    versus = ((LIMIT, (LIMIT,), "1.15"), ("torchao compiled", COMPILED, "1.00"), (KITCHEN, (KITCHEN,), "1.00"))
    for name, others, wanted in versus:
        if found := ratios(part, OURS, *others, among=many):
            yield Figure(f"{OURS} / {name}, {where}", mean(found), f"at most {wanted}")
    if found := ratios(part, OURS_UPCAST, BASELINE, among=many):
        yield Figure(f"{OURS_UPCAST} / bf16, {where}", mean(found), "at most 1.10")
    yield from of_one_token(part) if any(many(row) for row in part.rows) else on_cpu(part)


def of_one_token(part: Part) -> Iterator[Figure]:
    if found := ratios(part, OURS_UPCAST, BASELINE, among=of_tokens(1)):
        yield Figure(f"{OURS_UPCAST} / bf16, 1 token, geometric mean", mean(found), "at most 0.60")


# peer -> tokens -> most of bfloat16's time, on a CPU
ON_CPU = {OURS_AUTO: {1: 4.0, 16: 3.0, 256: 1.4}, OURS_INT8: {1: 0.5, 16: 0.7, 256: 0.9}}


def on_cpu(part: Part) -> Iterator[Figure]:
    for peer, bounds in ON_CPU.items():
        for count, bound in bounds.items():
            if found := ratios(part, peer, BASELINE, among=of_tokens(count)):
                yield Figure(f"{peer} / bf16, {count} token{'s' * (count > 1)}", mean(found), f"at most {bound:.1f}")


# other's name in blocks -> most of its time that a block takes on a GPU
IN_BLOCKS = {BASELINE: 0.62, KITCHEN: 0.95}


def of_blocks(part: Part, how: str = "eager") -> Iterator[Figure]:
    for other, bound in IN_BLOCKS.items():
        if found := ratios(part, OURS_AUTO, other):
            yield Figure(f"a block / {other}, {how}, the worst model", max(found), f"at most {bound:.2f}, on a GPU")
    if found := ratios(part, f"{OURS_AUTO}, compiled", "torchao per-row, compiled"):
        yield Figure("a block / torchao per-row, both compiled, the worst model", max(found), "at most 1.00")


def of_graphs(part: Part) -> Iterator[Figure]:
    yield from of_blocks(part, "in a CUDA graph")


# who runs the same file, or makes FP8 of the bfloat16 one -> most of its time that a sampling step takes: CPU, GPU
IN_STEPS = {f"{CORE}, native FP8 file": (1.0, 0.9), f"{CORE}, --fast fp8_matrix_mult": (1.0, 0.95)}


def of_step(part: Part) -> Iterator[Figure]:
    on_gpu = any(note == "memory is the GPU's" for note in part.notes)
    for other, bounds in IN_STEPS.items():
        if found := ratios(part, OURS_STEP, other):
            yield Figure(f"a sampling step / {other}", found[0], f"at most {bounds[on_gpu]:.2f}")


def of_load(part: Part) -> Iterator[Figure]:
    for state in ("warm", "cold"):
        for row in part.rows:
            if row.ours and row.case == state and (found := ratios(part, row.peer, part.baseline, among=case(state))):
                yield Figure(f"LoadFP8Checkpoint / UNETLoader, {state}", found[0], "at most 1.10")


def case(name: str) -> Pick:
    return lambda row: row.case == name


def of_convert(part: Part) -> Iterator[Figure]:
    ours = next((row.peer for row in part.rows if row.ours), "")
    for other in sorted({row.peer for row in part.rows} - {ours}):
        yield Figure(f"convert / {other.split()[0]}", ratios(part, ours, other)[0], "see the table")
