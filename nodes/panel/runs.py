"""The last models that nodes gave out, by node: which kernel each layer is planned on, and what has run since."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ...quant.calibration.curve import Point
from ...quant.kernels.choice import Choice
from ...quant.nn.report import Report, Row, report_choices
from ...quant.nn.stats import Stats
from ...quant.nn.tensor import from_tensor
from ...quant.quality.sqnr import is_noise
from ..host.budget import plan_of
from ..host.parts import Part, errors_of, kind_of, patcher_of
from ..host.plan import KEPT_KERNEL, choices, device_name, plain_rows, scaled_weights, uncounted_rows
from .server import running

KEPT = 16  # runs


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one node gave out. choices: layer -> the choice that counts its calls; holds no tensor of the model.

    part: MODEL, CLIP or VAE, of which a node may give out one each; others: the layers that run by ComfyUI itself or
    stay in high precision; scales: layer -> largest scale; errors: layer -> SQNR in dB, where a node measured it;
    page: the HTML report that the node wrote, as ComfyUI names files; curve: bytes against predicted error, of a model
    that was quantized for a budget.
    """

    node: str
    type: str
    part: str
    file: str
    device: str
    choices: dict[str, Choice]
    others: tuple[Row, ...] = ()
    scales: dict[str, float | None] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    page: dict[str, str] | None = None
    curve: tuple[Point, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.node} {self.part}"

    def report(self) -> Report:
        return Report((*report_choices(self.choices).rows, *self.others))

    def summary(self) -> dict[str, Any]:
        report = self.report()
        return {
            "key": self.key, "node": self.node, "type": self.type, "part": self.part, "file": self.file,
            "device": self.device, "page": self.page, "kernels": report.kernels, "reasons": report.reasons,
            "count": len(report.rows), "calls": sum(row.calls for row in report.rows),
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        rows = [{**asdict(row), **self.numbers(row.layer)} for row in self.report().rows]
        return {**self.summary(), "layers": rows, "curve": [asdict(point) for point in self.curve]}

    def numbers(self, layer: str) -> dict[str, float | str | bool | None]:
        """JSON has no infinity: it is the word that float() reads."""
        error = self.errors.get(layer)
        known = error is None or isfinite(error)
        return {
            "scale": self.scales.get(layer),
            "error": error if known else str(error),
            "noise": error is not None and is_noise(error),
        }


RUNS: OrderedDict[str, Run] = OrderedDict()


def run_of(part: Part, node: str = "", type: str = "", file: str = "", kept: tuple[Row, ...] = ()) -> Run:
    """A MODEL, a CLIP or a VAE as it is now, with what was measured of its layers."""
    model, errors = patcher_of(part), errors_of(patcher_of(part))
    planned, others = choices(model), (*kept, *uncounted_rows(model))
    plan = plan_of(model)
    measured = errors.keys() - planned.keys() - {row.layer for row in others}
    return Run(
        node=node,
        type=type,
        part=kind_of(part),
        file=file,
        device=device_name(model.load_device),
        choices=planned,
        others=(*others, *plain_rows(model, measured)),
        scales={name: largest_scale(weight) for name, weight in scaled_weights(model)},
        errors=errors,
        curve=plan.curve.points if plan else (),
    )


def largest_scale(weight: Tensor) -> float | None:
    """None where the weight has no values yet."""
    scale = from_tensor(weight).scale
    return None if scale.is_meta else float(scale.abs().amax())


def remember(
    node: type[io.ComfyNode],
    part: Part | None,
    file: str = "",
    stats: Stats | None = None,
    page: dict[str, str] | None = None,
) -> None:
    """Keep what a node gives out for the panel, and tell open pages; nothing where no server asks for it.

    stats: of a node that quantized, for the layers it kept; page: of Run.
    """
    identity = getattr(node.hidden, "unique_id", None)
    if identity is None or part is None:
        return
    run = run_of(part, str(identity), node.define_schema().node_id, file, kept_rows(stats))
    keep(replace(run, page=page))


def keep(run: Run) -> None:
    RUNS[run.key] = run
    RUNS.move_to_end(run.key)
    while len(RUNS) > KEPT:
        RUNS.popitem(last=False)
    push(run)


def remember_parts(node: type[io.ComfyNode], parts: Iterable[Part | None], file: str) -> None:
    """The same of a node that gives out several, the last of which is the newest: those without scaled layers not."""
    for part in parts:
        if part is not None and (kind_of(part) == "MODEL" or run_of(part).report().rows):
            remember(node, part, file)


def kept_rows(stats: Stats | None) -> tuple[Row, ...]:
    layers = () if stats is None else (layer for layer in stats.layers if not layer.quantized)
    return tuple(Row(layer=layer.name, kernel=KEPT_KERNEL, reason=layer.reason, shape=layer.shape) for layer in layers)


def push(run: Run) -> None:
    server = running()
    if server is not None:
        server.send_sync("scaled_fp8.report", run.summary())
