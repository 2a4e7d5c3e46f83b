"""Refusals: one style of sentences, in which the place comes first, then what is wrong there, then what to do."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from scaled_fp8.quant.errors import Refused, first_line, named, one_of

# a place; an argument, or an option as it is typed, and its value; inputs that have no value to be written, as models
# have none; or what it is about, with a capital letter
OPENING = re.compile(r"\{\}|(--)?[a-z_]+ (\{\}|')|(model|model_a, model_b|model_b|report|vae): |[A-Z]")
ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT) for folder in ("quant", "nodes") for path in (ROOT / folder).rglob("*.py"))


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each refusal that is written out, what is filled in as {}."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Refused", "NotListed")) and node.args:
            text, place = node.args[0], "{}: " if any(keyword.arg == "file" for keyword in node.keywords) else ""
            if isinstance(text, ast.JoinedStr):
                filled = (v.value if isinstance(v, ast.Constant) else "{}" for v in text.values)
                yield node.lineno, place + "".join(filled)
            elif isinstance(text, ast.Constant):
                yield node.lineno, place + text.value


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_refusal_is_a_sentence_that_says_what_to_do_or_a_clause_without_an_end(path):
    for line, text in sentences(path):
        if not text.endswith((".", "{}")):
            assert text[0].islower() or text.startswith("{}"), f"{path}:{line} {text!r} has no end"
        elif text.endswith("."):
            assert OPENING.match(text), f"{path}:{line} {text!r} says not where"
            assert ";" in text or ":" in text.removeprefix("{}:"), f"{path}:{line} {text!r} says not what to do"


def test_line_breaks_of_names_do_not_break_a_sentence():
    assert str(Refused("a\nb\r\nc")) == "a b c"


def test_a_refusal_about_a_file_can_be_told_without_its_folder():
    path, clause = Path("private", "m.safetensors"), "is damaged; fetch it again."
    refused = Refused(clause, file=path)
    for told in (refused, pickle.loads(pickle.dumps(refused))):
        assert (str(told), told.by_name) == (f"{path}: {clause}", f"m.safetensors: {clause}")
    assert Refused(clause).by_name == clause


def test_one_of_what_is_known_is_handed_on():
    assert one_of("compute", "auto", ("auto", "upcast")) == "auto"


@pytest.mark.parametrize("value", ["int3", 3, None, ["auto"], "x" * 1000], ids=str)
def test_anything_else_is_refused_with_all_that_is_known(value):
    with pytest.raises(Refused) as told:
        one_of("compute", value, {"auto": 1, "upcast": 2})
    text = str(told.value)
    assert text.startswith("compute ") and text.endswith(" is unknown; choose one of auto, upcast.") and len(text) < 120


def test_other_exceptions_in_a_clause():
    assert first_line(OSError(2, "No such file or directory", "x")) == "No such file or directory"
    assert first_line(ValueError("one.\ntwo")) == "one" and first_line(KeyError()) == "KeyError"
    assert named(RuntimeError("CUDA error\nmore")) == "RuntimeError: CUDA error"
