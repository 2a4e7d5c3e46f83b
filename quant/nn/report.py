"""What runs where and why, as a value that prints as a table and serialises to JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from ..kernels.choice import Choice
from ..text import text_table


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer. shape: ``[out, in]``; calls: how often it ran outside of compiled graphs; ran: the same by kernel;
    slow: whether it runs on dequantized weights, not on codes.
    """

    layer: str
    kernel: str
    reason: str
    format: str = ""
    granularity: str = ""
    shape: tuple[int, ...] = ()
    activation: str = ""
    calls: int = 0
    ran: dict[str, int] = field(default_factory=dict)
    slow: bool = True

    @property
    def why_slow(self) -> str:
        """The reason, or what ran most often instead of the planned kernel."""
        most = most_run(self.ran, self.kernel)
        return self.reason if most == self.kernel else most


@dataclass(frozen=True)
class Report:
    """The layers of one model; those that are not computed in FP8 first. notes: what is true of all of them."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def kernels(self) -> dict[str, int]:
        """Kernel -> layers."""
        return dict(Counter(row.kernel for row in self.rows).most_common())

    @property
    def reasons(self) -> dict[str, int]:
        """Why layers are not computed in FP8 -> layers."""
        return dict(Counter(row.why_slow for row in self.rows if row.slow).most_common())

    def table(self) -> str:
        """Totals, then one line a layer."""
        columns = ("layer", "kernel", "activation", "format", "granularity", "shape", "calls", "reason")
        cells = [{**vars(row), "calls": tallied(row.ran)} for row in self.rows]
        lines = [[str(of[name]) for name in columns] for of in cells]
        return "\n".join((*self.totals(), "", text_table(columns, lines)))

    def totals(self) -> list[str]:
        """One line a kernel, one a reason, one a note."""
        ran = [f"{count} of {len(self.rows)} layers: {kernel}" for kernel, count in self.kernels.items()]
        return [*ran, *(f"{count} not in FP8: {reason}" for reason, count in self.reasons.items()), *self.notes]

    def to_json(self) -> dict[str, object]:
        layers = [asdict(row) for row in self.rows]
        return {"kernels": self.kernels, "reasons": self.reasons, "notes": list(self.notes), "layers": layers}


def report_choices(choices: Mapping[str, Choice] | Iterable[tuple[str, Choice]]) -> Report:
    """Layer name -> Choice, as a report."""
    pairs = choices.items() if isinstance(choices, Mapping) else choices
    rows = [row(name, choice) for name, choice in pairs]
    return Report(tuple(sorted(rows, key=lambda row: not row.slow)))


def row(name: str, choice: Choice) -> Row:
    """What a report tells of one patched layer: its kernel with the reason, and what ran."""
    ran = dict(choice.calls)
    most = most_run(ran, choice.kernel.name)
    way = choice.named(most) or choice.main
    return Row(
        layer=name,
        kernel=way.kernel.name,
        reason=way.reason,
        format=choice.format.name,
        granularity=choice.granularity.name,
        shape=choice.shape,
        activation=way.activation or "as they are",
        calls=choice.calls.total(),
        ran=ran,
        slow=not way.kernel.on_codes or most != way.kernel.name,
    )


def most_run(ran: Mapping[str, int], planned: str) -> str:
    """The kernel that ran most often, the planned one before anything ran."""
    return max(ran, key=lambda kernel: ran[kernel], default=planned)


def tallied(ran: Mapping[str, int]) -> str:
    """How often a layer ran, by kernel where it was more than one."""
    return ", ".join(f"{count} {kernel}" for kernel, count in ran.items()) if len(ran) > 1 else str(sum(ran.values()))
