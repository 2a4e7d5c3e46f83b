"""Settings: what overrides what, where each value came from, and that nothing unknown passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from scaled_fp8.quant import Refused
from scaled_fp8.quant.recipes.methods import method_named
from scaled_fp8.quant.recipes.settings import (
    BUILT_IN,
    VALUES,
    Settings,
    checked,
    find_settings,
    parsed,
    read_settings,
)

TEXT = """
[quantization]
transformer = "fp8"
granularity = "per-tensor"

[flux2]
transformer = "int8"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "scaled_fp8.toml"
    path.write_text(TEXT)
    return read_settings(path)


@pytest.mark.parametrize(
    ("arguments", "value", "origin"),
    [
        (("transformer", "flux2", "int4"), "int4", "argument"),
        (("transformer", "flux2"), "int8", "[flux2] in scaled_fp8.toml"),
        (("transformer", "wan"), "fp8", "[quantization] in scaled_fp8.toml"),
        (("granularity", "flux2"), "per-tensor", "[quantization] in scaled_fp8.toml"),
        (("transformer",), "fp8", "[quantization] in scaled_fp8.toml"),
        (("encoder", "flux2"), BUILT_IN["encoder"], "built in"),
    ],
    ids=str,
)
def test_argument_then_family_then_common_then_built_in(
    settings: Settings, arguments: tuple[str, ...], value: str, origin: str
) -> None:
    found = settings.resolve(*arguments)
    assert (found.value, found.origin) == (value, origin)
    assert str(found) == f"{value} ({origin})"


def test_without_a_file_all_is_built_in(tmp_path: Path) -> None:
    for settings in (read_settings(), find_settings(tmp_path)):
        assert {key: settings.resolve(key).value for key in VALUES} == BUILT_IN


def test_a_folder_has_the_file_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "scaled_fp8.toml").write_text(TEXT)
    assert find_settings(tmp_path).resolve("transformer").value == "fp8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[quantisation]\ntransformer = 'fp8'", "table 'quantisation' is unknown; choose one of quantization"),
        ("[quantization]\nunet = 'fp8'", r"\[quantization\] key 'unet' is unknown; choose one of encoder, transformer"),
        ("[flux2]\ntransformer = 'fp9'", r"\[flux2\] transformer 'fp9' is unknown; choose one of none"),
        ("[quantization]\ngranularity = 3", "granularity 3 is unknown"),
        ("transformer = 'fp8'", "table 'transformer' is unknown"),
        ("flux2 = 'fp8'", "flux2 'fp8' is no table"),
        ("[quantization", "is not TOML"),
        (
            "[ltx2]\nencoder = 'int8'",
            r"\[ltx2\] encoder would never be used: ltx2 is a family of the component transformer",
        ),
        ("[quantization]\ncomponent_type = 'vae'", "component_type is not a setting; give the component's own key"),
    ],
    ids=["table", "key", "value", "type", "outside", "no table", "syntax", "never used", "no key of its own"],
)
def test_unknown_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(Refused, match=message):
        read_settings(path)


def test_a_file_that_is_named_must_exist_and_be_text(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="gone.toml: cannot be read: No such file"):
        read_settings(tmp_path / "gone.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Refused, match="bytes.toml: is not TOML"):
        read_settings(tmp_path / "bytes.toml")


def test_unknown_arguments_are_refused_too(settings: Settings) -> None:
    with pytest.raises(Refused, match="transformer 'fp4' is unknown"):
        settings.resolve("transformer", argument="fp4")
    with pytest.raises(Refused, match="is unknown; choose one of encoder"):
        settings.resolve("unet")


def test_what_other_tools_call_a_key_or_a_method_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "scaled_fp8.toml"
    path.write_text("[quantization]\nquantization_transformer = '8bit'\nquantization_encoder = 'fp8-filtered'")
    settings = read_settings(path)
    assert method_named(settings.resolve("transformer").value).name == "int8"
    assert method_named(settings.resolve("encoder").value).name == "fp8-dynamic"


def test_the_documented_example_is_read() -> None:
    text = (Path(__file__).parents[3] / "docs" / "settings.md").read_text(encoding="utf-8")
    tables = parsed(text.split("```toml")[1].split("```")[0])
    settings = Settings(checked(tables, "example"), "example")
    assert settings.resolve("transformer", "ltx2").value == "int8"
    assert settings.resolve("transformer", "wan").value == "fp8-dynamic"


def test_who_asks_may_say_what_is_built_in() -> None:
    assert read_settings().resolve("encoder", None, None, "auto").value == "auto"


def test_one_setting_under_two_names_is_refused(tmp_path) -> None:
    (tmp_path / "s.toml").write_text('[quantization]\nencoder = "int8"\nquantization_encoder = "none"\n')
    with pytest.raises(Refused, match="same setting as encoder"):
        read_settings(tmp_path / "s.toml")
