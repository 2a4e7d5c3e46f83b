"""Pages of reports in a real browser, from the disk: quiet, without a network, for keys as for a pointer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest
import torch
from browser import CHROMIUM, NODE, absent, node_modules
from scaled_fp8.quant import METRICS, LayerError, Quality, Side, pairs_of, write_page

pytestmark = pytest.mark.skipif(absent() is not None, reason=str(absent()))
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'\u202egnp\x1b[31m"
LAYERS = 2000
NOISE = "transformer_blocks.7.linear3"


def many() -> Quality:
    """A large model of which one layer is noise, and a name that is not harmless."""
    names = [f"transformer_blocks.{i // 40}.linear{i % 40}" for i in range(LAYERS - 1)] + [HOSTILE]
    layers = tuple(
        LayerError(name, (64, 64), "bfloat16", "float8_e4m3fn per-row", -40.0 if name == NOISE else 20 + i % 17, 0.1)
        for i, name in enumerate(names)
    )
    sides = Side("a.safetensors", "bf16", 2, 0.5, 1.0, 9), Side(HOSTILE, "fp8", 1, 0.4, 1.0, 5)
    metrics = dict.fromkeys(METRICS, 0.5)
    return Quality(*sides, metrics, tuple(0.01 * i for i in range(20)), layers, "outputs", (HOSTILE,), {"seed": "7"})


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("pages")
    a = torch.rand(2, 48, 64, 3)
    write_page(folder / "many.html", many(), pairs_of(a, torch.stack([1 - a[0], a[1]])))
    same = LayerError("blocks.0.q", (2, 2), "", "", inf, 0.0)
    write_page(folder / "few.html", Quality(Side("a"), Side("b"), {"psnr": inf}, layers=(same,)))
    asked = {
        "modules": str(node_modules(tmp_path_factory.mktemp("npm"), "playwright-core", "axe-core")),
        "chromium": CHROMIUM,
        "pages": {path.stem: path.as_uri() for path in folder.glob("*.html")},
    }
    (folder / "request.json").write_text(json.dumps(asked))
    command = [str(NODE), str(Path(__file__).with_name("report_page.mjs")), str(folder / "request.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SHOWN = [f"{name} {theme}" for name in ("many", "few") for theme in ("light", "dark")]


@pytest.mark.parametrize("shown", SHOWN)
def test_nothing_is_on_the_console_and_nothing_is_fetched(seen: dict[str, dict], shown: str) -> None:
    assert seen[shown]["noise"] == []
    assert len(seen[shown]["requests"]) == 1 and seen[shown]["requests"][0].startswith("file://")


@pytest.mark.parametrize("shown", SHOWN)
def test_axe_finds_nothing(seen: dict[str, dict], shown: str) -> None:
    assert seen[shown]["violations"] == []
    assert {"color-contrast", "document-title", "html-has-lang"} <= set(seen[shown]["passes"])


def test_both_themes_are_there(seen: dict[str, dict]) -> None:
    assert seen["many light"]["background"] != seen["many dark"]["background"]


def test_pictures_are_inside_and_named(seen: dict[str, dict]) -> None:
    pictures = seen["many light"]["pictures"]
    assert [width for _, width in pictures] == [64] * 6
    assert [alt for alt, _ in pictures].count("A: a.safetensors") == 2 and all(alt for alt, _ in pictures)


def test_the_slider_obeys_keys_and_pointer(seen: dict[str, dict]) -> None:
    found = seen["many light"]
    assert len(set(found["shares"])) == 4
    assert found["value"] == "75" and "A to the left" in found["name"]


def test_the_table_has_every_layer_the_worst_first(seen: dict[str, dict]) -> None:
    rows = seen["many dark"]["rows"]
    assert len(rows) == LAYERS and rows[0][0] == NOISE and rows[0][4] == "-40.0 dB"
    assert any("alert(1)" in row[0] and "\\u202e" in row[0] for row in rows)
    assert seen["few light"]["rows"][0][4] == "identical"


def test_the_cell_that_is_pointed_at_is_told(seen: dict[str, dict]) -> None:
    assert seen["many light"]["told"].startswith("transformer_blocks.0.linear0: 20.0 dB, bfloat16 against float8")


def test_two_thousand_layers_are_few_elements_until_the_table_is_asked_for(
    seen: dict[str, dict], record_testsuite_property: Callable[[str, float], None]
) -> None:
    """How many milliseconds they take to draw is a figure of the run, for people: machines differ."""
    drawn = min(seen[f"many {theme}"]["drawn"] for theme in ("light", "dark"))
    record_testsuite_property("milliseconds for a page of 2,000 layers", drawn)
    assert seen["many light"]["elements"] < 600
