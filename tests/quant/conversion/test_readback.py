"""What is written without a conversion, as Save Quantized Model writes: read back by the rules of a reader."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from scaled_fp8.quant import FORMATS, Refused, quantize, read_checkpoint
from scaled_fp8.quant.conversion.readback import check_layers
from scaled_fp8.quant.files.header import info_of
from scaled_fp8.quant.files.writer import write_safetensors
from scaled_fp8.quant.weights.native import description, loads_in_core, native_tensors
from torch import Tensor

SOUND = torch.randn(256, 512, generator=torch.Generator().manual_seed(0)) * 0.03
WEIGHTS = {
    "sound": SOUND,
    "zero": SOUND * 0,
    "rows of zeros": SOUND * (torch.arange(256) % 3 > 0).unsqueeze(1),
    "columns of zeros": SOUND * (torch.arange(512) > 255),
    "nearly zero": SOUND * 1e-3,
}
METHODS = [(f, g) for f in FORMATS.values() for g in f.granularities if loads_in_core(f, g)]


def saved(path: Path, layers: dict[str, Tensor], method: tuple[object, object]) -> None:
    """As the node does it."""
    tensors: dict[str, Tensor] = {"norm.weight": torch.ones(8)}
    markers = {}
    for name, weight in layers.items():
        held = quantize(weight, *method)
        tensors |= native_tensors(held, f"{name}.")
        markers[name] = description(held)
    header = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": markers})}
    plan = [info_of(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
    write_safetensors(path, plan, tensors.items(), header, lambda output: check_layers(output, path, markers))


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m[0].name} {m[1].name}")
def test_what_is_saved_is_read_again_or_not_saved(method: tuple[object, object], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"what was there")
    layers = {"blocks.0.q": SOUND, "blocks.1.q": WEIGHTS[kind]}
    if kind == "nearly zero":
        with pytest.raises(Refused, match=r"blocks\.1\.q"):
            saved(path, layers, method)
        assert os.listdir(tmp_path) == ["m.safetensors"] and path.read_bytes() == b"what was there"
        return
    saved(path, layers, method)
    found = read_checkpoint(path, "all")
    for name, weight in layers.items():
        read = found[name].dequantize()
        assert float((read - weight).norm()) <= 0.2 * float(weight.norm()) + 1e-4, name


def test_a_layer_that_would_not_be_found_is_not_saved(tmp_path: Path) -> None:
    tensors = {"a.weight": SOUND}
    plan = [info_of(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
    path = tmp_path / "m.safetensors"
    with pytest.raises(Refused, match="not be read as quantized"):
        write_safetensors(path, plan, tensors.items(), None, lambda output: check_layers(output, path, ["a"]))
    assert not os.listdir(tmp_path)
