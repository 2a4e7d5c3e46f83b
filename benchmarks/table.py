"""Markdown from results: a table a part, what was not measured, and where this pack is slower and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .limits import figures, mean, ratios
from .peers import LIMIT, OURS, OURS_AUTO, OURS_INT8, OURS_STATIC, OURS_UPCAST
from .results import Measurement, Part, Results, replaced

TARGET = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
TITLE = "# Speed"
SLOWER = 1.02
FP8 = (
    "it reads the activations and writes their codes before the product, which only FP8 matrix units and many tokens "
    "pay back"
)
# Why a way of this pack can lose, whatever the machine
WHY = {
    OURS: FP8, OURS_STATIC: FP8, OURS_INT8: FP8.replace("FP8", "int8"),
    OURS_UPCAST: "each use dequantizes the weight, so it is written and read once more",
    OURS_AUTO: "it holds one byte a weight and pays for that with a dequantization or a quantization at each use",
}  # fmt: skip


def write_document(results: list[Results], path: Path = TARGET) -> None:
    replaced(path, markdown(results))


def markdown(results: list[Results]) -> str:
    """The document."""
    intro = (
        "Measured by `python -m benchmarks`, which takes under ten minutes, writes a JSON for the machine under\n"
        "`benchmarks/results/` and this document; each table names the command for it alone. Times are medians, in\n"
        "brackets the quartiles. dB: signal to error against float32, more is better."
    )
    machines = ["\n".join(one_machine(one)) for one in results]
    return "\n\n".join([TITLE, intro, *([] if any(map(has_gpu, results)) else [NO_GPU]), *machines]).rstrip() + "\n"


NO_GPU = (
    "**No GPU was at hand for these figures.** The same command measures one where there is one: Linears of six\n"
    "models by all peers, eager and in CUDA graphs, whole blocks, and a sampling step of a FLUX.2 klein 4B."
)


def has_gpu(one: Results) -> bool:
    return any(part.name.endswith("-graph") for part in one.parts)


def one_machine(one: Results) -> Iterator[str]:
    facts = one.machine
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    clocks = ", ".join(f"{name} {value}" for name, value in facts["clocks"].items()) or "clocks not told"
    yield f"## {facts['name']}\n"
    yield f"{facts['memory_gib']} GiB, {facts['threads']} threads, {clocks}, load average {facts.get('busy')} after;"
    yield f"{facts['system']}; {versions}.\n"
    if found := figures(one):
        yield "| figure | here | wanted |\n|---|---|---|"
        yield from (f"| {figure.what} | {figure.value:.2f} | {figure.wanted} |" for figure in found)
        yield ""
    for part in one.parts:
        yield from one_part(part)


def one_part(part: Part) -> Iterator[str]:
    yield f"**{part.title}** (`{part.command}`)\n"
    if part.rows:
        yield from grouped(part) if any(row.group for row in part.rows) else flat(part)
        yield ""
    notes = [*part.notes, *(f"{peer}: {why}" for peer, why in part.missing.items()), *slower(part)]
    yield from (f"- {note.rstrip('.')}." for note in notes)
    if notes:
        yield ""


##### Tables


def flat(part: Part) -> Iterator[str]:
    """A line a row."""
    exact, sized = any(r.db is not None for r in part.rows), any(r.memory for r in part.rows)
    extra = ["dB"] * exact + ["memory"] * sized
    yield line(["case", "who", "time", f"/ {part.baseline}", *extra])
    yield line(["---"] * (4 + len(extra)))
    for row in part.rows:
        beside = [r for r in part.rows if r.peer == part.baseline and r.case == row.case]
        ratio = f"{row.median / beside[0].median:.2f}" if beside else ""
        more = [decibels(row)] * exact + [bytes_(row.memory)] * sized
        yield line([row.case, row.peer, time_of(row), ratio, *more])


def grouped(part: Part) -> Iterator[str]:
    """A line a peer: geometric mean over the cases of each group, the baseline's own time as it is."""
    groups = sorted({row.group for row in part.rows}, key=lambda group: int(group.split()[0]))
    peers = list(dict.fromkeys(row.peer for row in part.rows))
    count = len({row.case for row in part.rows})
    yield f"Time over that of {part.baseline}, geometric mean of {count} shape{'s' * (count > 1)}; mean dB.\n"
    sized = any(row.memory for row in part.rows)
    yield line(["who", *groups, *["memory at most"] * sized])
    yield line(["---"] * (1 + len(groups) + sized))
    for peer in peers:
        most = max(row.memory or 0 for row in part.rows if row.peer == peer)
        yield line([peer, *(cell(part, peer, group) for group in groups), *[bytes_(most)] * sized])


def cell(part: Part, peer: str, group: str) -> str:
    rows = [row for row in part.rows if row.peer == peer and row.group == group]
    found = ratios(part, peer, part.baseline, among=lambda row: row.group == group)
    if not found:
        return ""
    if peer == part.baseline:
        return seconds(mean([row.median for row in rows]))
    exact = [row.db for row in rows if row.db is not None]
    return f"{mean(found):.2f}, {sum(exact) / len(exact):.1f} dB" if exact else f"{mean(found):.2f}"


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def time_of(row: Measurement) -> str:
    return f"{seconds(row.median)} ({seconds(row.low)} to {seconds(row.high)})" if row.runs > 1 else seconds(row.median)


def seconds(value: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= factor or unit == "µs":
            return f"{value / factor:.3g} {unit}"
    return ""


def decibels(row: Measurement) -> str:
    return "" if row.db is None else f"{row.db:.1f}"


def bytes_(count: int | None) -> str:
    return f"{count / 2**20:.0f} MiB" if count else ""


##### Where this pack is slower


def slower(part: Part) -> Iterator[str]:
    """One sentence for each of this pack's ways that some peer beats, with the reason."""
    for peer in dict.fromkeys(row.peer for row in part.rows if row.ours):
        others = dict.fromkeys(row.peer for row in part.rows if not row.ours and row.peer != LIMIT)
        behind = [found for other in others if (found := behind_of(part, peer, other))]
        if behind:
            yield f"{peer} is slower than {'; '.join(behind)}: {reason(part, peer)}"


def behind_of(part: Part, peer: str, other: str) -> str:
    """The other peer and in which groups or cases it is faster, "" for none."""

    def found_in(name: str) -> list[float]:
        return ratios(part, peer, other, among=lambda row: (row.group or row.case) == name)

    pairs = {name: found_in(name) for name in {row.group or row.case for row in part.rows}}
    worse = {name: mean(found) for name, found in pairs.items() if found and mean(found) > SLOWER}
    cases = ", ".join(f"{name} {worse[name]:.2f} times" for name in sorted(worse, key=number))
    return f"{other} ({cases})" if cases else ""


def number(name: str) -> tuple[int, str]:
    first = name.split()[0]
    return (int(first), "") if first.isdigit() else (0, name)


def reason(part: Part, peer: str) -> str:
    notes = dict.fromkeys(row.note for row in part.rows if row.peer == peer and row.note)
    return "; ".join([*([WHY[peer]] if peer in WHY else []), *list(notes)[:2]])
