"""The public face to a type checker: classes are types, functions have signatures, what is not there is an error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USER = """
from scaled_fp8 import quant

checkpoint: quant.Checkpoint = quant.read_checkpoint("x")
reveal_type(checkpoint["q"].scale)
reveal_type(quant.convert("a", "b", "int8").checked)
quant.convert("a")
quant.nonesuch
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Line of USER -> what mypy says of it, as somebody sees it who installed the package."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "scaled_fp8").symlink_to(ROOT, target_is_directory=True)
    (folder / "user.py").write_text(USER)
    command = (
        sys.executable,
        "-m",
        "mypy",
        "--config-file=",
        "--ignore-missing-imports",
        "--follow-imports=silent",
        "user.py",
    )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200, check=False)
    lines = re.findall(r"^user\.py:(\d+): \w+: (.*)$", done.stdout, re.M)
    assert lines, done.stdout + done.stderr
    return {int(number): text for number, text in lines}


def test_nodes_and_benchmarks_are_checked_beside_the_engine() -> None:
    tomllib = pytest.importorskip("tomllib")
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    (seen,) = (ROOT / folder for folder in config["files"])
    assert seen.name == "scaled_fp8" and not config.get("ignore_missing_imports")
    links = {link.name: link.resolve() for link in seen.iterdir()}
    assert links == {name: ROOT / name for name in ("__init__.py", "quant", "nodes", "benchmarks")}


def test_classes_are_types(told: dict[int, str]) -> None:
    assert 4 not in told
    assert "torch._tensor.Tensor" in told[5] or "torch.Tensor" in told[5]


def test_functions_have_signatures(told: dict[int, str]) -> None:
    assert '"int"' in told[6] or "builtins.int" in told[6]
    assert "argument" in told[7]


def test_what_is_not_public_is_an_error(told: dict[int, str]) -> None:
    assert "nonesuch" in told[8]
