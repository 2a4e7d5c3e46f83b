"""A report as one page that needs nothing but a browser: pictures inside, no network, no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from math import inf, isnan
from pathlib import Path

from ..errors import Refused, first_line
from ..files.atomic import check_targets, write_whole
from ..text import printable
from .charts import curve, heat_map, legend, script, scrolled, text
from .pictures import Pair, data_uri
from .quality import METRICS, OUTPUTS, WEIGHTS, LayerError, Quality, Side
from .sqnr import shown

MEASURED = {WEIGHTS: "each layer's weights", OUTPUTS: "what each layer puts out, both fed the same"}


def write_page(path: str | os.PathLike[str], quality: Quality, pairs: Sequence[Pair] = ()) -> None:
    """The page at path, whole or not at all; pairs: what both models made, an entry a seed."""
    written(path, page(quality, pairs))


def write_json(path: str | os.PathLike[str], quality: Quality) -> None:
    """The same figures as JSON, whole or not at all."""
    written(path, json.dumps(quality.to_json(), indent=1, allow_nan=False) + "\n")


def written(path: str | os.PathLike[str], content: str) -> None:
    data = content.encode(errors="backslashreplace")
    try:
        check_targets({Path(path): len(data)})
        write_whole(Path(path), data)
    except (OSError, ValueError) as problem:
        raise Refused(f"{path}: the report cannot be written: {first_line(problem)}.") from None


def page(quality: Quality, pairs: Sequence[Pair] = ()) -> str:
    """The report as HTML."""
    title = f"{quality.b.name} against {quality.a.name}"
    body = "\n".join(part for part in parts(quality, pairs) if part)
    style, script = asset("page.css"), asset("page.js")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy(style, script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{text(title)}</h1>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def policy(style: str, script: str) -> str:
    """That nothing is loaded, and that no style or script runs but these."""
    return f"default-src 'none'; img-src data:; style-src '{digest(style)}'; script-src '{digest(script)}'"


def digest(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


@cache
def asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


##### Parts


def parts(quality: Quality, pairs: Sequence[Pair]) -> Iterator[str]:
    """The sections of the page of a comparison."""
    if quality.noise:
        yield f'<p class="noise">{text(quality.noise)}</p>'
    yield from (f'<p class="warning">{text(warning)}</p>' for warning in quality.warnings)
    yield section("Figures", figures(quality))
    yield section("Pictures", "".join(pictures(pair, i, quality) for i, pair in enumerate(pairs, 1)))
    yield section("Error by step", curve(quality.steps) if quality.steps else "")
    yield section("Error by layer", layers(quality))
    yield section("Run", terms(run_of(quality)))


def section(title: str, content: str) -> str:
    """Nothing where there is nothing to show."""
    return f"<section><h2>{text(title)}</h2>\n{content}\n</section>" if content else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """numbers: how many columns at the end hold numbers. The first cell of a row is its name."""
    kinds = [' class="number"' if i >= len(columns) - numbers else "" for i in range(len(columns))]
    named = [f'<th scope="col"{kind}>{text(name)}</th>' for name, kind in zip(columns, kinds, strict=True)]
    lines = "\n".join(f"<tr>{cells(row, kinds)}</tr>" for row in rows)
    return f"<table><thead><tr>{''.join(named)}</tr></thead><tbody>{lines}</tbody></table>"


def cells(row: Sequence[str], kinds: Sequence[str]) -> str:
    rest = (f"<td{kind}>{text(value)}</td>" for value, kind in zip(row[1:], kinds[1:], strict=True))
    return "".join((f'<th scope="row">{text(row[0])}</th>', *rest))


def terms(pairs: Mapping[str, str]) -> str:
    entries = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs.items() if value)
    return f"<dl>{entries}</dl>" if entries else ""


##### Figures


def figures(quality: Quality) -> str:
    """What was measured of both together, then of each."""
    measured = [(METRICS[name].title, METRICS[name].shown(value)) for name, value in quality.metrics.items()]
    together = table(("B against A", "value"), measured, 1) if measured else ""
    return f"{together}\n{sides(quality.a, quality.b)}"


def sides(a: Side, b: Side) -> str:
    """What the page says of both models: files, sizes, times."""
    rows = [
        ("file", a.name, b.name, ""),
        ("layers", a.format, b.format, ""),
        ("bytes of weights", *compared(a.bytes or None, b.bytes or None, megabytes)),
        ("a step", *compared(a.seconds_per_step, b.seconds_per_step, seconds)),
        ("the first step", *compared(a.first_step_seconds, b.first_step_seconds, seconds)),
        ("peak memory", *compared(a.peak_bytes, b.peak_bytes, megabytes)),
    ]
    return table(("of each", "A", "B", "B / A"), [row for row in rows if row[1] or row[2]])


def compared(a: float | None, b: float | None, shown: Callable[[float], str]) -> tuple[str, str, str]:
    """Both as people read them, and their ratio; "" for what was not measured."""
    ratio = f"{b / a:.2f}" if a and b is not None else ""
    return "" if a is None else shown(a), "" if b is None else shown(b), ratio


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"


def seconds(time: float) -> str:
    return f"{time:.3g} s"


def run_of(quality: Quality) -> dict[str, str]:
    """What was run where, and with which code."""
    made = {f"version of {name}": number for name, number in quality.versions.items()}
    return {"device": quality.device, **quality.settings, **made}


##### Pictures


def pictures(pair: Pair, number: int, quality: Quality) -> str:
    """Both pictures under a slider, and how they differ."""
    a, b = (f'alt="{text(f"{letter}: {side.name}")}"' for letter, side in (("A", quality.a), ("B", quality.b)))
    said = f"the difference, {pair.factor} times" if pair.factor else "no pixel differs"
    slider = f'<label for="share-{number}">A to the left, B to the right of the line (picture {number})</label>'
    slider += f'<input type="range" id="share-{number}" min="0" max="100" value="50">'
    stack = f'<img {b} src="{data_uri(pair.b)}"><img class="over" {a} src="{data_uri(pair.a)}">'
    compared = f'<figure class="compared"><div class="stack">{stack}</div><figcaption>{slider}</figcaption></figure>'
    shown = f'<img alt="{text(said)}" src="{data_uri(pair.difference)}">'
    return f'<div class="pictures">{compared}<figure>{shown}<figcaption>{text(said)}</figcaption></figure></div>'


##### Layers


def layers(quality: Quality) -> str:
    """A heat map for the eye, and the same figures as a table."""
    if not quality.layers:
        return ""
    said = f"Signal to quantization noise of {MEASURED[quality.measured]}; more is better."
    rows = [row(layer) for layer in sorted(quality.layers, key=rank)]
    figures = table(("layer", "shape", "A", "B", "SQNR", "relative error"), [], 2)
    # its rows are made when it is opened: thousands would hold up the rest of the page
    whole = scrolled("table of layers", figures) + script(rows, "rows")
    more = f"<details><summary>{len(rows)} layers, the worst first</summary>{whole}</details>"
    return f"<p>{text(said)}</p>{legend(quality.layers)}{heat_map(quality.layers)}{more}"


def rank(layer: LayerError) -> float:
    return -inf if isnan(layer.sqnr_db) else layer.sqnr_db


def row(layer: LayerError) -> tuple[str, ...]:
    shape = " x ".join(map(str, layer.shape))
    told = layer.name, shape, layer.format_a, layer.format_b, shown(layer.sqnr_db), f"{layer.relative:.3g}"
    return tuple(map(printable, told))
