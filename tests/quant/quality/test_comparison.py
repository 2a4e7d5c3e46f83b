"""Comparisons against errors that are known, and against plain arithmetic."""

from __future__ import annotations

import json
from math import inf, log10
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scaled_fp8.quant import Refused
from scaled_fp8.quant.quality.comparison import compare
from torch import Tensor
from zoo import ZOO


def weights(**changes: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {f"blocks.{i}.q.weight": torch.randn(16, 24, generator=generator) for i in range(3)}
    return state | {"norm.weight": torch.ones(24), "ids": torch.arange(3)} | changes


def saved(path: Path, state: dict[str, Tensor], prefix: str = "") -> Path:
    save_file({prefix + name: tensor for name, tensor in state.items()}, path)
    return path


def test_a_known_error_is_measured(tmp_path: Path) -> None:
    a, b = weights(), weights()
    b["blocks.1.q.weight"] = a["blocks.1.q.weight"] * 1.01
    b["norm.weight"] = a["norm.weight"].clone()
    b["norm.weight"][3] += 0.5
    result = compare(saved(tmp_path / "a.safetensors", a), saved(tmp_path / "b.safetensors", b))
    by_name = {layer.name: layer for layer in result.layers}
    assert set(by_name) == {"blocks.0.q", "blocks.1.q", "blocks.2.q", "norm"}
    assert by_name["blocks.0.q"].relative == 0 and by_name["blocks.0.q"].sqnr == inf
    assert by_name["blocks.1.q"].relative == pytest.approx(0.01, rel=1e-3)
    assert by_name["blocks.1.q"].sqnr == pytest.approx(40, abs=0.01)
    assert by_name["norm"].maximum == 0.5
    assert by_name["norm"].relative == pytest.approx(0.5 / 24**0.5)


def test_overall_is_all_tensors_as_one(tmp_path: Path) -> None:
    a = weights()
    b = {name: tensor + 0.01 if tensor.is_floating_point() else tensor for name, tensor in a.items()}
    overall = compare(saved(tmp_path / "a.safetensors", a), saved(tmp_path / "b.safetensors", b)).overall
    flat = [torch.cat([t.flatten() for t in state.values() if t.is_floating_point()]) for state in (a, b)]
    relative = float((flat[1] - flat[0]).norm() / flat[0].norm())
    assert overall.relative == pytest.approx(relative, rel=1e-5)
    assert overall.sqnr == pytest.approx(-20 * log10(relative), abs=1e-4)
    assert overall.maximum == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("name", ["ltx", "deepseek", "quanto", "comfy-header"])
def test_a_quantized_file_is_compared_by_its_dequantized_weights(
    tmp_path: Path, tiny: dict[str, Tensor], name: str
) -> None:
    specimen = ZOO[name]
    result = compare(saved(tmp_path / "a.safetensors", tiny), specimen.write(tiny, tmp_path / "m.safetensors"))
    assert not result.only_a and not result.only_b
    assert max(layer.relative for layer in result.layers) <= specimen.tolerance
    quantized = set(specimen.quantized(tiny))
    rounded = [layer.relative for layer in result.layers if layer.name in quantized and layer.signal]
    assert len(rounded) > 5 and min(rounded) > 0.01


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "net.", "some.prefix.of.its.own."])
def test_names_match_without_their_prefix(tmp_path: Path, prefix: str) -> None:
    a, b = saved(tmp_path / "a.safetensors", weights()), saved(tmp_path / "b.safetensors", weights(), prefix)
    for result in (compare(a, b), compare(b, a)):
        assert len(result.layers) == 4 and not result.only_a and not result.only_b


def test_a_model_is_found_in_an_all_in_one_file(tmp_path: Path) -> None:
    everything = {f"model.diffusion_model.{name}": tensor for name, tensor in weights().items()}
    everything["first_stage_model.conv.weight"] = torch.ones(4, 4, 3, 3)
    result = compare(saved(tmp_path / "a.safetensors", weights()), saved(tmp_path / "b.safetensors", everything))
    assert len(result.layers) == 4 and result.only_b == ("first_stage_model.conv",)


def test_layers_of_one_file_alone_are_named(tmp_path: Path) -> None:
    a, b = weights(x=torch.ones(2)), weights(y=torch.ones(2))
    result = compare(saved(tmp_path / "a.safetensors", a), saved(tmp_path / "b.safetensors", b))
    assert result.only_a == ("x",) and result.only_b == ("y",)
    assert f"only in {tmp_path / 'b.safetensors'}: y" in result.table()


def test_shapes_that_differ_are_refused(tmp_path: Path) -> None:
    b = weights() | {"norm.weight": torch.ones(25)}
    with pytest.raises(Refused, match=r"norm: is \[24\] in .*a.safetensors and \[25\] in .*b.safetensors; compare"):
        compare(saved(tmp_path / "a.safetensors", weights()), saved(tmp_path / "b.safetensors", b))


def test_files_without_a_common_layer_are_refused(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a.safetensors", {"x": torch.ones(2)}), saved(tmp_path / "b.safetensors", weights())
    with pytest.raises(Refused, match="shares no layer with"):
        compare(a, b)


def test_json_has_no_infinity_and_the_table_every_layer(tmp_path: Path) -> None:
    a = weights(zero=torch.zeros(3))
    b = weights(zero=torch.ones(3))
    result = compare(saved(tmp_path / "a.safetensors", a), saved(tmp_path / "b.safetensors", b))
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    layers = {layer.pop("name"): layer for layer in value["layers"]}
    figures = {"relative_error": None, "sqnr_db": None, "max_error": 1.0}
    assert layers["zero"] == {"shape": [3], "format_a": "float32", "format_b": "float32", **figures}
    assert layers["norm"]["relative_error"] == 0 and value["overall"]["max_error"] == 1.0
    assert all(name in result.table() for name in (*layers, "overall"))
