"""The last models that nodes gave out, by node: which kernel each layer is planned on, and what has run since."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ...quant.kernels.choice import Choice
from ...quant.nn.report import Report, Row, report_choices
from ...quant.nn.stats import Stats
from ...quant.nn.tensor import from_tensor
from ..host.plan import choices, device_name, scaled_weights, uncounted_rows

KEPT = 16  # nodes
KEPT_KERNEL = "high precision"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one node gave out. choices: layer -> the choice that counts its calls; holds no tensor of the model.

    others: the layers that run by ComfyUI itself or stay in high precision; scales: layer -> largest scale; errors:
    layer -> SQNR in dB, where the node measured it.
    """

    node: str
    type: str
    file: str
    device: str
    choices: dict[str, Choice]
    others: tuple[Row, ...] = ()
    scales: dict[str, float | None] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)

    def report(self) -> Report:
        return Report((*report_choices(self.choices).rows, *self.others))

    def summary(self) -> dict[str, Any]:
        report = self.report()
        return {
            "node": self.node, "type": self.type, "file": self.file, "device": self.device,
            "count": len(report.rows), "calls": sum(row.calls for row in report.rows),
            "kernels": report.kernels, "reasons": report.reasons,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        rows = [{**asdict(row), **self.numbers(row.layer)} for row in self.report().rows]
        return {**self.summary(), "layers": rows}

    def numbers(self, layer: str) -> dict[str, float | None]:
        return {"scale": self.scales.get(layer), "error": self.errors.get(layer)}


RUNS: OrderedDict[str, Run] = OrderedDict()


def run_of(model: io.Model.Type, node: str = "", type: str = "", file: str = "", kept: tuple[Row, ...] = ()) -> Run:
    """A MODEL as it is now; errors are taken from its attachment scaled_fp8_errors, layer -> dB."""
    scales = {name: largest_scale(weight) for name, weight in scaled_weights(model)}
    errors = model.get_attachment("scaled_fp8_errors") or {}
    return Run(
        node=node,
        type=type,
        file=file,
        device=device_name(model.load_device),
        choices=choices(model),
        others=(*kept, *uncounted_rows(model)),
        scales=scales,
        errors=dict(errors),
    )


def largest_scale(weight: Tensor) -> float | None:
    """None where the weight has no values yet."""
    scale = from_tensor(weight).scale
    return None if scale.is_meta else float(scale.abs().amax())


def remember(node: type[io.ComfyNode], model: io.Model.Type | None, file: str = "", stats: Stats | None = None) -> None:
    """Keep what a node gives out for the panel, and tell open pages; nothing where no server asks for it.

    stats: of a node that quantized, for the layers it kept.
    """
    identity = getattr(node.hidden, "unique_id", None)
    if identity is None or model is None:
        return
    run = run_of(model, str(identity), node.define_schema().node_id, file, kept_rows(stats))
    RUNS[run.node] = run
    RUNS.move_to_end(run.node)
    while len(RUNS) > KEPT:
        RUNS.popitem(last=False)
    push(run)


def kept_rows(stats: Stats | None) -> tuple[Row, ...]:
    layers = () if stats is None else (layer for layer in stats.layers if not layer.quantized)
    return tuple(Row(layer=layer.name, kernel=KEPT_KERNEL, reason=layer.reason, shape=layer.shape) for layer in layers)


def push(run: Run) -> None:
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync("scaled_fp8.report", run.summary())
