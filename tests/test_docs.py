"""What the documents say is what the code does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_list_of_dialects_is_current() -> None:
    spec = importlib.util.spec_from_file_location("write_dialects", DOCS / "write_dialects.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.TARGET.read_text() == writer.text(), "run: python docs/write_dialects.py"
