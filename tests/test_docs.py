"""What the documents say is what the code does."""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
import subprocess
import sys
from argparse import _SubParsersAction
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scaled_fp8 import quant
from scaled_fp8.quant import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = [name for name in quant.__all__ if ">>>" in (getattr(quant, name).__doc__ or "")]


def script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_check_finds_the_commands_in_the_readme() -> None:
    """.ci/run runs what a reader copies: a changed README is a changed check."""
    readme = script(ROOT / ".ci" / "readme.py")
    demo, tests = readme.commands((ROOT / "README.md").read_text())
    assert demo.endswith("scaled-fp8 demo") and tests.endswith("pytest")
    assert readme.commands("```bash\n# a comment\n\none\ntwo\n```\n```bash\nthree\n```\n") == ["one", "two"]
    assert readme.commands("no block") == []


def test_the_list_of_dialects_is_current() -> None:
    writer = script(DOCS / "write_dialects.py")
    assert writer.TARGET.read_text() == writer.text(), "run: python docs/write_dialects.py"


def test_the_page_of_the_python_interface_is_current() -> None:
    writer = script(DOCS / "write_api.py")
    assert writer.TARGET.read_text(encoding="utf-8") == writer.text(), "run: python docs/write_api.py"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bf16 file of one Linear."""
    target = tmp_path / "model.safetensors"
    save_file({"blocks.0.q.weight": torch.randn(64, 64).bfloat16()}, target, {"format": "pt"})
    return target


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_do_what_they_say(name: str, path: Path) -> None:
    """They may use quant, torch, a bf16 file (path) and an empty folder beside it."""
    known = {"quant": quant, "torch": torch, "path": path, "folder": path.parent}
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(quant, name), name, globs=known)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_main_functions_have_an_example() -> None:
    assert {"read_checkpoint", "inspect_checkpoint", "patch_linears", "quantize_component", "quantize", "convert",
            "compare"} <= set(EXAMPLES)  # fmt: skip


def ran(name: str, *arguments: Path) -> str:
    """What an example prints."""
    command = [sys.executable, ROOT / "examples" / f"{name}.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_example_converts_and_reads(path: Path) -> None:
    converted = path.with_name("fp8.safetensors")
    assert "blocks.0.q" in ran("convert_file", path, converted)
    said = ran("read_checkpoint", converted)
    assert "1 quantized layers" in said and "blocks.0.q: float8_e4m3fn per-tensor" in said


@pytest.mark.parametrize("name", ["convert_file", "read_checkpoint"])
def test_an_example_without_files_says_how_it_is_run(name: str) -> None:
    command = [sys.executable, ROOT / "examples" / f"{name}.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"python examples/{name}.py " in done.stderr and "Traceback" not in done.stderr


def test_example_patches_and_restores() -> None:
    said = ran("patch_model")
    error = re.search(r"relative error ([0-9.]+); restored: True", said)
    assert error and 0 < float(error[1]) < 0.06


README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]


def test_the_readme_fits_a_screen_or_three() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_pictures_are_pictures(page: Path) -> None:
    for sign, target in re.findall(r"(!?)\[[^\]]*\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
        if sign:
            with Image.open(page.parent / target) as picture:
                assert min(picture.size) > 100, target


def test_the_readme_has_every_command_and_no_option_that_is_none() -> None:
    (commands,) = (action.choices for action in cli.parser()._actions if isinstance(action, _SubParsersAction))
    assert set(re.findall(r"^\| `scaled-fp8 (\w+)", README, re.M)) == set(commands)
    known = {option for command in commands.values() for option in command._option_string_actions}
    section = README.partition("## Command line")[2].partition("\n## ")[0]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", section)) <= known


def test_the_readme_has_every_node_with_inputs_it_has() -> None:
    nodes = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text()).values()
    known = {node["display_name"]: set(node["inputs"]) for node in nodes}
    section = README.partition("## Nodes")[2].partition("\n`compute`")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    named = [(row[0].split(", "), set(re.findall(r"`(\w+)`", row[-1]))) for row in rows[2:]]
    assert sorted(name for names, _ in named for name in names) == sorted(known)
    for names, inputs in named:
        assert inputs and inputs <= set().union(*(known[name] for name in names)), names
