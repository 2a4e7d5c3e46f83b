"""Charts of a report as SVG: the error by step as a curve, the layers as a heat map."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import ceil, floor, inf, isfinite, log10

from ..text import printable
from .heatmap import Section, sections
from .quality import LayerError
from .sqnr import NOISE_DB, colour_of, is_noise, ramp, shown, span

CELL, GAP, LINE = 18, 2, 22  # pixels
LETTER = 7.3  # width of a letter at most, in the font of labels
LONGEST = 48  # letters of a label
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 220, 64, 34  # of the curve; of its margins
TICKS = 4
STEP = 0.25  # dB between colours


def text(value: object) -> str:
    """Anything as text of a page: names come from files, and neither a parser nor an eye obeys them."""
    return escape(printable(str(value)), quote=True)


##### Curve


def curve(steps: Sequence[float]) -> str:
    """Latent error after each step."""
    finite = [value for value in steps if isfinite(value)]
    top = ceiling(max(finite, default=0.0))
    title = f"Latent error after each of {len(steps)} steps, the last {steps[-1]:.3g}"
    points = [(across(i, len(steps)), down(value, top)) for i, value in enumerate(steps) if isfinite(value)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
    parts = (*axes(len(steps), top), f'<polyline points="{line}"/>', *dots)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg class="curve" {size} role="img" aria-label="{text(title)}">{"".join(parts)}</svg>'


def axes(count: int, top: float) -> Iterator[str]:
    """Lines and numbers of the chart of errors by step."""
    for tick in range(TICKS + 1):
        y = down(top * tick / TICKS, top)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - 8}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{top * tick / TICKS:.3g}</text>'
    for step in sorted({round(1 + (count - 1) * share / TICKS) for share in range(TICKS + 1)}):
        yield f'<text x="{across(step - 1, count):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{step}</text>'
    yield f'<text x="{WIDTH - 8}" y="{HEIGHT}" text-anchor="end">step</text>'


def across(index: int, count: int) -> float:
    return LEFT + 8 + (WIDTH - LEFT - 24) * index / max(1, count - 1)


def down(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 10) * value / top


def ceiling(value: float) -> float:
    """The next number of two digits that four parts of it are short numbers."""
    if not value > 0:
        return 1.0
    unit = 10.0 ** (floor(log10(value)) - 1)
    return ceil(value / unit / TICKS) * TICKS * unit


##### Heat map


def heat_map(layers: Sequence[LayerError]) -> str:
    """Blocks from left to right, their layers from top to bottom, coloured by dB; noise is red and crossed out."""
    ends = span(layer.sqnr_db for layer in layers)
    return "".join(section_map(part, ends) for part in sections({layer.name: layer for layer in layers}))


def section_map(part: Section[LayerError], ends: tuple[float, float]) -> str:
    """A section's cells, and what is told of the one that is pointed at."""
    name = part.name or "outside of blocks"
    left = round(max(len(shortened(label)) for label in part.labels) * LETTER + 10)
    across = {block: left + i * CELL for i, block in enumerate(part.blocks)}
    down = {label: LINE + j * CELL for j, label in enumerate(part.labels)}
    placed = {(across[block], down[label]): layer for (label, block), layer in part.rows.items()}
    drawn = "".join((*numbers(across if part.name else {}), *labels(down), *cells(placed, ends)))
    title = f"{name}, {len(placed)} layers by their error; the table below has the figures"
    size = f'width="{left + len(across) * CELL}" height="{LINE + len(down) * CELL}"'
    picture = f'<svg {size} data-cell="{CELL}" role="img" aria-label="{text(title)}">{drawn}</svg>'
    data = script({f"{x},{y}": told(layer) for (x, y), layer in placed.items()}, "cells")
    return f'<div class="map"><h3>{text(name)}</h3>{scrolled(name, picture)}<p class="soft told"></p>{data}</div>'


def scrolled(name: str, content: str) -> str:
    """What may be wider than the page, scrolled with keys too."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{text(name)}">{content}</div>'


def script(value: object, kind: str) -> str:
    """JSON inside of a page, which nothing in it can end."""
    data = json.dumps(value).replace("<", "\\u003c")
    return f'<script type="application/json" class="{kind}">{data}</script>'


def cells(placed: Mapping[tuple[int, int], LayerError], ends: tuple[float, float]) -> Iterator[str]:
    """One path a colour: thousands of elements would hold up the page."""
    side = CELL - GAP
    paths: dict[str, list[str]] = {}
    for (x, y), layer in placed.items():
        paths.setdefault(colour_of(stepped(layer.sqnr_db), ends), []).append(f"M{x} {y}h{side}v{side}h-{side}z")
    yield from (f'<path fill="{colour}" d="{"".join(boxes)}"/>' for colour, boxes in paths.items())
    crossed = (f"M{x} {y}l{side} {side}m0 -{side}l-{side} {side}" for (x, y), layer in placed.items() if layer.noise)
    yield f'<path class="cross" d="{"".join(crossed)}"/>'


def stepped(decibel: float) -> float:
    """In steps that no eye tells apart; noise stays noise."""
    return round(decibel / STEP) * STEP if isfinite(decibel) and not is_noise(decibel) else decibel


def told(layer: LayerError) -> str:
    """What is said of the cell that is pointed at."""
    formats = f", {layer.format_a} against {layer.format_b}" if layer.format_a or layer.format_b else ""
    return printable(f"{layer.name}: {shown(layer.sqnr_db)}{formats}")


def numbers(across: Mapping[int, int]) -> Iterator[str]:
    """Of the blocks, as many as have room."""
    every = 1 if max(across, default=0) < 100 else 2
    for i, (block, x) in enumerate(across.items()):
        if i % every == 0:
            yield f'<text x="{x + CELL // 2 - 1}" y="{LINE - 8}" text-anchor="middle">{block}</text>'


def labels(down: Mapping[str, int]) -> Iterator[str]:
    for label, y in down.items():
        yield f'<text x="0" y="{y + 13}">{text(shortened(label))}</text>'


def shortened(label: str) -> str:
    label = printable(label)
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def legend(layers: Sequence[LayerError]) -> str:
    """What the colours mean, in words too."""
    decibels = [layer.sqnr_db for layer in layers]
    low, high = span(decibels)
    measured = any(isfinite(value) and not is_noise(value) for value in decibels)
    steps = [(shown(low + (high - low) * i / 4), ramp(i / 4)) for i in range(5)] if measured else []
    same = [("identical", ramp(1.0))] if inf in decibels else []
    entries = [f"<li>{swatch(colour)}{text(words)}</li>" for words, colour in (*steps, *same)]
    noise = f"<li>{swatch(colour_of(-inf, (0, 1)), True)}noise, below {NOISE_DB:g} dB</li>"
    return f'<ul class="legend">{"".join((*entries, noise))}</ul>'


def swatch(colour: str, crossed: bool = False) -> str:
    cross = '<path class="cross" d="M0 0l16 16m0 -16l-16 16"/>' if crossed else ""
    return f'<svg width="16" height="16" aria-hidden="true"><rect width="16" height="16" fill="{colour}"/>{cross}</svg>'
