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
    assert "[flux2] encoder would never be used" in said["ignored"]["encoder"]
    assert "[ltx2] vae would never be used" in said["ignored"]["vae"]
    assert "component_type is not a setting; give the component's own key" in said["ignored"]["component_type"]


def test_other_tools_names_of_a_setting_are_taken(said):
    assert said["old name"].startswith("fp8-dynamic ([quantization] in scaled_fp8.toml)")
    assert said["four bits"].startswith("int4 ([flux2] in scaled_fp8.toml)")


def test_a_change_of_the_file_runs_a_node_again(said):
    assert said["stamps differ"]


def test_each_method_is_told_beside_what_is_free(said):
    lines = said["asked"].splitlines()
    assert any(line.startswith("nvfp4 ") and line.endswith("fits") for line in lines)
    assert any("The original stays in memory" in line for line in lines)


@pytest.mark.parametrize("method", ["fp8-dynamic", "int8", "int8-convrot", "int4", "mxfp8", "nvfp4"])
def test_a_size_told_is_the_size_held(said, method):
    told, held = said["sizes"][method]
    assert told == held


def test_a_warning_about_moving_weights_is_given_where_comfyui_moves_them(said):
    assert "addresses of weights" not in said["compiled"] and "addresses of weights" not in said["moved"]
    assert "addresses of weights" in said["moved by graphs"] and "dynamic VRAM" in said["moved by graphs"]


def test_warnings_are_those_of_the_model_that_runs(said):
    assert "while nothing is compiled" in said["plain"]
    assert "while nothing is compiled" not in said["compiled"]
    assert "compile" not in said["not ours"].splitlines()[0]
