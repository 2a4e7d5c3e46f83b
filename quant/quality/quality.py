"""What a comparison of two models found, as a value: figures, steps, layers, and what was run where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf, isfinite, isnan
from typing import Any

from ..errors import Refused
from ..records import UNFIT, each, maybe, number, text, texts, whole, worded
from ..text import few, text_table
from .sqnr import NOISE_DB, is_noise

VERSION = 1
SHOWN = 5  # layers in a sentence
MOST_DB = 1e5  # of any two numbers that a float64 holds
COLUMNS = ("layer", "shape", "A", "B", "SQNR dB", "relative error")
WEIGHTS, OUTPUTS = "weights", "outputs"


@dataclass(frozen=True)
class Metric:
    """A figure of a comparison. more_is_better: which way a limit holds; same: its value for identical models."""

    name: str
    title: str
    unit: str
    more_is_better: bool
    same: float
    digits: str

    def shown(self, value: float) -> str:
        """The figure as people read it: "31.4 dB", "0.0206", "identical"."""
        return "identical" if value == self.same else f"{value:{self.digits}} {self.unit}".rstrip()


METRICS = {
    metric.name: metric
    for metric in (
        Metric("latent_error", "Latent error, relative", "", False, 0.0, ".3g"),
        Metric("psnr", "PSNR", "dB", True, inf, ".2f"),
        Metric("ssim", "SSIM", "", True, 1.0, ".4f"),
        Metric("lpips", "LPIPS", "", False, 0.0, ".4f"),
        Metric("weight_error", "Error of weights, relative", "", False, 0.0, ".3g"),
        Metric("weight_sqnr", "SQNR of weights", "dB", True, inf, ".2f"),
        Metric("worst_layer", "SQNR of the worst layer", "dB", True, inf, ".2f"),
    )
}


@dataclass(frozen=True)
class Side:
    """One of the two models. name: of its file, without folders; format: of its layers, in a few words; bytes: of its
    weights; seconds_per_step: without the first, which is apart; peak_bytes: of device memory. None: not measured.
    """

    name: str
    format: str = ""
    bytes: int = 0
    seconds_per_step: float | None = None
    first_step_seconds: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class LayerError:
    """Of one layer, b against a. shape: of its weight, ``[out, in]``; sqnr_db: infinite where there is no error;
    relative: Frobenius norm of the error over that of a's.
    """

    name: str
    shape: tuple[int, ...]
    format_a: str
    format_b: str
    sqnr_db: float
    relative: float

    @property
    def noise(self) -> bool:
        """Whether this is no rounding, or not a number."""
        return is_noise(self.sqnr_db)


@dataclass(frozen=True)
class Quality:
    """b against a. metrics: of METRICS by name, those that were measured, the mean over all images; steps: latent error
    after each step; layers: as the model has them; measured: "weights" or "outputs", what a layer's error is of;
    settings: what was sampled, as it was asked for; versions: by library; device: as torch names it.

    >>> quality = quant.Quality(quant.Side("a"), quant.Side("b"), {"psnr": 31.41})
    >>> quant.Quality.from_json(quality.to_json()) == quality
    True
    """

    a: Side
    b: Side
    metrics: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[float, ...] = ()
    layers: tuple[LayerError, ...] = ()
    measured: str = WEIGHTS
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""

    @property
    def noise(self) -> str:
        """The sentence that names the layers that are noise, "" where none is."""
        found = [layer.name for layer in self.layers if layer.noise]
        if not found:
            return ""
        return (
            f"{len(found)} of {len(self.layers)} layers of {self.b.name} are noise, below {NOISE_DB:g} dB, as where "
            f"scales were dropped: {few(found, SHOWN)}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data for JSON, which has no infinity: "inf", as float() reads it."""
        found = worded(asdict(self))
        return {"scaled_fp8_quality": VERSION, **found}

    @classmethod
    def from_json(cls, found: object) -> Quality:
        """What to_json gave; Refused for anything else."""
        try:
            return read(found)
        except UNFIT:
            raise Refused("report: is no report of this version's Compare Models; run the comparison again.") from None

    def table(self) -> str:
        """Warnings and figures, both sides, then one line a layer, the worst first."""
        noise = [self.noise] if self.noise else []
        return "\n\n".join(filter(None, ("\n".join((*noise, *self.warnings)), self.totals(), self.layer_table())))

    def totals(self) -> str:
        figures = [f"{METRICS[name].title}: {METRICS[name].shown(value)}" for name, value in self.metrics.items()]
        sides = [f"{letter}: {described(side)}" for letter, side in (("A", self.a), ("B", self.b))]
        return "\n".join((*sides, *figures, *([f"on {self.device}"] if self.device else [])))

    def layer_table(self) -> str:
        worst = sorted(self.layers, key=lambda layer: -inf if isnan(layer.sqnr_db) else layer.sqnr_db)
        return text_table(COLUMNS, [cells(layer) for layer in worst]) if worst else ""


def described(side: Side) -> str:
    """A side in one line, what was not measured left out."""
    told = [side.format, f"{side.bytes / 1e6:.1f} MB" if side.bytes else ""]
    told += [f"{side.seconds_per_step:.3g} s a step" if side.seconds_per_step is not None else ""]
    told += [f"first step {side.first_step_seconds:.3g} s" if side.first_step_seconds is not None else ""]
    told += [f"peak {side.peak_bytes / 1e6:.0f} MB" if side.peak_bytes is not None else ""]
    return ", ".join((side.name, *filter(None, told)))


def cells(layer: LayerError) -> list[str]:
    shape = "x".join(map(str, layer.shape))
    db = "identical" if layer.sqnr_db == inf else f"{layer.sqnr_db:.1f}"
    return [layer.name, shape, layer.format_a, layer.format_b, db, f"{layer.relative:.3g}"]


##### JSON, which may come from anyone


def read(found: Any) -> Quality:
    """ValueError, TypeError or LookupError for what is no report."""
    if found["scaled_fp8_quality"] != VERSION or found["measured"] not in (WEIGHTS, OUTPUTS):
        raise ValueError
    return Quality(
        a=read_side(found["a"]),
        b=read_side(found["b"]),
        metrics={METRICS[name].name: number(value) for name, value in found["metrics"].items()},
        steps=each(number, found["steps"]),
        layers=each(read_layer, found["layers"]),
        measured=found["measured"],
        warnings=each(text, found["warnings"]),
        settings=texts(found["settings"]),
        versions=texts(found["versions"]),
        device=text(found["device"]),
    )


def read_side(found: Mapping[str, Any]) -> Side:
    step, first = (maybe(number, found[key]) for key in ("seconds_per_step", "first_step_seconds"))
    peak = maybe(whole, found["peak_bytes"])
    return Side(
        name=text(found["name"]),
        format=text(found["format"]),
        bytes=whole(found["bytes"]),
        seconds_per_step=step,
        first_step_seconds=first,
        peak_bytes=peak,
    )


def read_layer(found: Mapping[str, Any]) -> LayerError:
    name, a, b = (text(found[key]) for key in ("name", "format_a", "format_b"))
    decibel = number(found["sqnr_db"])
    if isfinite(decibel) and abs(decibel) > MOST_DB:
        raise ValueError
    return LayerError(
        name=name,
        shape=each(whole, found["shape"]),
        format_a=a,
        format_b=b,
        sqnr_db=decibel,
        relative=number(found["relative"]),
    )
