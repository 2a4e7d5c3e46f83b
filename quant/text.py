"""Tables and lists as text."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text, each column as wide as its widest cell."""
    widths = [max(map(len, cells)) for cells in zip(columns, *lines, strict=True)]
    padded = (
        " ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (columns, *lines)
    )
    return "\n".join(line.rstrip() for line in padded)


def printable(text: str) -> str:
    """Without control characters and turns of direction: names come from files, and a terminal obeys."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def few(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
