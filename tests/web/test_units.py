"""The panel's pure modules, by node's own test runner; and that the browser gets nothing else than it should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from scaled_fp8.quant.quality.heatmap import COLOURS
from scaled_fp8.quant.quality.sqnr import NOISE_COLOUR, ramp, span

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
WEB, LOCALES = REPOSITORY / "web", REPOSITORY / "locales"
NODE = shutil.which("node")
NODES = tuple(sorted(folder.name for folder in (WEB / "docs").iterdir() if folder.is_dir()))
LANGUAGES = ("en", "zh")


@pytest.mark.skipif(NODE is None, reason="no node to run the web units with")
@pytest.mark.parametrize("file", sorted(path.name for path in HERE.glob("*.test.mjs")))
def test_web_unit(file: str) -> None:
    done = subprocess.run([NODE, "--test", str(HERE / file)], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^# pass [1-9]", done.stdout, re.M) or re.search(r"ℹ pass [1-9]", done.stdout)


@pytest.mark.skipif(NODE is None, reason="no node to run the web units with")
def test_colours_are_those_of_the_servers_picture() -> None:
    asked = f"import {{ colours }} from {json.dumps((WEB / 'colours.mjs').as_uri())};"
    asked += f"console.log(JSON.stringify([...colours({json.dumps(list(COLOURS))})]));"
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", asked], capture_output=True, text=True, timeout=600, check=True
    )
    assert dict(json.loads(done.stdout)) == COLOURS


@pytest.mark.skipif(NODE is None, reason="no node to run the web units with")
def test_colours_of_errors_are_those_of_the_servers_picture() -> None:
    asked = f"import {{ NOISE, ramp, span }} from {json.dumps((WEB / 'colours.mjs').as_uri())};"
    asked += f"const shares = {json.dumps(SHARES)}; const spans = {json.dumps(SPANS)};"
    asked += "console.log(JSON.stringify({ noise: NOISE, ramp: shares.map(ramp), spans: spans.map(span) }));"
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", asked], capture_output=True, text=True, timeout=600, check=True
    )
    found = json.loads(done.stdout)
    assert found["noise"] == NOISE_COLOUR
    assert [hexadecimal(colour) for colour in found["ramp"]] == [ramp(share) for share in SHARES]
    assert found["spans"] == [list(span(values)) for values in SPANS]


SHARES = [i / 40 for i in range(41)] + [-1.0, 2.0]
SPANS = [[], [30.0], [20.0, 45.0], [28.5, 31.0, 30.0]]


def hexadecimal(colour: str) -> str:
    """#rrggbb of "rgb(r,g,b)"."""
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", colour))


def test_one_entry_is_imported_by_the_page() -> None:
    assert [path.name for path in WEB.rglob("*.js")] == ["scaled_fp8.js"]


def test_nothing_is_loaded_from_elsewhere() -> None:
    for path in (*WEB.glob("*.mjs"), *WEB.glob("*.js"), *WEB.glob("*.css")):
        assert not re.search(r"https?://|//cdn|@import|\beval\(|new Function|innerHTML", path.read_text()), path.name


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node", NODES)
def test_node_has_help(node: str, language: str) -> None:
    text = (WEB / "docs" / node / f"{language}.md").read_text(encoding="utf-8")
    assert text.startswith("# ") and text.count("\n## ") >= 3
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize("node", NODES)
def test_node_is_named_in_every_language(node: str) -> None:
    defs = [json.loads((LOCALES / lang / "nodeDefs.json").read_text(encoding="utf-8"))[node] for lang in LANGUAGES]
    assert defs[0].keys() == defs[1].keys() >= {"display_name", "description", "inputs", "outputs"}
    assert defs[0]["inputs"].keys() == defs[1]["inputs"].keys()
    assert defs[0]["outputs"].keys() == defs[1]["outputs"].keys()


@pytest.mark.parametrize("node", NODES)
def test_other_languages_get_the_english_help(node: str) -> None:
    assert (WEB / "docs" / f"{node}.md").read_text() == (WEB / "docs" / node / "en.md").read_text()
