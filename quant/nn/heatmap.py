"""The heat map of a report as a picture: blocks from left to right, the layers of a block from top to bottom."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from ..kernels.registry import KERNELS
from ..weights.granularity import GRANULARITIES
from .report import Report, Row

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
    "upcast by comfy-kitchen": "#f4cf8a",
    "upcast by table": "#b3402a", "per-tensor": "#0b7a75", "per-row": "#3b7dd8", "block": "#e0a100",
    "group": "#8a63d2",
}  # fmt: skip
OTHER = ("#8a63d2", "#c2569b", "#3b7dd8", "#7a7f87")
CELL, GAP, MARGIN, LINE = 18, 2, 24, 26
WIDEST = 1800  # pixels of cells in a row of blocks


@dataclass(frozen=True)
class Section:
    """Blocks of one kind. labels: layers of a block; blocks: their numbers; rows: (label, block) -> Row."""

    name: str
    labels: tuple[str, ...]
    blocks: tuple[int, ...]
    rows: dict[tuple[str, int], Row]


def place(layer: str) -> tuple[str, int, str]:
    """Section, block and label of a layer: "double_blocks.3.img_attn.qkv" -> "double_blocks", 3, "img_attn.qkv"."""
    found = re.match(r"(.+?)\.(\d+)(?:\.(.+))?$", layer)
    return (found[1], int(found[2]), found[3] or "weight") if found else ("", 0, layer)


def sections(rows: Iterable[Row]) -> list[Section]:
    """Every row once; layers outside of blocks last."""
    placed: dict[str, dict[tuple[str, int], Row]] = {}
    for row in rows:
        section, block, label = place(row.layer)
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
    palette, parts = colours(list(counts)), sections(report.rows)
    label = label_width(parts)
    cell = cell_size(parts)
    width = max(640, 2 * MARGIN + label + max((len(p.blocks) for p in parts), default=0) * cell)
    top = 2 * MARGIN + LINE * (2 + len(palette))
    height = top + sum(section_height(part, cell) for part in parts) + MARGIN
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    draw_legend(pen, title or "Scaled FP8", palette, counts)
    for part in parts:
        draw_section(pen, part, (MARGIN + label, top), cell, {k: palette[getattr(r, by)] for k, r in part.rows.items()})
        top += section_height(part, cell)
    return canvas


def draw_legend(pen: ImageDraw.ImageDraw, title: str, palette: dict[str, str], counts: Counter[str]) -> None:
    pen.text((MARGIN, MARGIN - 6), title, fill=INK, font=font(20))
    total = f"{counts.total()} layers" if counts else "no scaled layers"
    pen.text((MARGIN, MARGIN + LINE - 4), total, fill=SOFT, font=font(14))
    for i, (name, colour) in enumerate(palette.items()):
        y = MARGIN + LINE * (2 + i)
        pen.rectangle((MARGIN, y, MARGIN + 15, y + 15), fill=colour)
        pen.text((MARGIN + 24, y - 1), f"{name}: {counts[name]}", fill=INK, font=font(14))


def draw_section(
    pen: ImageDraw.ImageDraw, part: Section, corner: tuple[int, int], cell: int, fill: dict[tuple[str, int], str]
) -> None:
    """One section with its corner at the first cell's left and the section's top."""
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
            pen.rectangle(box, fill=fill.get((label, block), EMPTY))


def section_height(part: Section, cell: int) -> int:
    return LINE + CELL * len(part.labels) + LINE // 2


def cell_size(parts: Sequence[Section]) -> int:
    """Width of a cell in pixels, less where there are very many blocks."""
    blocks = max((len(part.blocks) for part in parts), default=1)
    return max(2, min(CELL, WIDEST // blocks))


def label_width(parts: Sequence[Section]) -> int:
    longest = max((font(12).getlength(label) for part in parts for label in part.labels), default=0)
    named = max((font(15).getlength(part.name or "outside of blocks") for part in parts), default=0)
    return int(max(longest, named)) + 16


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
