"""Every tensor of a source is in its conversion, or the conversion is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import Refused, read_checkpoint
from scaled_fp8.quant.checkpoint.keys import SUFFIXES
from scaled_fp8.quant.conversion.converter import convert
from torch import Tensor

WEIGHTS = {suffix for suffix, role in SUFFIXES.items() if role in ("weight", "bias")}
OTHERS = sorted(suffix for suffix in WEIGHTS if SUFFIXES[suffix] == "weight" and suffix != ".weight")
BESIDE = sorted(set(SUFFIXES) - WEIGHTS - {".comfy_quant"}) + [".scale", ".something", ".svd", ".codes_scale"]
FORMATS = ("float8_e4m3fn", "mxfp8", "int8", "float32", "bfloat16")


def weight(seed: int = 0) -> Tensor:
    return torch.randn(64, 64, generator=torch.Generator().manual_seed(seed)).mul(0.05).bfloat16()


def converted(folder: Path, state: dict[str, Tensor], format: str, key: str) -> dict[str, Tensor] | None:
    """What a conversion writes, None where it is refused because of the tensor of that key."""
    save_file(state, folder / "m.safetensors")
    try:
        convert(folder / "m.safetensors", folder / f"{format}.safetensors", format)
    except Refused as refusal:
        assert key in str(refusal)
        assert not (folder / f"{format}.safetensors").exists()
        return None
    read_checkpoint(folder / f"{format}.safetensors")
    return load_file(folder / f"{format}.safetensors")


@pytest.mark.parametrize("shape", [(64,), (64, 8), ()], ids=str)
@pytest.mark.parametrize("suffix", BESIDE)
def test_what_lies_beside_an_unquantized_weight_is_there_or_refused(
    tmp_path: Path, suffix: str, shape: tuple[int, ...]
) -> None:
    key = f"blocks.0.attn.q{suffix}"
    companion = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 3.0
    state = {"blocks.0.attn.q.weight": weight(), key: companion, "blocks.1.attn.q.weight": weight(1)}
    for format in FORMATS:
        out = converted(tmp_path, state, format, key)
        if out is not None:
            assert torch.equal(out[key].float(), companion.to(out[key].dtype).float()), format
            assert "blocks.0.attn.q.weight" in out and "blocks.1.attn.q.weight" in out


@pytest.mark.parametrize("shape", [(64, 64), (2, 2), (1,)], ids=str)
@pytest.mark.parametrize("suffix", OTHERS)
def test_another_weight_of_a_layer_is_there_or_refused(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    state = {"q.weight": weight(), f"q{suffix}": torch.full(shape, 3.0)}
    for format in FORMATS:
        out = converted(tmp_path, state, format, f"q{suffix}")
        assert out is None or set(out) >= {"q.weight", f"q{suffix}".removesuffix(":_data")}


@pytest.mark.parametrize("suffix", [".something", ".input_scale", ".k_scale"])
def test_it_is_there_in_the_common_cases(tmp_path: Path, suffix: str) -> None:
    """The law above is not kept by refusing everything."""
    state = {"blocks.0.attn.q.weight": weight(), f"blocks.0.attn.q{suffix}": torch.full((64,), 3.0)}
    for format in FORMATS:
        assert converted(tmp_path, state, format, suffix) is not None


def test_scales_of_one_go_and_are_told(tmp_path: Path) -> None:
    state = {"q.weight": weight(), "q.weight_scale": torch.ones(()), "q.input_scale": torch.ones(())}
    out = converted(tmp_path, state, "bfloat16", "")
    assert out is not None and set(out) == {"q.weight"}
    assert any("ignored" in reason for reason in read_checkpoint(tmp_path / "m.safetensors").verdict.reasons)


@pytest.mark.parametrize("other", [".weight_scale_2", ".scale_weight", ".pre_quant_scale"])
def test_a_scale_of_one_does_not_hide_another(tmp_path: Path, other: str) -> None:
    state = {"q.weight": weight(), "q.weight_scale": torch.ones(()), f"q{other}": torch.full((), 3.0)}
    for format in FORMATS:
        out = converted(tmp_path, state, format, f"q{other}")
        assert out is None or f"q{other}" in out


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    """Beside a weight in torchao's form, whose bias ends in :_data, a bias of the plain name."""
    state = {"q.weight": weight(), "q.bias": torch.zeros(64), "q.bias:_data": torch.ones(64)}
    for format in FORMATS:
        assert converted(tmp_path, state, format, "are the same parameter") is None


def test_a_companion_of_the_result_does_not_overwrite_a_tensor(tmp_path: Path) -> None:
    """A parameter that is called as a scale of the quantized layer would be."""
    for name in ("weight_scale", "comfy_quant", "weight_s_rel"):
        state = {"q.weight": weight(), "q": weight(3), f"q.{name}": torch.full((64,), 3.0)}
        for format in FORMATS:
            assert converted(tmp_path, state, format, f"q.{name}") is None
