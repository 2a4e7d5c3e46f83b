"""A limit that a comparison has to hold: the figures as a line in its report, read again where the limit is set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isnan

from ..errors import Refused, one_of
from ..records import UNFIT, number, worded
from .quality import METRICS, Quality

LINE = "figures: "


def report_text(quality: Quality) -> str:
    """The report as people read it, its figures once more in a line that require finds."""
    figures = json.dumps(worded(dict(quality.metrics)))
    return "\n\n".join((quality.table(), f"{LINE}{figures}"))


def require(report: str, metric: str, limit: float) -> None:
    """Refused, with the figure, where a report misses the limit or has no such figure."""
    figures, found = figures_of(report), METRICS[one_of("metric", metric, METRICS)]
    if isnan(limit):
        raise Refused(f"limit {limit}: is no number; set the figure that {metric} has to reach.")
    if metric not in figures:
        has = ", ".join(figures) or "no figure at all"
        raise Refused(f"metric {metric}: is not in this report, which has {has}; {MEASURED_BY.get(metric, OTHER)}.")
    value = figures[metric]
    if not (value >= limit if found.more_is_better else value <= limit):
        side = "at least" if found.more_is_better else "at most"
        raise Refused(
            f"{found.title}: is {found.shown(value)} and has to be {side} {limit:g} {found.unit}".rstrip()
            + "; raise the model's precision or the limit."
        )


OTHER = "choose one of those"
MEASURED_BY = {
    "psnr": "connect a VAE to Compare Models",
    "ssim": "connect a VAE to Compare Models",
    "lpips": "connect a VAE to Compare Models and install lpips or piq with its weights",
    "worst_layer": "set attribute of Compare Models to always",
}


def figures_of(report: str) -> Mapping[str, float]:
    """Metric -> figure; Refused for a text without the line that Compare Models writes."""
    line = next((line for line in reversed(report.splitlines()) if line.startswith(LINE)), None)
    try:
        found = json.loads((line or "").removeprefix(LINE))
        return {METRICS[name].name: number(value) for name, value in found.items()}
    except (*UNFIT, RecursionError):
        raise Refused("report: has no line of figures; connect the report of Compare Models.") from None
