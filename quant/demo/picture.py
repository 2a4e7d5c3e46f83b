"""Panels of digits side by side, as one PNG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAPER, INK, SOFT = 255, 24, 104
COLUMNS, CELL, GAP = 5, 100, 6
MARGIN, BETWEEN, TITLE = 40, 48, 92


@dataclass(frozen=True)
class Panel:
    """A grid of images ``[n, 8, 8]`` in [-1, 1] under a title, over a note."""

    title: str
    note: str
    images: Tensor


def draw(path: Path, panels: tuple[Panel, ...]) -> Path:
    """Write the demo's panels of digits as a PNG; path."""
    grids = [grid(panel.images) for panel in panels]
    width, height = grids[0].size
    step = width + BETWEEN
    canvas = Image.new("L", (2 * MARGIN + step * len(panels) - BETWEEN, MARGIN + TITLE + height + MARGIN), PAPER)
    pen = ImageDraw.Draw(canvas)
    for i, (panel, tiles) in enumerate(zip(panels, grids, strict=True)):
        left = MARGIN + i * step
        pen.text((left, MARGIN - 8), panel.title, fill=INK, font=ImageFont.load_default(30))
        pen.text((left, MARGIN + 36), panel.note, fill=SOFT, font=ImageFont.load_default(19))
        canvas.paste(tiles, (left, MARGIN + TITLE - 16))
    canvas.save(path, optimize=True)
    return path


def grid(images: Tensor) -> Image.Image:
    """Images of digits in rows of COLUMNS, each smoothed to CELL pixels inside a border of its background."""
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * (CELL + GAP) - GAP, rows * (CELL + GAP) - GAP), PAPER)
    for i, image in enumerate(F.pad(images, (1, 1, 1, 1), value=-1)):
        small = Image.fromarray(image.add(1).mul(127.5).round().byte().numpy())
        sheet.paste(small.resize((CELL, CELL), Image.Resampling.BICUBIC), position(i))
    return sheet


def position(i: int) -> tuple[int, int]:
    return (i % COLUMNS) * (CELL + GAP), (i // COLUMNS) * (CELL + GAP)
