"""What a file would need by each method, told from its header."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8 import quant
from scaled_fp8.quant.checkpoint.read import survey
from scaled_fp8.quant.cli import main
from scaled_fp8.quant.recipes.memory import estimates
from scaled_fp8.quant.recipes.sizes import compare_parts, file_estimates

DATA = Path(__file__).parents[2] / "data" / "digits-flux2-bf16.safetensors"


@pytest.fixture
def all_in_one(tmp_path: Path) -> Path:
    """The digits model quantized to FP8 by rows, with a text encoder beside it."""
    tensors = {}
    for name, tensor in load_file(DATA).items():
        key = f"model.diffusion_model.{name}"
        if tensor.ndim == 2 and "blocks." in name:
            weight = quant.quantize(tensor, quant.FORMATS["float8_e4m3fn"], quant.PerRow())
            tensors |= {key: weight.codes, f"{key}_scale": weight.scale}
        else:
            tensors[key] = tensor
    layer = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight"
    save_file({**tensors, layer: torch.randn(64, 64).bfloat16()}, tmp_path / "both.safetensors")
    return tmp_path / "both.safetensors"


def test_a_quantized_file_needs_what_its_model_would(all_in_one: Path) -> None:
    found = file_estimates(survey(all_in_one, "sample").shapes())
    assert sorted(found) == ["encoder", "transformer"]
    assert found["transformer"] == estimates({name: tuple(t.shape) for name, t in load_file(DATA).items()})
    assert next(row for row in found["encoder"] if row.method == "none").resident == 64 * 64 * 2


def test_the_tables_say_what_fits(all_in_one: Path) -> None:
    assert "too much" not in compare_parts(survey(all_in_one, "sample").shapes(), 1 << 40)
    assert "fits" not in compare_parts(survey(all_in_one, "sample").shapes(), 0).replace("of 0.000 GB free", "")


def test_inspect_tells_it(all_in_one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(all_in_one)]) == 0
    assert "transformer in memory:" in capsys.readouterr().out
    assert main(["inspect", "--json", str(all_in_one)]) == 0
    told = json.loads(capsys.readouterr().out)["memory"]["transformer"]
    assert [row["method"] for row in told][:2] == ["none", "fp8-dynamic"]
    assert told[0]["peak"] > told[1]["resident"]
