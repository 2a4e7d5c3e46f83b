"""What runs where and why, as a value that prints as a table and serialises to JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from ..kernels.plan import Choice
from ..text import text_table


@dataclass(frozen=True)
class Row:
    """One layer. shape: ``[out, in]``; calls: how often it ran outside of compiled graphs; ran: the same by kernel."""

    layer: str
    kernel: str
    reason: str
    format: str
    granularity: str
    shape: tuple[int, int]
    activation: str
    calls: int
    ran: dict[str, int]

    @property
    def slow(self) -> bool:
        """Whether it runs on dequantized weights."""
        return not self.kernel.startswith("scaled_mm")


@dataclass(frozen=True)
class Report:
    """The layers of one model; those that are not computed in FP8 first."""

    rows: tuple[Row, ...]

    @property
    def kernels(self) -> dict[str, int]:
        """Kernel -> layers."""
        return dict(Counter(row.kernel for row in self.rows).most_common())

    @property
    def reasons(self) -> dict[str, int]:
        """Why layers are not computed in FP8 -> layers."""
        return dict(Counter(row.reason for row in self.rows if row.slow).most_common())

    def table(self) -> str:
        """Totals, then one line a layer."""
        columns = ("layer", "kernel", "activation", "format", "granularity", "shape", "calls", "reason")
        lines = [[str(getattr(row, name)) for name in columns] for row in self.rows]
        return "\n".join((*self.totals(), "", text_table(columns, lines)))

    def totals(self) -> list[str]:
        """One line a kernel, one a reason."""
        ran = [f"{count} of {len(self.rows)} layers: {kernel}" for kernel, count in self.kernels.items()]
        return [*ran, *(f"{count} not in FP8: {reason}" for reason, count in self.reasons.items())]

    def to_json(self) -> dict[str, object]:
        return {"kernels": self.kernels, "reasons": self.reasons, "layers": [asdict(row) for row in self.rows]}


def report_choices(choices: Mapping[str, Choice] | Iterable[tuple[str, Choice]]) -> Report:
    """Layer name -> Choice, as a report."""
    pairs = choices.items() if isinstance(choices, Mapping) else choices
    rows = [row(name, choice) for name, choice in pairs]
    return Report(tuple(sorted(rows, key=lambda row: not row.slow)))


def row(name: str, choice: Choice) -> Row:
    return Row(
        name,
        choice.kernel.name,
        choice.reason,
        choice.format.name,
        choice.granularity.name,
        choice.shape,
        choice.activation or "as they are",
        choice.calls.total(),
        dict(choice.calls),
    )
