"""What lies beside a scale and enters the weight too is looked at as the scale is: number, sign, length."""

from __future__ import annotations

from math import prod

import pytest
import torch
from safetensors.torch import load_file, save_file
from scaled_fp8 import quant
from zoo import ZOO, tiny_model

LAYER = "blocks.0.attn.proj"
BAD = {"NaN": float("nan"), "infinite": float("inf"), "negative": -1.0, "zero": 0.0}
# (specimen, key) -> what is bad in it: those that multiply are positive, of blocks that may be zeros not negative,
# and what is added is a number
POSITIVE, NUMBERS = tuple(BAD), ("NaN", "infinite")
COMPANIONS = {
    ("nvfp4-pre-quant-scale", "pre_quant_scale"): POSITIVE,
    ("nvfp4-pre-quant-scale", "weight_scale_2"): POSITIVE,
    ("nvfp4-lightx2v", "weight_global_scale"): POSITIVE,
    ("nvfp4-lightx2v-alpha", "alpha"): POSITIVE,
    ("svdquant", "smooth_factor"): POSITIVE,
    ("svdquant", "proj_up"): NUMBERS,
    ("svdquant", "proj_down"): NUMBERS,
    ("nunchaku-flux", "smooth"): POSITIVE,
    ("nunchaku-flux", "lora_up"): NUMBERS,
    ("nunchaku-fp4", "wtscale"): POSITIVE,
    ("nunchaku-fp4-joined", "wcscales"): POSITIVE,
    ("awq-w4a16", "weight_zero"): NUMBERS,
    ("nunchaku-awq", "wzeros"): NUMBERS,
    ("w4a8", "weight_s_channel"): ("NaN", "infinite", "negative"),
    ("w4a8", "weight_s_rel"): ("NaN", "negative"),
}
CASES = [(name, key, bad) for (name, key), kinds in COMPANIONS.items() for bad in kinds]


@pytest.fixture(scope="module")
def tiny():
    """Two layers of the tiny model: the one that is damaged, and one that is not square."""
    return {key: value for key, value in tiny_model().items() if key.startswith((LAYER, "blocks.0.mlp.0"))}


def written(name, tiny, tmp_path):
    return ZOO[name].write(tiny, tmp_path / "model.safetensors")


def changed(name, tiny, tmp_path, **tensors):
    """The file of a specimen with other tensors of one layer."""
    path = written(name, tiny, tmp_path)
    save_file(load_file(path) | {f"{LAYER}.{key}": value for key, value in tensors.items()}, path)
    return path


@pytest.mark.parametrize(("name", "key", "bad"), CASES)
def test_one_bad_value_beside_a_scale_is_refused(name, key, bad, tiny, tmp_path):
    sound = load_file(written(name, tiny, tmp_path))[f"{LAYER}.{key}"]
    values = sound.float()
    values.view(-1)[prod(values.shape) // 2] = BAD[bad]
    with pytest.raises(quant.Refused, match=rf"{LAYER}: (.*{key}|a scale) is "):
        quant.read_checkpoint(changed(name, tiny, tmp_path, **{key: values.to(sound.dtype)}))


@pytest.mark.parametrize(("name", "key"), [("nvfp4-pre-quant-scale", "pre_quant_scale"), ("svdquant", "smooth_factor")])
@pytest.mark.parametrize("size", [1, 64, 129])
def test_companions_are_as_long_as_the_weight_needs(name, key, size, tiny, tmp_path):
    with pytest.raises(quant.Refused, match="values but its weight"):
        quant.read_checkpoint(changed(name, tiny, tmp_path, **{key: torch.ones(size, dtype=torch.bfloat16)}))


@pytest.mark.parametrize("shapes", [((128, 16), (128, 8)), ((64, 16), (128, 16)), ((128, 0), (128, 0))])
def test_halves_of_a_low_rank_part_go_together(shapes, tiny, tmp_path):
    up, down = (torch.full(shape, 0.01, dtype=torch.bfloat16) for shape in shapes)
    with pytest.raises(quant.Refused, match=LAYER):
        quant.read_checkpoint(changed("svdquant", tiny, tmp_path, proj_up=up, proj_down=down))


def test_a_low_rank_part_far_too_large_is_refused(tiny, tmp_path):
    """Its codes and scales are sound, its sum with them is not."""
    up = torch.full((128, 16), 1e4, dtype=torch.bfloat16)
    with pytest.raises(quant.Refused, match=f"{LAYER}: its weight would have"):
        quant.read_checkpoint(changed("svdquant", tiny, tmp_path, proj_up=up))


@pytest.mark.parametrize("key", ["proj_up", "proj_down"])
@pytest.mark.parametrize("name", ["svdquant", "nunchaku", "nunchaku-fp4"])
def test_one_value_of_a_low_rank_part_far_too_large_is_refused(name, key, tiny, tmp_path):
    """As a flipped bit makes it, in rows that no sample of the weight has."""
    path, layer = written(name, tiny, tmp_path), "blocks.0.mlp.0"
    tensors = load_file(path)
    tensors[f"{layer}.{key}"].view(-1)[tensors[f"{layer}.{key}"].numel() // 2] = 1e30
    save_file(tensors, path)
    with pytest.raises(quant.Refused, match=f"{layer}: its weight would have"):
        quant.read_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "key", "factor"),
    [("svdquant", "weight_scale", 1e-5), ("svdquant", "smooth_factor", 1e5), ("nunchaku-flux", "wscales", 1e-5),
     ("awq-w4a16", "weight_scale", 1e-5), ("awq-w4a16", "weight_zero", 1e5), ("nunchaku-awq", "wscales", 1e-4)],
)  # fmt: skip
def test_codes_that_vanish_beside_what_is_added_to_them_are_refused(name, key, factor, tiny, tmp_path):
    """The sum is as large as weights are, and is not the weight."""
    sound = load_file(written(name, tiny, tmp_path))[f"{LAYER}.{key}"]
    with pytest.raises(quant.Refused, match=LAYER):
        quant.read_checkpoint(changed(name, tiny, tmp_path, **{key: (sound.float() * factor).to(sound.dtype)}))


@pytest.mark.parametrize("key", ["weight_scale", "smooth_factor", "proj_up"])
def test_bits_of_bf16_that_are_called_f16_are_refused(key, tiny, tmp_path):
    sound = load_file(written("svdquant", tiny, tmp_path))[f"{LAYER}.{key}"]
    with pytest.raises(quant.Refused, match="a dtype in the header is wrong"):
        quant.read_checkpoint(changed("svdquant", tiny, tmp_path, **{key: sound.view(torch.float16)}))


def test_a_bias_that_fits_no_side_of_a_weight_is_refused(tiny, tmp_path):
    codes = load_file(written("ltx-bare", tiny, tmp_path))[f"{LAYER}.weight"]
    with pytest.raises(quant.Refused, match="its bias of 128 values fits no weight"):
        quant.read_checkpoint(changed("ltx-bare", tiny, tmp_path, weight=codes[None].contiguous()))


def test_a_smoothing_of_fp8_is_as_long_as_the_inputs_of_a_transposed_weight(tiny, tmp_path):
    path = written("ltx-transposed", tiny, tmp_path)
    prefix = "model.diffusion_model.blocks.0.mlp.0"
    inputs, outputs = load_file(path)[f"{prefix}.weight"].shape
    smooth = torch.linspace(0.5, 2, inputs)
    save_file(load_file(path) | {f"{prefix}.pre_quant_scale": smooth}, path)
    read = quant.read_checkpoint(path)[prefix].dequantize() / smooth
    assert (read - tiny["blocks.0.mlp.0.weight"].float()).norm() < 0.04 * tiny["blocks.0.mlp.0.weight"].float().norm()
    save_file(load_file(path) | {f"{prefix}.pre_quant_scale": torch.ones(outputs)}, path)
    with pytest.raises(quant.Refused, match="values but its weight"):
        quant.read_checkpoint(path)


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_scale_of_a_bias_is_refused(bad, tiny, tmp_path):
    bias = torch.full((128,), 96.0).to(torch.float8_e4m3fn)
    scales = {"bias": bias, "bias_scale": torch.tensor(BAD[bad])}
    with pytest.raises(quant.Refused, match="bias_scale"):
        quant.read_checkpoint(changed("ltx-bare", tiny, tmp_path, **scales))


@pytest.mark.parametrize("book", [torch.zeros(16), torch.full((16,), 3.0), torch.tensor([*range(15), float("nan")])])
def test_a_codebook_of_one_value_or_none_is_refused(book, tiny, tmp_path):
    with pytest.raises(quant.Refused, match="codebook"):
        quant.read_checkpoint(changed("w4a8", tiny, tmp_path, weight_codebook=book))


@pytest.mark.parametrize("shape", [(2, 0), (0,), (128, 0)])
def test_scales_without_elements_are_refused(shape, tiny, tmp_path):
    with pytest.raises(quant.Refused, match="has no elements"):
        quant.read_checkpoint(changed("ltx-bare", tiny, tmp_path, weight_scale=torch.zeros(shape)))


def test_bytes_without_elements_are_refused(tmp_path):
    tensors = {"a.weight": torch.zeros(0, 16, dtype=torch.uint8), "a.weight_scale": torch.ones(())}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(quant.Refused, match="has no elements"):
        quant.read_checkpoint(tmp_path / "model.safetensors")


def test_flux_fp8_api_is_read_by_its_reciprocal_whatever_shape_its_scale_has(tiny, tmp_path):
    reciprocal = load_file(written("flux-fp8-api", tiny, tmp_path))[f"{LAYER}.scale_reciprocal"]
    scale = (1 / reciprocal).expand(128, 1).clone()
    found = quant.read_checkpoint(changed("flux-fp8-api", tiny, tmp_path, scale=scale))[LAYER]
    original = tiny[f"{LAYER}.weight"].float()
    assert (found.dequantize() - original).norm() < 0.04 * original.norm()
