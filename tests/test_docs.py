"""What the documents say is what the code does."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


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
