"""Reading tensors in memory: recognition of every dialect of the table, orientation, conservation, what stays."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from scaled_fp8 import quant
from scaled_fp8.quant import Refused, StateDictSource, inspect_checkpoint, read_checkpoint
from scaled_fp8.quant.checkpoint.dialects import DIALECTS
from scaled_fp8.quant.weights.native import native_tensors
from zoo import ZOO

E4M3 = torch.float8_e4m3fn
TOP = torch.finfo(E4M3).max
OUT, IN = 256, 128


def weight(out=OUT, inputs=IN, seed=0):
    return torch.randn(out, inputs, generator=torch.Generator().manual_seed(seed)) / inputs**0.5


def per_tensor(w):
    scale = w.abs().max() / TOP
    return (w / scale).to(E4M3), scale


def per_row(w):
    scale = w.abs().amax(1, keepdim=True) / TOP
    return (w / scale).to(E4M3), scale


def per_block(w, size=128):
    rows, cols = w.shape[0] // size, w.shape[1] // size
    scale = w.abs().view(rows, size, cols, size).amax(dim=(1, 3)) / TOP
    return (w / scale.repeat_interleave(size, 0).repeat_interleave(size, 1)).to(E4M3), scale


def marker(**conf):
    return torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8)


def source(tensors, metadata=None, **config):
    found = StateDictSource(tensors, metadata)
    if config:
        found.sidecars["config.json"] = {"quantization_config": config}
    return found


W = weight()
CODES, SCALE = per_tensor(W)
ROWS, ROW_SCALE = per_row(W)
INT8 = torch.ones(OUT, IN // 2, dtype=torch.int8)
MICRO = torch.full((OUT, IN // 32), 119, dtype=torch.uint8)
FP4 = {
    "x.weight": torch.zeros(OUT, IN // 2, dtype=torch.uint8),
    "x.weight_scale": torch.ones(OUT, IN // 16).to(E4M3),
    "x.weight_scale_2": torch.tensor(0.001),
}
PAIR = {"x.weight": CODES, "x.weight_scale": SCALE}
LEGACY = {"x.weight": CODES, "x.scale_weight": SCALE}
# number of a dialect -> the smallest file in it: tensors, then what else
WRITTEN = {
    "D1, D30": ({"x.weight": W.to(E4M3)},),
    "D2, D6, D11": (LEGACY | {"scaled_fp8": torch.zeros(2, dtype=E4M3)},),
    "D3, D5, D6": (PAIR | {"x.comfy_quant": marker(format="float8_e4m3fn")},),
    "D4": (PAIR,),
    "D7": (LEGACY,),
    "D8": ({"x.weight": CODES, "x.fp8_map_scale": SCALE},),
    "D9": ({"x.weight": CODES, "x": SCALE},),
    "D10": ({"x.weight": ROWS, "x.weight_scale": ROW_SCALE},),
    "D12": ({"x.weight": ROWS, "x.weight_scale": ROW_SCALE.flatten()}, {"model_type": "ideogram4_cond"}),
    "D13": ({"x.weight": CODES, "x.weight_scale_inv": SCALE},),
    "D14": ({"x.weight": CODES, "x.qscale_weight": SCALE, "x.qscale_act": SCALE},),
    "D15": (PAIR, None, {"quant_method": "compressed-tensors"}),
    "D16": (PAIR, None, {"quant_method": "modelopt", "quant_algo": "FP8"}),
    "D17": ({"x.weight": CODES, "x.weight_quantizer._scale": SCALE, "x.weight_quantizer._amax": SCALE},),
    "D18": ({"x._weight_qdata": ROWS, "x._weight_scale": ROW_SCALE},),
    "D19": ({"x.weight._data": ROWS, "x.weight._scale": ROW_SCALE, "x.input_scale": torch.ones(())},),
    "D20": ({"x.float8_data": CODES, "x.scale_reciprocal": SCALE, "x.scale": 1 / SCALE, "x.weight": torch.zeros(1)},),
    "D21": ({"x.weight": CODES, "x.scale_weight": SCALE.view(1), "x.scale_input": torch.ones(1)},),
    "D22": (
        {"x.weight": ROWS, "x.weight_scale": ROW_SCALE.flatten(),
         "x.comfy_quant": marker(format="float8_e4m3fn_rowwise")},
    ),
    "D23": ({"x.weight": CODES, "x.weight_scale": MICRO, "x.comfy_quant": marker(format="mxfp8")},),
    "D23b": ({"x.weight": CODES, "x.weight_scale": MICRO}, None, {"quant_method": "compressed-tensors"}),
    "D23c": (
        {"x.weight": CODES, "x.weight_scale": MICRO, "x.weight_scalar": SCALE,
         "x.comfy_quant": marker(format="hybrid_mxfp8")},
    ),
    "D24": (FP4 | {"x.comfy_quant": marker(format="nvfp4")},),
    "D25": (
        {"x.weight": INT8, "x.weight_scale": torch.tensor(0.01), "x.comfy_quant": marker(format="int8_tensorwise")},
    ),
    "D26": ({"x.weight": ROWS, "x.scale": ROW_SCALE}, None, {"quant_method": "sdnq"}),
    "D28": ({"x.weight": CODES, "x._extra_state": torch.zeros(9, dtype=torch.uint8)},),
    "D29": ({"x.weight": (W / W.abs().max() * 240).to(torch.float8_e4m3fnuz), "x.weight_scale": W.abs().max() / 240},),
    "D31": (PAIR | {"x.input_scale_ub": torch.tensor(1200.0)},),
}  # fmt: skip


# number -> a specimen of the zoo, for those that no file of one layer shows
SPECIMENS = {
    "D24b": "nvfp4-compressed", "D24c": "nvfp4-lightx2v", "D24d": "nvfp4-modelopt", "D24e": "nvfp4-bare",
    "D25b": "int8-rowwise", "D25c": "int8-fast", "D27": "nunchaku", "D27b": "nunchaku-fp4", "D32": "svdquant",
    "D33": "awq-w4a16", "D34": "gptq", "D35": "mxfp4-autoround",
}  # fmt: skip


def smoothed_int4() -> dict:
    """What this pack writes of a smoothed INT4 weight."""
    weight = quant.quantize(W.float(), quant.FORMATS["int4_convrot"], name="x")
    return native_tensors(replace(weight, smooth=torch.ones(weight.shape[1])), "x.")


def test_every_dialect_of_the_table_has_a_file_here():
    assert {*WRITTEN, *SPECIMENS, "D23e"} == {dialect.number for dialect in DIALECTS}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.number)
def test_each_dialect_is_recognised_or_refused_with_advice(dialect, tiny, tmp_path):
    if dialect.number in SPECIMENS:
        given = ZOO[SPECIMENS[dialect.number]].write(tiny, tmp_path / "model.safetensors")
    else:
        tensors, metadata, config = (*WRITTEN.get(dialect.number, (smoothed_int4(),)), None, None)[:3]
        given = source(tensors, metadata, **(config or {}))
    verdict = inspect_checkpoint(given)
    assert verdict.dialect == dialect.name
    refused = bool(dialect.advice) and dialect.number != "D26"
    assert verdict.accepted is not refused
    if refused:
        assert dialect.producer in verdict.reasons[0] and dialect.advice in verdict.reasons[0]


##### Orientation


def turned(codes, scale):
    return codes.T.contiguous(), scale


SQUARE = weight(256, 256)


def layer(encoded, name="x", suffix="weight_scale", **more):
    codes, scale = encoded
    return {f"{name}.weight": codes, f"{name}.{suffix}": scale, **{f"{name}.{k}": v for k, v in more.items()}}


UPRIGHT = {
    "bias": (layer(per_tensor(W), bias=torch.zeros(OUT)), W),
    "row scale": (layer(per_row(W)), W),
    "name": (layer(per_tensor(W), "block.mlp.0"), W),
    "codes of a square layer": (layer(per_row(SQUARE)), SQUARE),
    "codes, scale [out]": (layer((per_row(SQUARE)[0], per_row(SQUARE)[1].flatten())), SQUARE),
}
TURNED = {
    "bias": (layer(turned(*per_tensor(W)), bias=torch.zeros(OUT)), W),
    "row scale": (layer(turned(*per_row(W))), W),
    "row scale [1, out]": (layer((per_row(W)[0].T.contiguous(), per_row(W)[1].T)), W),
    "name": (layer(turned(*per_tensor(W)), "block.mlp.0"), W),
    "codes of a square layer": (layer(turned(*per_row(SQUARE))), SQUARE),
    "block grid of the upright weight": (
        layer(turned(*per_block(weight(512, 256))), bias=torch.zeros(512)), weight(512, 256)
    ),
    "block grid turned too": (
        layer([t.T.contiguous() for t in per_block(weight(512, 256))], bias=torch.zeros(512)), weight(512, 256)
    ),
}  # fmt: skip


def error(found, original):
    return float((found - original).norm() / original.norm())


@pytest.mark.parametrize("evidence", UPRIGHT)
def test_upright_weights_stay(evidence):
    tensors, original = UPRIGHT[evidence]
    (found,) = read_checkpoint(source(tensors)).values()
    assert error(found.dequantize(), original) < 0.04


@pytest.mark.parametrize("evidence", TURNED)
def test_turned_weights_come_out_as_out_in(evidence):
    tensors, original = TURNED[evidence]
    (found,) = read_checkpoint(source(tensors)).values()
    assert found.shape == tuple(original.shape) and found.codes.is_contiguous()
    assert error(found.dequantize(), original) < 0.04


def test_square_layers_follow_the_others_of_their_file():
    tensors = layer(turned(*per_tensor(W)), "a", bias=torch.zeros(OUT)) | layer(turned(*per_tensor(SQUARE)), "b")
    assert error(read_checkpoint(source(tensors))["b"].dequantize(), SQUARE) < 0.04


def test_a_layer_that_contradicts_its_file_is_refused():
    tensors = {}
    for name in "abc":
        tensors |= layer(per_tensor(W), name, bias=torch.zeros(OUT))
    tensors |= layer(turned(*per_tensor(W)), "d", bias=torch.zeros(OUT))
    with pytest.raises(Refused, match=r"d: .*\[in, out\]"):
        read_checkpoint(source(tensors))


def test_nothing_but_square_tensor_scaled_layers_without_marker_is_refused():
    with pytest.raises(Refused, match="square"):
        read_checkpoint(source(layer(per_tensor(SQUARE))))


def test_a_scale_along_in_is_refused():
    scale = W.abs().amax(0) / TOP
    tensors = layer(((W / scale).to(E4M3), scale), bias=torch.zeros(OUT))
    with pytest.raises(Refused, match="along in"):
        read_checkpoint(source(tensors))


##### Conservation

BEFORE = layer(per_tensor(W), "block.mlp.0")
LEFTOVERS = {
    "a scale without a weight": ({"y.weight_scale": SCALE}, r"y\.weight_scale"),
    "a scale beside a bf16 weight": ({"y.weight": W.bfloat16(), "y.weight_scale": torch.tensor(5.14)}, "y.*BF16"),
    "two scales": ({"block.mlp.0.scale_weight": SCALE}, "two scales"),
    "a low-rank part": ({"block.mlp.0.svd_up": W}, r"svd_up"),
    "a scale of another shape": ({"y.weight": CODES, "y.weight_scale": torch.ones(7)}, "fits no granularity"),
    "codes that lost their scale": ({"y.weight": CODES}, "y: .*missing"),
    "bytes that lost their scale": ({"y.weight": INT8}, "y: "),
}


@pytest.mark.parametrize("what", LEFTOVERS)
def test_leftovers_refuse_the_file_and_are_named(what):
    extra, words = LEFTOVERS[what]
    with pytest.raises(Refused, match=words):
        read_checkpoint(source(BEFORE | extra))


def test_dummies_beside_high_precision_weights_are_ignored_and_named():
    found = read_checkpoint(source(BEFORE | {"y.weight": W.bfloat16(), "y.weight_scale": torch.ones(())}))
    assert "y" in found.verdict.reasons[0] and "y.weight_scale" not in found.tensors
    assert torch.equal(found.tensors["y.weight"], W.bfloat16())


def test_every_key_is_in_a_weight_or_in_tensors_or_a_companion():
    names = {"norm.scale", "x_norm.weight", "conv.weight", "logit_scale", "block.mlp.0.bias"}
    rest = {name: torch.ones(OUT) for name in names - {"conv.weight"}} | {"conv.weight": torch.ones(4, 2, 3, 3)}
    found = read_checkpoint(source(BEFORE | {k: v.to(E4M3) for k, v in rest.items()}))
    assert set(found.tensors) == names and list(found) == ["block.mlp.0"]


##### What a checkpoint hands out


def test_convolutions_with_a_scale_keep_their_own_shape_in_the_spec():
    kernel = weight(64, 16 * 9)
    codes, scale = per_row(kernel)
    tensors = {"conv.weight": codes.view(64, 16, 3, 3), "conv.weight_scale": scale.view(64, 1, 1, 1)}
    found = read_checkpoint(source(BEFORE | tensors))
    assert found.spec("conv").full_shape == (64, 16, 3, 3) and found["conv"].shape == (64, 144)
    assert error(found["conv"].dequantize(), kernel) < 0.04


def test_a_bias_with_a_scale_is_dequantized():
    tensors = BEFORE | {"block.mlp.0.bias": torch.full((OUT,), 96.0).to(E4M3), "block.mlp.0.bias_scale": SCALE}
    found = read_checkpoint(source(tensors))
    assert torch.equal(found.tensors["block.mlp.0.bias"], torch.full((OUT,), 96.0) * SCALE)
    assert found.tensors.info("block.mlp.0.bias").dtype == "F32"


def test_weight_keys_are_those_of_a_model_without_quantization():
    quanto = read_checkpoint(source(WRITTEN["D19"][0]))
    assert quanto.weight_key("x") == "x.weight"


def test_reading_infos_and_specs_decodes_nothing(monkeypatch):
    found = read_checkpoint(source(BEFORE))
    monkeypatch.setattr(StateDictSource, "tensor", None)
    assert found.spec("block.mlp.0").shape == (OUT, IN) and len(found) == 1 and "block.mlp.0" in found


def test_smoothing_multiplies_the_columns():
    tensors = layer(per_tensor(W), "block.mlp.0", pre_quant_scale=torch.full((IN,), 2.0))
    assert error(read_checkpoint(source(tensors))["block.mlp.0"].dequantize(), W * 2) < 0.04


def test_check_all_finds_the_one_bad_code_that_a_sample_misses():
    codes, scale = per_tensor(weight(1024, 1024))
    codes = codes.clone()
    codes.view(torch.uint8)[500, 77] = 0x7F
    tensors = layer((codes, scale), "blocks.0.a", bias=torch.zeros(1024)) | BEFORE
    # smaller layers, so that the damaged one is not among those that are read whole anyway
    for i in range(3):
        tensors |= layer(per_tensor(W), f"blocks.{i}.mlp.0")
    assert inspect_checkpoint(source(tensors)).accepted
    assert not inspect_checkpoint(source(tensors), check="all").accepted


def test_an_unquantized_file_is_accepted_and_says_so():
    found = read_checkpoint(source({"x.weight": W.bfloat16(), "x.bias": W[:, 0]}))
    assert found.verdict.dialect == "unquantized" and set(found.tensors) == {"x.weight", "x.bias"} and not len(found)


def test_each_part_of_an_all_in_one_file_keeps_its_dialect():
    encoder = "text_encoders.t5.transformer."
    tensors = layer(per_tensor(W), "model.diffusion_model.mlp.0") | {
        f"{encoder}fc1.weight": CODES,
        f"{encoder}fc1.scale_weight": SCALE,
        f"{encoder}scaled_fp8": torch.zeros(2, dtype=E4M3),
        "vae.conv.weight": torch.ones(4, 4, 3, 3, dtype=torch.bfloat16),
    }
    layers = {"model.diffusion_model.mlp.0": {"format": "float8_e4m3fn"}}
    found = read_checkpoint(source(tensors, {"_quantization_metadata": json.dumps({"layers": layers})}))
    assert found.verdict.dialect == "ComfyUI weight_scale, marked + ComfyUI legacy scaled_fp8"
    assert set(found.tensors) == {"vae.conv.weight"}
