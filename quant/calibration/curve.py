"""Bytes against predicted error: what each budget buys, the uniform formats, and the one that was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import log10
from typing import TYPE_CHECKING, Any

from ..text import text_table

if TYPE_CHECKING:
    from PIL import Image

MIXED, UNIFORM, CHOSEN = "mixed", "uniform", "chosen"
SIZE, MARGIN = (720, 420), 60
COLOURS = {MIXED: "#5a8fd6", UNIFORM: "#888888", CHOSEN: "#d6453d"}


@dataclass(frozen=True)
class Point:
    """One way for all layers. name: of a uniform format, or the budget; bits: a weight of the planned layers."""

    kind: str
    name: str
    bits: float
    bytes: int
    error: float


@dataclass(frozen=True)
class Curve:
    """points: those of mixed formats by bytes, then the uniform ones and the chosen one."""

    points: tuple[Point, ...]

    def of(self, kind: str) -> list[Point]:
        return [point for point in self.points if point.kind == kind]

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(point) for point in self.points]

    def table(self) -> str:
        order = sorted(self.points, key=lambda point: (point.bits, point.kind))
        cells = [[f"{p.bits:.2f}", f"{p.bytes / 1e6:.1f}", f"{p.error:.4f}", p.kind, p.name] for p in order]
        return text_table(("bits", "MB", "predicted error", "", ""), cells)


def draw_curve(curve: Curve) -> Image.Image:
    """A plan's curve as a picture: MB to the right, predicted error upwards by powers of ten."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", SIZE, "white")
    draw, place = ImageDraw.Draw(picture), Axes([p for p in curve.points if p.error > 0])
    draw.rectangle((MARGIN, MARGIN // 2, SIZE[0] - MARGIN // 2, SIZE[1] - MARGIN), outline="#cccccc")
    draw.text((MARGIN, 8), "predicted error of the image (logarithmic) against MB", fill="black")
    line = [place(p) for p in curve.of(MIXED) if p.error > 0]
    if len(line) > 1:
        draw.line(line, fill=COLOURS[MIXED], width=3)
    for point in (*curve.of(UNIFORM), *curve.of(CHOSEN)):
        if point.error > 0:
            mark(draw, place(point), point)
    return picture


def mark(draw: Any, at: tuple[float, float], point: Point) -> None:
    x, y = at
    draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=COLOURS[point.kind])
    text = f"{point.name}: {point.bytes / 1e6:.4g} MB, {point.error:.2g}"
    left = x - 8 - draw.textlength(text) if x > SIZE[0] / 2 else x + 8
    draw.text((left, y - 14), text, fill=COLOURS[point.kind])


class Axes:
    """Point -> its place in the picture."""

    def __init__(self, points: Sequence[Point]) -> None:
        sizes, errors = [p.bytes for p in points] or [0], [log10(p.error) for p in points] or [0.0]
        self.low, self.wide = min(sizes), max(max(sizes) - min(sizes), 1)
        self.top, self.high = max(errors), max(max(errors) - min(errors), 1e-9)

    def __call__(self, point: Point) -> tuple[float, float]:
        x = MARGIN + 15 + (point.bytes - self.low) / self.wide * (SIZE[0] - 1.5 * MARGIN - 30)
        y = MARGIN / 2 + 25 + (self.top - log10(point.error)) / self.high * (SIZE[1] - 1.5 * MARGIN - 40)
        return x, y
