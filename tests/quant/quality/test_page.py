"""The page of a report: whole, its own, and harmless whatever files and layers are called. Browsers: tests/web."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from math import inf, nan
from pathlib import Path

import pytest
import torch
from scaled_fp8.quant import METRICS, LayerError, Quality, Refused, Side, pairs_of, write_json, write_page
from scaled_fp8.quant.quality.page import asset, page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'\u202egnp\u2066\x1b[31m\x00`&amp;"
VOID = {"meta", "img", "input"}


def quality(name: str) -> Quality:
    layers = tuple(
        LayerError(f"{where}{name}", (8, 8), name, name, decibel, 0.1)
        for where, decibel in (("blocks.0.", 30.0), ("", inf), ("blocks.1.", -20.0), ("b.2.", nan))
    )
    side = Side(name, name, 8, 0.5, 1.0, 9)
    metrics = dict.fromkeys(METRICS, 0.5)
    return Quality(side, side, metrics, (0.1, 0.2), layers, "outputs", (name,), {name: name}, {name: name}, name)


class Page(HTMLParser):
    """Tags, attributes and text of a page; AssertionError where tags are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_hostile_names_are_text() -> None:
    pairs = pairs_of(torch.rand(1, 4, 4, 3), torch.rand(1, 4, 4, 3))
    hostile, harmless = Page(page(quality(HOSTILE), pairs)), Page(page(quality("name"), pairs))
    # neither a tag nor an attribute more than with a name of letters
    assert [(tag, list(attributes)) for tag, attributes in hostile.tags] == [
        (tag, list(attributes)) for tag, attributes in harmless.tags
    ]
    html = page(quality(HOSTILE), pairs)
    assert all(c.isprintable() or c == "\n" for c in html)


def test_a_page_needs_nothing_from_elsewhere() -> None:
    pairs = pairs_of(torch.rand(2, 4, 4, 3), torch.rand(2, 4, 4, 3))
    found = Page(page(quality("a"), pairs))
    sources = [value for _, attributes in found.tags for key, value in attributes.items() if key in ("src", "href")]
    assert len(sources) == 6 and all(str(source).startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?:|//cdn|@import|url\(|eval\(|innerHTML", asset("page.css") + asset("page.js"))
    policies = [a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies and "default-src 'none'" in str(policies[0])


def test_every_figure_is_on_the_page() -> None:
    found = "".join(Page(page(quality("model"))).text)
    for metric in METRICS.values():
        assert metric.title in found and metric.shown(0.5) in found
    for said in ("2 of 4 layers of model are noise", "0.5 s", "1 s", "version of model", "Error by step"):
        assert said in found
    assert "Pictures" not in found


def test_identical_models_are_said_to_be_identical() -> None:
    same = Quality(Side("a"), Side("b"), {name: metric.same for name, metric in METRICS.items()})
    image = torch.rand(1, 4, 4, 3)
    found = "".join(Page(page(same, pairs_of(image, image))).text)
    assert found.count("identical") == len(METRICS) and "no pixel differs" in found


def test_every_picture_and_control_has_a_name() -> None:
    image = torch.rand(2, 4, 4, 3)
    tags = Page(page(quality("model"), pairs_of(image, image))).tags
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    labelled = {attributes.get("for") for tag, attributes in tags if tag == "label"}
    assert labelled == {attributes["id"] for tag, attributes in tags if tag == "input"} and len(labelled) == 2
    assert all("aria-label" in a or a.get("aria-hidden") for tag, a in tags if tag == "svg")


def colours(css: str) -> list[dict[str, str]]:
    """The variables of the light theme and of the dark one."""
    return [dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(theme: int) -> None:
    """Text in SVG too, of which browsers' checkers say that they cannot tell."""
    of = colours(asset("page.css"))[theme]
    for paper in ("paper", "raised"):
        assert all(contrast(of[ink], of[paper]) >= 4.5 for ink in ("ink", "soft"))
    assert contrast(of["bad"], of["bad-paper"]) >= 4.5 and contrast(of["ink"], of["warn-paper"]) >= 4.5
    assert contrast(of["accent"], of["paper"]) >= 3


def test_a_page_is_written_whole_or_refused(tmp_path: Path) -> None:
    write_page(tmp_path / "a.html", quality("\ud800 lone"))
    assert "\\ud800 lone" in (tmp_path / "a.html").read_text(encoding="utf-8")
    for target in (tmp_path, tmp_path / "none" / "a.html"):
        with pytest.raises(Refused):
            write_page(target, quality("x"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_json_has_the_same_figures(tmp_path: Path) -> None:
    import json

    write_json(tmp_path / "a.json", Quality(Side("a"), Side("b"), {"psnr": inf}))
    found = Quality.from_json(json.loads((tmp_path / "a.json").read_text(encoding="utf-8")))
    assert found == Quality(Side("a"), Side("b"), {"psnr": inf})
