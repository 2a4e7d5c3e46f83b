"""Every dialect of the zoo decodes to the original weights, or is refused with the producer's name."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from scaled_fp8 import quant
from zoo import CORE, ZOO, Recipe, calibrated, constant, layerwise, tiny_model, with_convs

DECODED = [name for name, specimen in ZOO.items() if specimen.expected == "decoded"]
REFUSED = [name for name, specimen in ZOO.items() if specimen.expected == "refused"]


def only(mapping, name):
    """The one key of mapping that ends with name, whatever prefix the file adds."""
    found = [key for key in mapping if key == name or key.endswith(f".{name}")]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


def error(found, expected):
    """Relative error; of zeros the absolute one."""
    expected = expected.float()
    return ((found.float() - expected).norm() / (expected.norm() or 1)).item()


def same_granularity(weight, expected):
    # one scale a row is also one group a row, one scale a tensor one block
    alike = weight.scale.numel() == 1 or (expected == "group" and weight.scale.numel() == weight.shape[0])
    return expected in ("any", "either", weight.granularity.name) or alike


def check_layers(checkpoint, specimen, model):
    for layer in specimen.quantized(model):
        name, original = only(checkpoint, layer), model[f"{layer}.weight"]
        weight = checkpoint[name]
        # a convolution's inputs and its kernel are the columns of its codes
        assert checkpoint.spec(name).full_shape == tuple(original.shape), layer
        assert weight.shape == tuple(original.flatten(1).shape), layer
        assert error(weight.dequantize(), original.flatten(1)) <= specimen.tolerance, layer
        assert same_granularity(weight, specimen.granularity), (layer, weight.granularity, weight.scale.shape)
        assert specimen.format in ("any", weight.format.name), layer


def check_rest(checkpoint, specimen, model):
    quantized = {f"{layer}.weight" for layer in specimen.quantized(model)}
    for key in model.keys() - quantized:
        found = checkpoint.tensors[only(checkpoint.tensors, key)]
        assert torch.equal(found.float(), specimen.recipe.rest(model[key]).float()), key


def check_verdict(verdict, specimen):
    assert verdict.accepted
    assert re.search(specimen.words, verdict.dialect, re.IGNORECASE), verdict.dialect
    assert {layer.decision for layer in verdict.layers} <= {"scaled", "plain cast"}
    decision = "plain cast" if specimen.dialect in ("D1", "D30") else "scaled"
    assert decision in {layer.decision for layer in verdict.layers}


def check(specimen, model, path):
    checkpoint = quant.read_checkpoint(specimen.write(model, path))
    check_layers(checkpoint, specimen, model)
    check_rest(checkpoint, specimen, model)
    check_verdict(checkpoint.verdict, specimen)


@pytest.mark.parametrize("name", DECODED)
def test_decodes_to_the_original(name, tiny, tmp_path):
    check(ZOO[name], tiny, tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", CORE)
def test_decodes_a_trained_model(name, digits, tmp_path):
    check(ZOO[name], digits, tmp_path / "model.safetensors")


def refusal(path, why):
    """Refused in one line, not a page, that says why."""
    with pytest.raises(quant.Refused, match=why) as caught:
        quant.read_checkpoint(path)
    sentence = str(caught.value)
    assert 20 < len(sentence) < 500 and "\n" not in sentence


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_and_names_the_producer(name, tiny, tmp_path):
    refusal(ZOO[name].write(tiny, tmp_path / "model.safetensors"), ZOO[name].words)


@pytest.mark.parametrize("name", REFUSED)
def test_inspect_of_a_refused_file_gives_the_reason(name, tiny, tmp_path):
    verdict = quant.inspect_checkpoint(ZOO[name].write(tiny, tmp_path / "model.safetensors"))
    assert not verdict.accepted
    assert re.search(ZOO[name].words, " ".join(verdict.reasons), re.IGNORECASE)


STATIC = {
    "ltx": True, "legacy-0-input": True, "modelopt": True, "mistral": True, "comfy-input": True,
    "ltx-placeholder": False, "ctq-text-encoder": False, "quanto": False, "musubi": False, "fastvideo": False,
}  # fmt: skip


@pytest.mark.parametrize("name", STATIC)
def test_keeps_a_calibrated_input_scale_and_no_placeholder(name, tiny, tmp_path):
    checkpoint = quant.read_checkpoint(ZOO[name].write(tiny, tmp_path / "model.safetensors"))
    layer = "blocks.0.mlp.2"
    scale = checkpoint[only(checkpoint, layer)].input_scale
    assert (scale is not None) is STATIC[name]
    if STATIC[name]:
        expected = calibrated()(ZOO[name].recipe.layer(ZOO[name].recipe.prefix + layer, tiny[f"{layer}.weight"]))
        assert torch.equal(scale, next(iter(expected.values())))


def test_ignores_the_text_encoder_and_the_vae_of_an_all_in_one_file_no_less(tiny, tmp_path):
    specimen = ZOO["ltx-all-in-one"]
    checkpoint = quant.read_checkpoint(specimen.write(tiny, tmp_path / "model.safetensors"))
    for key, tensor in specimen.recipe.company().items():
        if specimen.recipe.quantizes(key, tensor):
            assert error(checkpoint[key.removesuffix(".weight")].dequantize(), tensor) < specimen.tolerance
        else:
            assert torch.equal(checkpoint.tensors[key], tensor)


@pytest.mark.parametrize("header", [True, False], ids=["marked", "unmarked"])
def test_a_scaled_convolution_is_decoded(header, tiny, tmp_path):
    recipe = Recipe(select=with_convs, header=layerwise() if header else lambda layers: {})
    checkpoint = quant.read_checkpoint(recipe.write(tiny, tmp_path / "model.safetensors"))
    original = tiny["patch_embed.weight"]
    assert error(checkpoint["patch_embed"].dequantize(), original.flatten(1)) < 0.04


# ---- corruptions ----------------------------------------------------------------------------------------------------

VICTIM = "blocks.0.mlp.0"
HURT = ("ltx", "legacy-2", "comfy-header", "comfy-marker", "lightx2v-rows", "musubi-groups", "deepseek-alone",
        "kijai-e5m2", "ideogram")  # fmt: skip


def scales(tensors):
    """Keys of the weights' scales."""
    return [key for key in tensors if re.search(r"\.(weight_scale|scale_weight|weight_scale_inv)$", key)]


def scale_key(tensors):
    return next(key for key in scales(tensors) if VICTIM in key)


def dropped(tensors):
    del tensors[scale_key(tensors)]


def changed(change):
    def corrupt(tensors):
        key = scale_key(tensors)
        tensors[key] = change(tensors[key])

    return corrupt


def stripped(tensors):
    for key in scales(tensors):
        del tensors[key]


def half_stripped(tensors):
    for key in scales(tensors)[::2]:
        del tensors[key]


def not_a_number(tensors):
    codes = tensors[next(key for key in tensors if key.endswith(f"{VICTIM}.weight"))]
    codes.view(torch.uint8)[3, 5] = 0x7F


def orphan(tensors):
    suffix = scale_key(tensors).rsplit(".", 1)[1]
    tensors[f"blocks.7.mlp.0.{suffix}"] = torch.tensor(0.001)


def twice(tensors):
    key = scale_key(tensors)
    stem, suffix = key.rsplit(".", 1)
    other = "weight_scale" if suffix == "scale_weight" else "scale_weight"
    tensors[f"{stem}.{other}"] = tensors[key] * 2


def wrong_shape(scale):
    return torch.full((7,), scale.float().mean().item())


def one_bad(value):
    """The same scales, of which the last is a bad one."""

    def change(scale):
        flat = scale.clone().reshape(-1)
        flat[-1] = value
        return flat.reshape(scale.shape)

    return change


MISSING = rf"{VICTIM}.*scale is missing"
# what is done to a file -> how, and what its refusal says: the layer and what is wrong with it
CORRUPTIONS = {
    "dropped": (dropped, MISSING),
    "reciprocal": (changed(lambda scale: 1 / scale), rf"{VICTIM}: .*the scale is a reciprocal"),
    "zero": (changed(one_bad(0.0)), rf"{VICTIM}: a scale is zero"),
    "nan": (changed(one_bad(float("nan"))), rf"{VICTIM}: a scale is NaN"),
    "infinite": (changed(one_bad(float("inf"))), rf"{VICTIM}: a scale is NaN or infinite"),
    "negative": (changed(one_bad(-0.001)), rf"{VICTIM}: a scale is negative"),
    "ones": (changed(torch.ones_like), rf"{VICTIM}: .*far above .*or a placeholder"),
    "squared": (changed(lambda scale: scale**2), rf"{VICTIM}: .*far below .*the scale is of another layer"),
    "wrong shape": (changed(wrong_shape), rf"{VICTIM}: a scale of shape \[7\] fits no granularity .*\[512, 128\]"),
    "empty": (changed(lambda scale: scale.new_empty(0)), rf"{VICTIM}\.\w+ has no elements"),
    # a marker tells every layer that lost its scale, the codes those that could not be weights
    "stripped": (stripped, r"blocks\.0\.attn\.proj.*scale is missing"),
    "half stripped": (half_stripped, r"blocks\.0\.attn\.proj.*scale is missing"),
    "nan codes": (not_a_number, rf"{VICTIM}: its codes hold NaN"),
    "orphan scale": (orphan, r"blocks\.7\.mlp\.0\.\w+ is the scale of no weight"),
    "two scales": (twice, rf"{VICTIM}: it has two scales, .*{VICTIM}\.scale_weight and .*{VICTIM}\.weight_scale"),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("name", HURT)
def test_refuses_a_corrupt_file_and_says_which_layer_and_why(name, corruption, tiny, tmp_path):
    tensors, metadata = ZOO[name].recipe.pack(tiny)
    tensors = {key: tensor.clone().contiguous() for key, tensor in tensors.items()}
    corrupt, why = CORRUPTIONS[corruption]
    corrupt(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata or None)
    refusal(tmp_path / "model.safetensors", why)


def test_refuses_the_sidecar_dialect_without_its_sidecar(tiny, tmp_path):
    path = ZOO["hunyuanvideo"].write(tiny, tmp_path / "model.safetensors")
    (tmp_path / "model_fp8_map.pt").unlink()
    refusal(path, r"model_fp8\.pt: .*the scale is missing")


def test_refuses_a_missing_shard(tiny, tmp_path):
    path = ZOO["ltx-sharded"].write(tiny, tmp_path / "model.safetensors")
    next(tmp_path.glob("*-00002-*")).unlink()
    refusal(path, r"the shard \S+-00002-of-00002\.safetensors is missing")


def test_refuses_activation_scales_without_weight_scales(tiny, tmp_path):
    recipe = replace(ZOO["ltx"].recipe, scale=None, beside=(constant("{}.input_scale", 0.01),))
    refusal(replace(recipe, dtype=torch.float8_e4m3fn).write(tiny, tmp_path / "model.safetensors"), "scale is missing")


def test_rows_alone_tell_the_layout_of_square_weights(tmp_path):
    generator = torch.Generator().manual_seed(1)
    model = {f"layers.{i}.weight": torch.randn(128, 128, generator=generator) / 12 for i in range(3)}
    for name in ("lightx2v-rows", "lightx2v-transposed", "ideogram"):
        checkpoint = quant.read_checkpoint(ZOO[name].write(model, tmp_path / f"{name}.safetensors"))
        for key, original in model.items():
            assert error(checkpoint[key.removesuffix(".weight")].dequantize(), original) < 0.04, name


def test_refuses_the_scale_of_zero_that_a_library_makes_of_zeros(tiny, tmp_path):
    everything = replace(ZOO["quanto-alone"].recipe, select=ZOO["ltx"].recipe.select)
    refusal(everything.write(tiny, tmp_path / "model.safetensors"), r"modulation\.lin: a scale is zero")


CTQ = {
    "rows": (("--scaling_mode", "row", "--save-quant-metadata"), 0.04),
    "blocks": (("--scaling_mode", "block", "--block_size", "64"), 0.04),
    "text encoder": (("--t5xxl",), 0.04),
    "mxfp8": (("--mxfp8",), 0.04),
    "nvfp4": (("--nvfp4",), 0.13),
    "int8 by blocks": (("--int8", "--scaling_mode", "block", "--block_size", "8"), 0.02),
    "int8 by rows": (("--int8", "--scaling_mode", "row"), 0.02),
    "int8 by tensor": (("--int8", "--scaling_mode", "tensor", "--save-quant-metadata"), 0.04),
    "int8 rotated": (("--int8", "--scaling_mode", "row", "--convrot", "--convrot-group-size", "16"), 0.02),
}


@pytest.mark.parametrize("mode", CTQ)
def test_reads_what_convert_to_quant_itself_writes(mode, tmp_path, monkeypatch):
    tiny = tiny_model(64, 1)
    ctq = pytest.importorskip("convert_to_quant.cli.main")
    # of a layer of zeros it makes NVFP4 scales that are NaN
    save_file({k: v for k, v in tiny.items() if v.any()}, tmp_path / "tiny.safetensors")
    options, tolerance = CTQ[mode]
    files = ("-i", str(tmp_path / "tiny.safetensors"), "-o", str(tmp_path / "made.safetensors"))
    monkeypatch.setattr("sys.argv", ["ctq", *files, "--comfy_quant", "--simple", "--device", "cpu", *options])
    ctq.main()
    checkpoint = quant.read_checkpoint(tmp_path / "made.safetensors")
    assert len(checkpoint) == len([name for name in ZOO["ltx"].quantized(tiny) if tiny[f"{name}.weight"].any()])
    for name, weight in checkpoint.items():
        assert error(weight.dequantize(), tiny[f"{name}.weight"]) < tolerance, name
