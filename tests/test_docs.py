"""What the documents say is what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_list_of_dialects_is_current() -> None:
    spec = importlib.util.spec_from_file_location("write_dialects", DOCS / "write_dialects.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.TARGET.read_text() == writer.text(), "run: python docs/write_dialects.py"


def test_every_module_of_the_engine_has_its_room_in_the_readme() -> None:
    rooms = DOCS.with_name("README.md").read_text().split("The rooms of `quant/`")[1].split("Beside the design")[0]
    listed = re.findall(r"`(\w+)`", rooms)
    modules = {path.stem for path in DOCS.with_name("quant").glob("*.py")} - {"__init__"}
    assert sorted(listed) == sorted(modules)
