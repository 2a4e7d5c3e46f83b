"""Which side of a weight is out: markers and biases decide, then the architecture, names only where they agree."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import Refused, StateDictSource, inspect_checkpoint, read_checkpoint
from scaled_fp8.quant.checkpoint.orientation import EXPANDS, name_vote
from scaled_fp8.quant.conversion import convert

E4M3 = torch.float8_e4m3fn
# names whose usual meaning is the other way around than these shapes
AGAINST = {"blocks.0.mlp.fc1": (128, 512), "blocks.0.mlp.fc2": (512, 128), "blocks.0.attn.q": (256, 256)}
# Cosmos and AuraFlow: no biases, and names that mean one thing here and another elsewhere
COSMOS = {"blocks.0.adaln_modulation_mlp.1": (64, 256), "blocks.0.adaln_modulation_mlp.2": (768, 64),
          "blocks.0.adaLN_modulation.1": (64, 256), "blocks.0.adaLN_modulation.2": (768, 64),
          "blocks.0.attn.q_proj": (256, 256)}  # fmt: skip
AURA = {"double_layers.0.mlpX.c_fc1": (512, 256), "double_layers.0.mlpX.c_fc2": (512, 256),
        "double_layers.0.mlpX.c_proj": (256, 512), "double_layers.0.attn.w1q": (256, 256)}  # fmt: skip


def model(shapes: dict[str, tuple[int, int]]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) / shape[1] ** 0.5 for name, shape in shapes.items()}


def stored(weights: dict[str, torch.Tensor], marked: bool = False, transposed: bool = False) -> StateDictSource:
    tensors = {}
    for name, weight in weights.items():
        scale = weight.abs().max() / 448
        codes = (weight / scale).to(E4M3)
        tensors |= {f"{name}.weight": codes.T.contiguous() if transposed else codes, f"{name}.weight_scale": scale}
        if marked:
            marker = json.dumps({"format": "float8_e4m3fn"}).encode()
            tensors[f"{name}.comfy_quant"] = torch.tensor(list(marker), dtype=torch.uint8)
    return StateDictSource(tensors)


def assert_read(checkpoint, weights: dict[str, torch.Tensor]) -> None:
    for name, weight in weights.items():
        got = checkpoint[name].dequantize()
        assert got.shape == weight.shape, name
        assert (got - weight).norm() <= 0.04 * weight.norm(), name


@pytest.mark.parametrize("shapes", [AGAINST, COSMOS, AURA], ids=["against", "cosmos", "aura"])
def test_a_marked_file_is_not_doubted_by_names(shapes):
    weights = model(shapes)
    assert_read(read_checkpoint(stored(weights, marked=True)), weights)


@pytest.mark.parametrize("shapes", [COSMOS, AURA], ids=["cosmos", "aura"])
def test_names_that_mean_different_things_refuse_nothing(shapes):
    weights = model(shapes)
    assert_read(read_checkpoint(stored(weights)), weights)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shapes", [AGAINST, COSMOS, AURA], ids=["against", "cosmos", "aura"])
def test_the_architecture_knows_better_than_names(shapes, transposed):
    weights = model(shapes)
    known = {f"{name}.weight": tuple(weight.shape) for name, weight in weights.items()}
    source = stored(weights, transposed=transposed)
    assert_read(read_checkpoint(source, fits=lambda shapes: dict(shapes) == known), weights)


def test_the_architecture_is_asked_about_the_tensors_of_a_model_only():
    asked = []
    weights = model(COSMOS)
    source = stored(weights)
    source.stored |= StateDictSource({"pos_embed": torch.zeros(1, 4, 8)}).stored
    read_checkpoint(source, fits=lambda shapes: bool(asked.append(dict(shapes))))
    known = {f"{name}.weight": tuple(weight.shape) for name, weight in weights.items()} | {"pos_embed": (1, 4, 8)}
    transposed = {k: v[::-1] if len(v) == 2 else v for k, v in known.items()}
    assert asked == [known, transposed]


def test_an_architecture_that_fits_neither_way_decides_nothing():
    weights = model({"blocks.0.mlp.0": (512, 128), "blocks.0.mlp.2": (128, 512)})
    assert_read(read_checkpoint(stored(weights, transposed=True), fits=lambda shapes: False), weights)


def test_a_bias_outranks_the_architecture():
    weights = model({"a": (256, 128)})
    source = stored(weights, transposed=True)
    source.stored |= StateDictSource({"a.bias": torch.zeros(256)}).stored
    assert_read(read_checkpoint(source, fits=lambda shapes: shapes["a.weight"] == (128, 256)), weights)


def test_a_bias_against_a_marker_is_refused_and_turns_no_other_layer():
    # two sides exchanged in the header are byte for byte those of a weight that is stored turned
    source = stored(model({"a": (256, 128), "b": (256, 128)}), marked=True)
    source.stored |= StateDictSource({"a.bias": torch.zeros(128)}).stored
    verdict = inspect_checkpoint(source)
    assert [layer.name for layer in verdict.layers if layer.decision == "refused"] == ["a"]
    assert "marker" in verdict.sentence()


def test_a_plain_cast_that_is_turned_says_so():
    weight = (torch.randn(256, 128, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.float8_e4m3fn)
    source = StateDictSource({"a.weight": weight.T.contiguous(), "a.bias": torch.zeros(256)})
    (layer,) = read_checkpoint(source).verdict.layers
    assert layer.shape == (256, 128)
    assert "[in, out]" in layer.reason


def test_square_weights_in_a_dialect_that_turns_them_stay_doubtful():
    verdict = inspect_checkpoint(stored(model({"a": (128, 128), "b": (128, 128)})))
    assert not verdict.accepted
    assert "square" in verdict.sentence()
    with pytest.raises(Refused, match="square"):
        read_checkpoint(stored(model({"a": (128, 128)})))


def test_the_second_of_two_expanding_layers_is_no_second_of_a_pair():
    assert EXPANDS.search("double_layers.0.mlpC.c_fc2")
    assert not EXPANDS.search("blocks.0.mlp.fc2")
    checkpoint = read_checkpoint(stored(model(AURA)))
    assert name_vote(checkpoint.layers["double_layers.0.mlpX.c_fc2"]) is False


def test_converted_to_fp8_and_back_a_weight_keeps_its_shape(tmp_path):
    weights = {f"{name}.weight": weight.bfloat16() for name, weight in model(AGAINST).items()}
    save_file(weights, tmp_path / "model.safetensors")
    convert(tmp_path / "model.safetensors", tmp_path / "fp8.safetensors", "float8_e4m3fn")
    convert(tmp_path / "fp8.safetensors", tmp_path / "again.safetensors", "bfloat16")
    again = load_file(tmp_path / "again.safetensors")
    for name, weight in weights.items():
        assert again[name].shape == weight.shape
        assert (again[name].float() - weight.float()).norm() <= 0.04 * weight.float().norm()
