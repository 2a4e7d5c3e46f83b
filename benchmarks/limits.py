"""The figures that this pack wants to be judged by, computed from results, beside what they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import exp, log

from .peers import BASELINE, COMPILED, KITCHEN, LIMIT, OURS, OURS_AUTO, OURS_UPCAST
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


def few(row: Measurement) -> bool:
    return tokens(row) <= 16


def figures(results: Results) -> list[Figure]:
    """Those that this machine has measured."""
    parts = {part.name: part for part in results.parts}
    makers = {
        "linears": of_linears, "blocks": of_blocks, "blocks-graph": of_graphs, "load": of_load, "convert": of_convert,
    }  # fmt: skip
    return [figure for name, make in makers.items() if name in parts for figure in make(parts[name])]


def of_linears(part: Part) -> Iterator[Figure]:
    where = f"from {LARGE} tokens on, geometric mean"
    dynamic = ratios(part, OURS, BASELINE, among=many)
    if dynamic:
        yield Figure(f"{OURS} / bf16, {where}", mean(dynamic), "at most 0.62")
        yield Figure(f"{OURS} / bf16, from {LARGE} tokens on, worst shape", max(dynamic), "at most 0.75")
    versus = ((LIMIT, (LIMIT,), "1.12"), ("torchao compiled", COMPILED, "1.00"), (KITCHEN, (KITCHEN,), "1.00"))
    for name, others, wanted in versus:
        if found := ratios(part, OURS, *others, among=many):
            yield Figure(f"{OURS} / {name}, {where}", mean(found), f"at most {wanted}")
    if found := ratios(part, OURS_UPCAST, BASELINE, among=many):
        yield Figure(f"{OURS_UPCAST} / bf16, {where}", mean(found), "at most 1.10")
    if many_and_few(part) and (found := ratios(part, OURS_UPCAST, BASELINE, among=few)):
        yield Figure(f"{OURS_UPCAST} / bf16, up to 16 tokens, geometric mean", mean(found), "at most 0.65")


def many_and_few(part: Part) -> bool:
    """Whether it is a GPU's: the bounds are for one."""
    return any(many(row) for row in part.rows)


def of_blocks(part: Part, bound: str = "0.75", how: str = "eager") -> Iterator[Figure]:
    if found := ratios(part, OURS_AUTO, BASELINE):
        yield Figure(f"a block / bf16, {how}, the worst model", max(found), f"at most {bound}, on a GPU")


def of_graphs(part: Part) -> Iterator[Figure]:
    yield from of_blocks(part, "0.65", "in a CUDA graph")


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
