"""Bytes against predicted error: what each budget buys, the uniform formats, and the one that was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import log10
from typing import TYPE_CHECKING, Any

from ..text import text_table

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

MIXED, UNIFORM, CHOSEN = "mixed", "uniform", "chosen"
KINDS = (MIXED, UNIFORM, CHOSEN)  # the last drawn last
SIZE, MARGIN = (720, 420), 20
LEFT, TOP, RIGHT, BOTTOM = 60, 30, SIZE[0] - 20, SIZE[1] - 40
COLOURS = {MIXED: "#5a8fd6", UNIFORM: "#888888", CHOSEN: "#d6453d"}
TEXTS = {MIXED: "#2f5f9f", UNIFORM: "#555555", CHOSEN: "#b32d26"}  # dark enough to be read on white


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


@dataclass(frozen=True)
class Scale:
    """What is drawn to the right. of: where a point is on it; text: what is said of that."""

    title: str
    of: Callable[[Point], float]
    text: Callable[[float], str]


MEGABYTES = Scale(
    "predicted error of the image against MB of the model", lambda p: p.bytes / 1e6, lambda size: f"{size:.4g} MB"
)
MEASURED = Scale("measured error of the image against bits a weight", lambda p: p.bits, lambda bits: f"{bits:.3g} bits")


def draw_curve(curve: Curve, scale: Scale = MEGABYTES) -> Image.Image:
    """A plan's curve as a picture: the scale to the right, errors upwards by powers of ten."""
    from PIL import Image, ImageDraw

    picture, seen = Image.new("RGB", SIZE, "white"), [p for p in curve.points if p.error > 0]
    draw, axes = ImageDraw.Draw(picture), Axes(seen, scale)
    draw.rectangle((LEFT, TOP, RIGHT, BOTTOM), outline="#cccccc")
    draw.text((LEFT, 8), scale.title, fill="black")
    axes.draw_ticks(draw)
    line = [axes(p) for p in curve.of(MIXED) if p.error > 0]
    if len(line) > 1:
        draw.line(line, fill=COLOURS[MIXED], width=3)
    for point in sorted(seen, key=lambda p: KINDS.index(p.kind)):
        mark(draw, axes(point), point, scale)
    return picture


def mark(draw: ImageDraw.ImageDraw, at: tuple[float, float], point: Point, scale: Scale) -> None:
    """A dot; its name and figures above it, where a falling curve does not go, on the side where there is room."""
    (x, y), size = at, 5 if point.name else 3
    draw.ellipse((x - size, y - size, x + size, y + size), fill=COLOURS[point.kind])
    if point.name:
        text = f"{point.name}: {scale.text(scale.of(point))}, {point.error:.2g}"
        wide = draw.textlength(text)
        left = x + 6 if x + 6 + wide < RIGHT else x - 6 - wide
        draw.text((left, y - 17), text, fill=TEXTS[point.kind])


class Axes:
    """Point -> its place in the picture."""

    def __init__(self, points: Sequence[Point], scale: Scale) -> None:
        self.scale = scale
        sizes, errors = [scale.of(p) for p in points] or [0.0], [log10(p.error) for p in points] or [0.0]
        self.low, self.wide = min(sizes), max(max(sizes) - min(sizes), 1e-9)
        self.top, self.high = max(errors), max(max(errors) - min(errors), 1e-9)

    def __call__(self, point: Point) -> tuple[float, float]:
        return self.across(self.scale.of(point)), self.down(point.error)

    def across(self, size: float) -> float:
        return LEFT + MARGIN + (size - self.low) / self.wide * (RIGHT - LEFT - 2 * MARGIN)

    def down(self, error: float) -> float:
        return TOP + MARGIN + (self.top - log10(error)) / self.high * (BOTTOM - TOP - 2 * MARGIN)

    def draw_ticks(self, draw: ImageDraw.ImageDraw) -> None:
        """Five sizes below, and beside them the errors of one digit that are 1, 2 or 5."""
        for step in range(5):
            size = self.low + self.wide * step / 4
            draw.text((self.across(size), BOTTOM + 6), self.scale.text(size), fill="black", anchor="ma")
        for error in (digit * 10.0**power for power in range(-9, 2) for digit in (1, 2, 5)):
            if TOP < (y := self.down(error)) < BOTTOM:
                draw.line((LEFT, y, RIGHT, y), fill="#eeeeee")
                draw.text((LEFT - 6, y), f"{error:g}", fill="black", anchor="rm")
