"""The heat map of a report as a picture: blocks from left to right, the layers of a block from top to bottom."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Generic, TypeVar

from PIL import Image, ImageDraw, ImageFont

from ..kernels.registry import KERNELS
from ..nn.report import Report, Row
from ..weights.granularity import GRANULARITIES
from .sqnr import NOISE_COLOUR, NOISE_DB, colour_of, noise_sentence, ramp, shown, span

PAPER, INK, SOFT, EMPTY = "#ffffff", "#1d2126", "#626a73", "#eef0f2"
# the panel in web/colours.mjs uses the same colours for the same names
COLOURS = {
    "scaled_mm per-tensor fast": "#075e5a", "scaled_mm per-tensor": "#0b7a75",
    "scaled_mm per-row fast": "#12806a", "scaled_mm per-row": "#1fa187",
    "scaled_mm emulated per-row": "#7cc68d", "scaled_mm per-tensor dynamic": "#4fb3a9",
    "scaled_mm block": "#2f8fbf", "scaled_mm mxfp8": "#3b6fd8", "scaled_mm nvfp4": "#5a55c9",
    "scaled_mm int8 fused": "#2a5f8f", "scaled_mm int8": "#6aa5d8",
    "scaled_mm int8 convrot fused": "#24507a", "scaled_mm int8 convrot": "#8db9e0", "upcast fused": "#f0b64d",
    "dequantized block": "#e0a100", "upcast": "#d95f32", "upcast by bits": "#e0915a",
    "upcast by comfy-kitchen": "#f4cf8a", "upcast compiled": "#e8a873",
    "upcast by table": "#b3402a", "per-tensor": "#0b7a75", "per-row": "#3b7dd8", "block": "#e0a100",
    "group": "#8a63d2",
}  # fmt: skip
OTHER = ("#8a63d2", "#c2569b", "#3b7dd8", "#7a7f87")
CELL, GAP, MARGIN, LINE = 18, 2, 24, 26
WIDEST = 1800  # pixels of cells in a row of blocks
T = TypeVar("T")


@dataclass(frozen=True)
class Section(Generic[T]):
    """Blocks of one kind. labels: layers of a block; blocks: their numbers; rows: (label, block) -> what it shows."""

    name: str
    labels: tuple[str, ...]
    blocks: tuple[int, ...]
    rows: dict[tuple[str, int], T]


def place(layer: str) -> tuple[str, int, str]:
    """Section, block and label of a layer: "double_blocks.3.img_attn.qkv" -> "double_blocks", 3, "img_attn.qkv"."""
    # no block has a number of more digits, and int() refuses to read very many
    found = re.match(r"(.+?)\.(\d{1,9})(?:\.(.+))?$", layer)
    return (found[1], int(found[2]), found[3] or "weight") if found else ("", 0, layer)


def sections(rows: Mapping[str, T]) -> list[Section[T]]:
    """A heat map's sections: every layer's row once; layers outside of blocks last."""
    placed: dict[str, dict[tuple[str, int], T]] = {}
    for layer, row in rows.items():
        section, block, label = place(layer)
        placed.setdefault(section, {})[label, block] = row
    order = sorted(placed, key=lambda name: (name == "", name))
    return [
        Section(name, tuple(sorted({k for k, _ in cells})), tuple(sorted({b for _, b in cells})), cells)
        for name, cells in ((name, placed[name]) for name in order)
    ]


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, the known ones always the same."""
    known = [*(kernel.name for kernel in KERNELS), *GRANULARITIES]
    unknown = sorted(name for name in names if name not in COLOURS)
    spare = {name: OTHER[i % len(OTHER)] for i, name in enumerate(unknown)}
    order = sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))
    return {name: COLOURS.get(name) or spare[name] for name in order}


def draw_report(report: Report, title: str = "", by: str = "kernel") -> Image.Image:
    """The report as an RGB picture; by: the field of Row that gives the colour."""
    counts = Counter(getattr(row, by) for row in report.rows)
    palette = colours(list(counts))
    total = f"{counts.total()} layers" if counts else "no scaled layers"
    legend = [LegendEntry(f"{name}: {counts[name]}", colour) for name, colour in palette.items()]
    return draw_map(report.rows, lambda row: palette[getattr(row, by)], (title or "Scaled FP8", total), legend)


def draw_errors(report: Report, errors: Mapping[str, float], title: str = "") -> Image.Image:
    """The report coloured by the SQNR in dB of each layer; noise is red and crossed out, an unknown one is empty."""
    ends = span(errors.values())
    said = noise_sentence(errors) or f"{len(errors)} layers, signal to quantization noise in dB: more is better"

    def paint(row: Row) -> str | None:
        return colour_of(errors[row.layer], ends) if row.layer in errors else None

    return draw_map(report.rows, paint, (title or "Error by layer", said), error_legend(report, errors))


def draw_all(report: Report, errors: Mapping[str, float]) -> Image.Image:
    """Heat maps of a report: by kernel, and below by error where one is known."""
    pictures = [draw_report(report), *([draw_errors(report, errors)] if errors else [])]
    size = (max(picture.width for picture in pictures), sum(picture.height for picture in pictures))
    canvas, top = Image.new("RGB", size, PAPER), 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def error_legend(report: Report, errors: Mapping[str, float]) -> list[LegendEntry]:
    """Legend of an error map: the ramp in five steps, noise, and how many layers were not measured."""
    ends, unknown = span(errors.values()), sum(row.layer not in errors for row in report.rows)
    shares = [i / 4 for i in range(5)] if any(map(isfinite, errors.values())) else []
    steps = [LegendEntry(shown(ends[0] + (ends[1] - ends[0]) * share), ramp(share)) for share in shares]
    same = [LegendEntry(f"identical: {count}", ramp(1.0)) for count in (list(errors.values()).count(inf),) if count]
    rest = [LegendEntry(f"not measured: {unknown}", EMPTY)] if unknown else []
    return [*steps, *same, LegendEntry(f"noise, below {NOISE_DB:g} dB", NOISE_COLOUR), *rest]


@dataclass(frozen=True)
class LegendEntry:
    """A line of the legend."""

    text: str
    colour: str


def draw_map(
    rows: Iterable[Row], paint: Callable[[Row], str | None], heads: tuple[str, str], legend: Sequence[LegendEntry]
) -> Image.Image:
    """A heat map: title and a line, legend, sections; paint: a row's colour, None where it has none."""
    parts = sections({row.layer: row for row in rows})
    label, cell = label_width(parts), cell_size(parts)
    cells = 2 * MARGIN + label + max((len(part.blocks) for part in parts), default=0) * cell
    width = max(640, cells, 2 * MARGIN + int(font(14).getlength(heads[1])))
    top = 2 * MARGIN + LINE * (2 + len(legend))
    height = top + sum(section_height(part, cell) for part in parts) + MARGIN
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    draw_legend(pen, heads, legend)
    for part in parts:
        draw_section(pen, part, (MARGIN + label, top), cell, {place: paint(row) for place, row in part.rows.items()})
        top += section_height(part, cell)
    return canvas


def draw_legend(pen: ImageDraw.ImageDraw, heads: tuple[str, str], legend: Sequence[LegendEntry]) -> None:
    pen.text((MARGIN, MARGIN - 6), heads[0], fill=INK, font=font(20))
    pen.text((MARGIN, MARGIN + LINE - 4), heads[1], fill=SOFT, font=font(14))
    for i, entry in enumerate(legend):
        y = MARGIN + LINE * (2 + i)
        draw_cell(pen, (MARGIN, y, MARGIN + 15, y + 15), entry.colour)
        pen.text((MARGIN + 24, y - 1), entry.text, fill=INK, font=font(14))


def draw_cell(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: str | None) -> None:
    """A cell; noise is crossed out, so that it is seen without colours."""
    left, top, right, bottom = box
    pen.rectangle(box, fill=colour or EMPTY)
    if colour == NOISE_COLOUR:
        pen.line((left, top, right, bottom), fill=PAPER)
        pen.line((left, bottom, right, top), fill=PAPER)


def draw_section(
    pen: ImageDraw.ImageDraw,
    part: Section[Row],
    corner: tuple[int, int],
    cell: int,
    fill: dict[tuple[str, int], str | None],
) -> None:
    """One section of a heat map, its corner at the first cell's left and the section's top."""
    left, top = corner
    pen.text((MARGIN, top), part.name or "outside of blocks", fill=INK, font=font(15))
    step = max(1, -(-30 // cell))
    for i, block in enumerate(part.blocks if part.name else ()):
        if i % step == 0:
            pen.text((left + i * cell, top + 2), str(block), fill=SOFT, font=font(11))
    for j, label in enumerate(part.labels):
        y = top + LINE + j * CELL
        pen.text((MARGIN, y + 1), label, fill=SOFT, font=font(12))
        for i, block in enumerate(part.blocks):
            box = (left + i * cell, y, left + (i + 1) * cell - min(GAP, cell - 1) - 1, y + CELL - GAP - 1)
            draw_cell(pen, box, fill.get((label, block)))


def section_height(part: Section[Row], cell: int) -> int:
    return LINE + CELL * len(part.labels) + LINE // 2


def cell_size(parts: Sequence[Section[Row]]) -> int:
    """Width of a cell in pixels, less where there are very many blocks."""
    blocks = max((len(part.blocks) for part in parts), default=1)
    return max(2, min(CELL, WIDEST // blocks))


def label_width(parts: Sequence[Section[Row]]) -> int:
    longest = max((font(12).getlength(label) for part in parts for label in part.labels), default=0)
    named = max((font(15).getlength(part.name or "outside of blocks") for part in parts), default=0)
    return int(max(longest, named)) + 16


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
