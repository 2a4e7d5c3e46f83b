"""The version that files and reports name is the one that is published."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from scaled_fp8.quant.versions import PACKAGE, versions

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_version_is_the_projects():
    (published,) = re.findall(r'^version = "(.+)"$', PROJECT.read_text(), re.M)
    assert published == PACKAGE


def test_libraries_that_are_not_there_are_left_out():
    found = versions("torch", "no-such-library")
    assert found == {"scaled-fp8": PACKAGE, "torch": torch.__version__}
