"""A report of two files: figures of plain arithmetic, what is noise, what is left out."""

from __future__ import annotations

from math import inf, log10
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import Refused, compare_weights
from scaled_fp8.quant.conversion.converter import convert
from torch import Tensor


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, digits: dict[str, Tensor]) -> tuple[Path, Path]:
    """digits-flux2 in bf16, and as convert quantizes it."""
    folder = tmp_path_factory.mktemp("files")
    source = saved(folder / "digits-bf16.safetensors", digits)
    convert(source, folder / "digits-fp8.safetensors", "float8_e4m3fn")
    return source, folder / "digits-fp8.safetensors"


def dequantized(path: Path) -> dict[str, Tensor]:
    """By plain torch: codes times weight_scale."""
    state = load_file(path)
    weights = {name: tensor.float() for name, tensor in state.items() if name.endswith("weight")}
    return {name: weight * state.get(f"{name}_scale", torch.tensor(1.0)) for name, weight in weights.items()}


def test_figures_are_those_of_plain_arithmetic(files: tuple[Path, Path]) -> None:
    found = compare_weights(*files)
    a, b = (dequantized(path) for path in files)
    errors = {name: float((b[name] - a[name]).double().norm() / a[name].double().norm()) for name in a}
    by_name = {layer.name: layer for layer in found.layers}
    for name, layer in by_name.items():
        assert layer.relative == pytest.approx(errors[f"{name}.weight"], rel=1e-4)
        wanted = -20 * log10(layer.relative) if layer.relative else inf
        assert layer.sqnr_db == pytest.approx(wanted)
    noise = sum(float((b[name] - a[name]).double().square().sum()) for name in a)
    signal = sum(float(a[name].double().square().sum()) for name in a)
    assert found.metrics["weight_error"] == pytest.approx((noise / signal) ** 0.5, rel=1e-3)
    assert found.metrics["worst_layer"] == min(layer.sqnr_db for layer in found.layers) > 30


def test_it_says_what_the_files_hold_without_their_folders(files: tuple[Path, Path]) -> None:
    found = compare_weights(*files)
    assert (found.a.name, found.b.name) == ("digits-bf16.safetensors", "digits-fp8.safetensors")
    assert "14 float8_e4m3fn per-tensor" in found.b.format and "float8" not in found.a.format
    assert found.a.bytes == sum(t.numel() * t.element_size() for t in load_file(files[0]).values())
    quantized = [layer for layer in found.layers if layer.format_b == "float8_e4m3fn per-tensor"]
    assert len(quantized) == 14 and all(layer.format_a == "bfloat16" for layer in quantized)
    assert str(files[0].parent) not in str(found.to_json())


def test_a_file_against_itself_has_no_error(files: tuple[Path, Path]) -> None:
    found = compare_weights(files[0], files[0])
    assert found.metrics == {"weight_error": 0.0, "weight_sqnr": inf, "worst_layer": inf}
    assert not found.noise and "identical" in found.totals()


def test_dropped_scales_are_noise_and_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    """As a merge or a cast that knows no scales leaves them: codes, taken for values."""
    state, codes = load_file(files[0]), load_file(files[1])
    names = [name for name in codes if name.endswith(".weight_scale")][:2]
    for name in (name.removesuffix("_scale") for name in names):
        state[name] = codes[name].bfloat16()
    found = compare_weights(files[0], saved(tmp_path / "noise.safetensors", state))
    noisy = {layer.name for layer in found.layers if layer.noise}
    assert noisy == {name.removesuffix(".weight_scale") for name in names}
    assert all(name in found.noise for name in noisy) and f"2 of {len(found.layers)}" in found.noise


def test_layers_of_one_file_alone_are_told(tmp_path: Path) -> None:
    state = {"blocks.0.q.weight": torch.randn(8, 8)}
    more = state | {"blocks.1.q.weight": torch.randn(8, 8)}
    found = compare_weights(saved(tmp_path / "a.safetensors", state), saved(tmp_path / "b.safetensors", more))
    assert found.warnings == ("1 tensors are in B alone: blocks.1.q.",)


def test_norms_that_are_the_same_are_left_out(tmp_path: Path) -> None:
    state = {"blocks.0.q.weight": torch.randn(8, 8), "norm.weight": torch.ones(8), "b.bias": torch.ones(8)}
    other = state | {"b.bias": torch.full((8,), 1.5)}
    found = compare_weights(saved(tmp_path / "a.safetensors", state), saved(tmp_path / "b.safetensors", other))
    assert {layer.name for layer in found.layers} == {"blocks.0.q", "b.bias"}


def test_a_convolution_is_compared_in_its_own_shape(tmp_path: Path) -> None:
    state = {f"down_blocks.{i}.conv.weight": torch.randn(32, 32, 3, 3) for i in range(2)}
    source = saved(tmp_path / "a.safetensors", state)
    convert(source, tmp_path / "b.safetensors", "float8_e4m3fn")
    assert all(layer.shape == (32, 32, 3, 3) for layer in compare_weights(source, tmp_path / "b.safetensors").layers)


def test_files_of_two_models_are_refused_naming_both(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = saved(tmp_path / "other.safetensors", {"x.weight": torch.ones(4, 4)})
    with pytest.raises(Refused, match=r"other.safetensors: shares no layer with .*digits-bf16"):
        compare_weights(files[0], other)
