"""Settings reach the nodes and run them again; what hurts is said where it is true, and what each method would need."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def said(contract) -> dict:
    return contract("settings")


def test_a_settings_file_decides_where_a_node_does_not(said):
    assert said["common"].startswith("int8 ([quantization] in scaled_fp8.toml)")
    assert "[flux2] in scaled_fp8.toml" in said["family"]
    assert "scaled_fp8.toml" not in said["asked"]


def test_a_setting_that_would_be_ignored_is_refused(said):
    assert "[flux2] encoder would never be used" in said["ignored"]


def test_a_change_of_the_file_runs_a_node_again(said):
    assert said["stamps differ"]


def test_each_method_is_told_beside_what_is_free(said):
    lines = said["asked"].splitlines()
    assert any(line.startswith("nvfp4 ") and line.endswith("fits") for line in lines)
    assert any("The original stays in memory" in line for line in lines)


def test_warnings_are_those_of_the_model_that_runs(said):
    assert "while nothing is compiled" in said["plain"]
    assert "while nothing is compiled" not in said["compiled"]
    assert "compile" not in said["not ours"].splitlines()[0]
