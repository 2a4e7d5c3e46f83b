"""A zoo of FP8 checkpoints: one small file in each dialect, written without the package under test.

``ZOO`` maps names to Specimens. ``specimen.write(state_dict, path)`` stores a plain float state dict the way that
producer does and returns the path a reader is given (a file, an index.json or a folder). The numbers come from plain
torch (arithmetic.py) or from the producer's own library.
"""

from __future__ import annotations

import json
from dataclasses import replace

import comfy_kitchen
import torch
from arithmetic import (
    E4M3,
    E4M3_FNUZ,
    E5M2,
    E5M2_FNUZ,
    E8M0,
    Encoding,
    block64,
    block128,
    cast,
    group32,
    group64_3d,
    group128,
    per_row,
    per_tensor,
    rotated,
    shaped,
    swizzled,
)  # fmt: skip
from torch import Tensor
from zoo_low_bits import (
    awq_kitchen,
    awq_recipe,
    calibrated_alpha,
    int8_blockwise,
    int8_rowwise,
    int8_small_blocks,
    multiplied,
    mxfp4_autoround,
    nunchaku_fp4,
    nunchaku_recipe,
    nvfp4_compressed,
    nvfp4_convrot,
    nvfp4_lightx2v,
    nvfp4_modelopt,
    nvfp4_modelopt_svd,
    svdquant_natural,
    svdquant_tiles,
    without_format,
)
from zoo_recipe import (
    BF16,
    F16,
    F32,
    I8,
    U8,
    Layer,
    Metadata,
    Recipe,
    Specimen,
    StateDict,
    angelslim,
    big,
    calibrated,
    comfy_quant,
    constant,
    fixed,
    folder,
    hunyuan_video,
    layerwise,
    legacy,
    multiple,
    nonzero,
    one_file,
    quantization,
    quanto_files,
    scalar,
    sharded,
    square,
    with_shape,
)

# ---- producers whose own library, or own arithmetic, makes the codes -----------------------------------------------


def torchao(granularity: str) -> Encoding:
    def encode(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
        from torchao.quantization import Float8Tensor, PerRow, PerTensor

        made = Float8Tensor.from_hp(weight.float(), granularity=PerRow() if granularity == "row" else PerTensor())
        return made.qdata, made.scale

    return encode


def torchao_header(layers: list[Layer]) -> Metadata:
    """As torchao's flatten_tensor_state_dict writes it."""
    entries = {}
    for layer in layers:
        blocks = [a // b for a, b in zip(layer.codes.shape, layer.scale.shape, strict=True)]
        data = {"block_size": blocks, "dtype": {"_type": "torch.dtype", "_data": "bfloat16"}}
        entry = {"_type": "Float8Tensor", "_data": data, "_tensor_data_names": ["qdata", "scale"]}
        entries[f"{layer.name}.weight"] = json.dumps(entry)
    return entries | {"tensor_names": json.dumps(list(entries))}


def quanto(qtype: str) -> Encoding:
    def encode(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
        from optimum import quanto as library

        kind = library.qtypes[qtype]
        scale = library.AbsmaxOptimizer()(weight.to(stored), kind, 0)
        made = library.quantize_weight(weight.to(stored), kind, 0, scale)
        return made._data, made._scale

    return encode


def aredden(layer: Layer) -> StateDict:
    """flux-fp8-api: a reciprocal, the true scale, and a placeholder for the weight."""
    multiplier = 1 / layer.scale
    return {
        f"{layer.name}.weight": torch.zeros(1, dtype=BF16),
        f"{layer.name}.scale": multiplier,
        f"{layer.name}.scale_reciprocal": 1 / multiplier,
        f"{layer.name}.input_scale": scalar(57344 / 5.0),
        f"{layer.name}.input_scale_reciprocal": scalar(5.0 / 57344),
    }


def nvfp4(hi_first: bool = True, linear: bool = False) -> Encoding:
    def encode(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
        codes, scale = comfy_kitchen.quantize_nvfp4(weight.to(BF16), nvfp4_global(weight), 0.0, True, hi_first)
        if linear:
            scale = comfy_kitchen.from_blocked(scale, weight.shape[0], weight.shape[1] // 16)
        return codes, scale

    return encode


def nvfp4_global(weight: Tensor) -> Tensor:
    amax = weight.to(BF16).float().abs().amax()
    return torch.where(amax == 0, 1.0, amax / (448 * 6))


def global_scale(layer: Layer) -> StateDict:
    return {f"{layer.name}.weight_scale_2": nvfp4_global(layer.weight)}


def smoothing(width: int) -> Tensor:
    return torch.linspace(0.5, 2.0, width)


def smoothed(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """NVFP4 of a weight whose columns were divided by ``pre_quant_scale``, which multiplies the activations."""
    return nvfp4()(weight.float() / smoothing(weight.shape[1]), dtype, stored)


def smooth_companions(layer: Layer) -> StateDict:
    pre = smoothing(layer.weight.shape[1])
    stored = nvfp4_global(layer.weight / pre)
    return {f"{layer.name}.weight_scale_2": stored, f"{layer.name}.pre_quant_scale": pre.to(BF16)}


def mxfp8_comfy(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    codes, scale = comfy_kitchen.quantize_mxfp8(weight.to(BF16), pad_32x=True)
    return codes, scale.view(stored)


def convrot_w4a4(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    from comfy_kitchen.tensor.convrot_w4a4 import quantize_convrot_w4a4_weight

    return quantize_convrot_w4a4_weight(weight.to(BF16), convrot_groupsize=64)


def w4a8(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    return comfy_kitchen.quantize_w4a8_int8_weight(weight.to(BF16), convrot_groupsize=64)[:2]


def w4a8_companions(layer: Layer) -> StateDict:
    made = comfy_kitchen.quantize_w4a8_int8_weight(layer.weight.to(BF16), convrot_groupsize=64)
    named = {"weight_s_channel": made[2], "weight_correction": made[3], "weight_codebook": made[4]}
    return {f"{layer.name}.{key}": value for key, value in named.items() if value is not None}


def blocks_or_rows(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """convert_to_quant's blockwise: rows ``[out]`` where 64 does not divide the shape, under the same marker."""
    if any(size % 64 for size in weight.shape):
        return shaped(per_row, -1)(weight, dtype, stored)
    return block64(weight, dtype, stored)


def flat_rows(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """One scale for each output, ``[out]``: of convolutions too."""
    return shaped(per_row, -1)(weight, dtype, stored)


def fused_thirds(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """vLLM's fused qkv: one scale for each third of the rows ``[3]``; other layers ``[1]``."""
    parts = weight.chunk(3 if weight.shape[0] == 3 * weight.shape[1] else 1)
    made = [per_tensor(part, dtype, stored) for part in parts]
    return torch.cat([codes for codes, _ in made]), torch.stack([scale for _, scale in made])


# ---- selections -----------------------------------------------------------------------------------------------------


def with_convs(weight: Tensor) -> bool:
    return weight.ndim == 4 or big(weight)


def text_encoder_and_vae() -> StateDict:
    """A text encoder and a VAE that ride in the same file; the VAE's 2-D weights are too narrow to be quantized."""
    generator = torch.Generator().manual_seed(5)
    attention = "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention"
    sizes = {f"{attention}.{name}.weight": (192, 128) for name in "qkv"}
    sizes |= {"vae.decoder.conv_in.weight": (16, 4, 3, 3), "vae.decoder.mid.attn_1.q.weight": (16, 16)}
    made = {key: torch.randn(size, generator=generator) / size[-1] ** 0.5 for key, size in sizes.items()}
    return {key: tensor.to(BF16) for key, tensor in made.items()}


# ---- the table ------------------------------------------------------------------------------------------------------

ROW, BLOCK, GROUP = "per-row", "block", "group"
DIFFUSION = "model.diffusion_model."
plain = Recipe(cast, scale=None)
legacy_weight_only = Recipe(scale="{}.scale_weight", once=legacy(2))
legacy_matmul = replace(legacy_weight_only, once=legacy(0), beside=(calibrated("{}.scale_input"),))
comfy = Recipe(beside=(comfy_quant(),))
comfy_header = Recipe(header=layerwise())
ltx = Recipe(prefix=DIFFUSION, beside=(calibrated(),))
lightx2v = Recipe(per_row)
musubi = Recipe(scale="{}.scale_weight", stored=BF16)
ideogram = Recipe(shaped(per_row, -1), header=fixed(model_type="ideogram4_cond"))
deepseek = Recipe(
    block128, scale="{}.weight_scale_inv", container=quantization(quant_method="fp8", weight_block_size=[128, 128])
)
compressed = Recipe(
    shaped(per_tensor, 1), stored=BF16,
    container=quantization(quant_method="compressed-tensors", format="float-quantized"),
)  # fmt: skip
modelopt = Recipe(beside=(calibrated(),), container=quantization(quant_method="modelopt", quant_algo="FP8"))
torchao_new = Recipe(
    torchao("row"), weight="{}._weight_qdata", scale="{}._weight_scale", header=torchao_header, select=nonzero
)
unused = (constant("{}.input_scale", 1.0), constant("{}.output_scale", 1.0))
quanto_e4m3 = Recipe(
    quanto("qfloat8_e4m3fn"), stored=BF16, select=nonzero, weight="{}.weight._data", scale="{}.weight._scale",
    beside=unused,
    container=quanto_files("qfloat8_e4m3fn"),
)  # fmt: skip
flux_fp8_api = Recipe(weight="{}.float8_data", scale=None, beside=(aredden,))
ctq = Recipe(shaped(per_row, -1), beside=(comfy_quant("float8_e4m3fn_rowwise"),))
mxfp8 = Recipe(mxfp8_comfy, stored=U8, select=multiple(32), beside=(comfy_quant("mxfp8"),))
mxfp8_linear = Recipe(
    group32, stored=U8, select=multiple(32),
    container=quantization(quant_method="compressed-tensors", format="mxfp8-quantized"),
)  # fmt: skip
nvfp4_comfy = Recipe(nvfp4(), select=multiple(32), beside=(global_scale, comfy_quant("nvfp4")))
int8_tensor = Recipe(dtype=I8, beside=(comfy_quant("int8_tensorwise"),))
convrot = comfy_quant("int8_tensorwise", convrot=True, convrot_groupsize=64)
fbgemm = Recipe(
    per_row, beside=(constant("{}.input_scale_ub", 1200.0, (1,)),), container=quantization(quant_method="fbgemm_fp8")
)
sdnq = Recipe(
    per_row,
    scale="{}.scale",
    container=folder(quantization_config={"quant_method": "sdnq", "weights_dtype": "float8_e4m3fn"}),
)

SPECIMENS = [
    # plain casts
    Specimen("plain-e4m3", "D1", plain, tolerance=0.06),
    Specimen("plain-e5m2", "D1", replace(plain, dtype=E5M2), tolerance=0.08, format="float8_e5m2"),
    Specimen("plain-prefixed", "D1", replace(plain, prefix=DIFFUSION), tolerance=0.06),
    Specimen("plain-everything", "D1", replace(plain, rest=lambda tensor: tensor.to(E4M3)), tolerance=0.06),
    Specimen("plain-layerwise-casting", "D30",
             replace(plain, container=folder(config={"_class_name": "Flux2Transformer2DModel"})), tolerance=0.06),
    # ComfyUI, old and new
    Specimen("legacy-2", "D2", legacy_weight_only),
    Specimen("legacy-0-input", "D2", legacy_matmul),
    Specimen("legacy-1-input-one", "D2", replace(legacy_matmul, once=legacy(1),
             beside=(constant("{}.scale_input", 1.0),))),
    Specimen("legacy-shape-1", "D2", replace(legacy_weight_only, encoding=shaped(per_tensor, 1))),
    Specimen("legacy-f16", "D2", replace(legacy_weight_only, stored=F16)),
    Specimen("legacy-prefixed", "D2", replace(legacy_matmul, prefix=DIFFUSION)),
    Specimen("legacy-rows", "D2", replace(legacy_weight_only, encoding=per_row), ROW),
    Specimen("legacy-e5m2", "D2", replace(legacy_weight_only, dtype=E5M2, once=legacy(2, E5M2)), tolerance=0.07,
             format="float8_e5m2"),
    Specimen("legacy-dotted", "D2", replace(legacy_weight_only, scale="{}.weight.scale_weight", stored=BF16,
             once=legacy(2, BF16))),
    Specimen("comfy-marker", "D3", comfy),
    Specimen("comfy-header", "D3", comfy_header),
    Specimen("comfy-both", "D3", replace(comfy, header=layerwise())),
    Specimen("comfy-input", "D3", replace(comfy, beside=(comfy_quant(), calibrated()))),
    Specimen("comfy-full-precision", "D3", replace(comfy, beside=(comfy_quant(full_precision_matrix_mult=True),))),
    Specimen("comfy-nested", "D3", replace(comfy, beside=(comfy_quant(params={"group_size": 64}),))),
    Specimen("comfy-e5m2", "D3", Recipe(dtype=E5M2, header=layerwise("float8_e5m2")), tolerance=0.07,
             format="float8_e5m2"),
    Specimen("comfy-e5m2-mislabelled", "D3", Recipe(dtype=E5M2, header=layerwise()), tolerance=0.07,
             format="float8_e5m2"),
    Specimen("comfy-rows", "D3", replace(comfy_header, encoding=per_row), ROW),
    Specimen("comfy-net", "D3", replace(comfy_header, prefix="net.")),
    Specimen("comfy-bytes", "D3", replace(comfy_header, as_bytes=U8)),
    Specimen("comfy-mixed", "D5", replace(comfy_header, beside=(calibrated(),), keep="proj")),
    Specimen("comfy-diffusion_model", "D5", replace(comfy_header, prefix="diffusion_model.", beside=(calibrated(),))),
    # Lightricks
    Specimen("ltx", "D4", ltx, words="LTX"),
    Specimen("ltx-bare", "D4", replace(ltx, prefix=""), words="LTX"),
    Specimen("ltx-placeholder", "D4", replace(ltx, beside=(constant("{}.input_scale", 1.0),))),
    Specimen("ltx-header", "D4", replace(ltx, header=layerwise())),
    Specimen("ltx-transposed", "D4", replace(ltx, transposed=True)),
    Specimen("ltx-mixed", "D4", replace(ltx, keep=r"blocks\.1\.|\.proj"), words="LTX"),
    Specimen("ltx-all-in-one", "D4", replace(ltx, company=text_encoder_and_vae), words="LTX"),
    Specimen("ltx-sharded", "D4", replace(ltx, container=sharded), words="LTX"),
    # kijai, musubi, Tencent, lightx2v, FastVideo, Ideogram
    Specimen("kijai", "D6", replace(legacy_weight_only, stored=BF16, once=legacy(2, BF16))),
    Specimen("kijai-e5m2", "D6", replace(legacy_weight_only, dtype=E5M2, stored=BF16, once=legacy(2, BF16)),
             tolerance=0.07, format="float8_e5m2"),
    Specimen("kijai-input", "D6", Recipe(beside=(calibrated(),))),
    Specimen("kijai-weight-only", "D6", Recipe(prefix=DIFFUSION)),
    Specimen("musubi", "D7", musubi, words="musubi|scale_weight"),
    Specimen("musubi-f16", "D7", replace(musubi, stored=F16)),
    Specimen("musubi-rows", "D7", replace(musubi, encoding=per_row), ROW),
    Specimen("musubi-groups", "D7", replace(musubi, encoding=group64_3d), GROUP, words="musubi|scale_weight"),
    Specimen("musubi-e5m2", "D7", replace(musubi, dtype=E5M2), tolerance=0.07, format="float8_e5m2"),
    Specimen("hunyuanvideo", "D8", Recipe(container=hunyuan_video), words="Hunyuan"),
    Specimen("angelslim", "D9", Recipe(container=angelslim("{}.weight_scale")), words="AngelSlim"),
    Specimen("angelslim-bare", "D9", Recipe(container=angelslim("{}")), words="AngelSlim"),
    Specimen("lightx2v-rows", "D10", lightx2v, ROW),
    Specimen("lightx2v-rows-bf16", "D10", replace(lightx2v, stored=BF16), ROW),
    Specimen("lightx2v-rows-f16", "D10", replace(lightx2v, stored=F16, prefix="transformer."), ROW),
    Specimen("lightx2v-square-transposed", "D10", replace(lightx2v, transposed=True, select=square), ROW),
    Specimen("lightx2v-transposed", "D10", replace(lightx2v, transposed=True), ROW),
    Specimen("lightx2v-comfyui", "D11", replace(legacy_weight_only, stored=BF16)),
    Specimen("ideogram", "D12", ideogram, ROW, words="[Ii]deogram"),
    Specimen("ideogram-square", "D12", replace(ideogram, select=square), ROW, words="[Ii]deogram"),
    Specimen("ideogram-unnamed", "D12", replace(ideogram, header=fixed()), ROW),
    Specimen("fastvideo", "D21", Recipe(shaped(per_tensor, 1), scale="{}.scale_weight",
             beside=(constant("{}.scale_input", 1.0, (1,)),))),
    # text encoders and language models
    Specimen("deepseek", "D13", deepseek, BLOCK, words="DeepSeek|FineGrained|weight_scale_inv"),
    Specimen("deepseek-bf16", "D13", replace(deepseek, stored=BF16), BLOCK),
    Specimen("deepseek-e8m0", "D13", replace(deepseek, stored=E8M0), BLOCK),
    Specimen("deepseek-u8", "D13", replace(deepseek, stored=U8), BLOCK),
    Specimen("deepseek-alone", "D13", replace(deepseek, container=one_file), BLOCK),
    Specimen("deepseek-v4", "D13", replace(deepseek, scale="{}.scale", stored=E8M0), BLOCK),
    Specimen("deepseek-scalar", "D13", replace(deepseek, encoding=per_tensor,
             beside=(calibrated("{}.activation_scale"),),
             container=quantization(quant_method="fp8", activation_scheme="static"))),
    Specimen("mistral", "D14", Recipe(scale="{}.qscale_weight", beside=(calibrated("{}.qscale_act"),),
             container=folder("consolidated.safetensors", params={"dim": 128})), words="Mistral"),
    Specimen("compressed-tensor", "D15", replace(compressed, beside=(calibrated(shape=(1,)),)),
             words="compressed-tensors"),
    Specimen("compressed-channel", "D15", replace(compressed, encoding=per_row), ROW),
    Specimen("compressed-group", "D15", replace(compressed, encoding=group128), GROUP),
    Specimen("compressed-block", "D15", replace(compressed, encoding=block128), BLOCK),
    Specimen("autofp8", "D15", replace(compressed, stored=F32, beside=(calibrated("{}.act_scale"),),
             container=quantization(quant_method="fp8", activation_scheme="static"))),
    Specimen("vllm-fused", "D15", replace(compressed, encoding=fused_thirds), "either"),
    Specimen("text-encoder", "D2", replace(legacy_weight_only, prefix="text_encoders.qwen25_7b.transformer.model.")),
    # NVIDIA
    Specimen("modelopt", "D16", modelopt, words="ModelOpt"),
    Specimen("modelopt-rows", "D16", replace(modelopt, encoding=shaped(per_row, -1), beside=()), ROW),
    Specimen("modelopt-bytes", "D16", replace(modelopt, as_bytes=U8), words="ModelOpt"),
    Specimen("modelopt-signed-bytes", "D16", replace(modelopt, as_bytes=I8), words="ModelOpt"),
    Specimen("modelopt-header", "D16", Recipe(beside=(calibrated(),), header=lambda layers: layerwise("fp8")(layers) | {
             "quantization_config": json.dumps({"quant_method": "modelopt", "quant_algo": "FP8"})})),
    Specimen("modelopt-hf", "D16", replace(modelopt, container=folder("model.safetensors", hf_quant_config={
             "producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}})), words="ModelOpt"),
    Specimen("modelopt-native", "D17", Recipe(scale="{}.weight_quantizer._scale"), expected="refused",
             words="ModelOpt"),
    # libraries
    Specimen("torchao-rows", "D18", torchao_new, ROW, words="torchao"),
    Specimen("torchao-tensor", "D18", replace(torchao_new, encoding=torchao("tensor")), words="torchao"),
    Specimen("torchao-old", "D18", replace(torchao_new, weight="{}.weight:qdata", scale="{}.weight:scale"), ROW),
    Specimen("quanto", "D19", quanto_e4m3, ROW, words="quanto"),
    Specimen("quanto-alone", "D19", replace(quanto_e4m3, container=one_file), ROW, words="quanto"),
    Specimen("quanto-e5m2", "D19", replace(quanto_e4m3, encoding=quanto("qfloat8_e5m2"),
             container=quanto_files("qfloat8_e5m2")), ROW, tolerance=0.07, format="float8_e5m2"),
    Specimen("quanto-fnuz", "D19", replace(quanto_e4m3, encoding=quanto("qfloat8_e4m3fnuz"),
             container=quanto_files("qfloat8_e4m3fnuz")), ROW, format="float8_e4m3fnuz"),
    Specimen("flux-fp8-api", "D20", flux_fp8_api, words="flux-fp8-api|flumina"),
    Specimen("ctq-rows", "D22", ctq, ROW),
    Specimen("ctq-blocks", "D22", replace(ctq, encoding=blocks_or_rows,
             beside=(comfy_quant("float8_e4m3fn_blockwise", orig_dtype="torch.bfloat16", group_size=64),)), "any"),
    Specimen("ctq-blocks-nested", "D22", replace(ctq, encoding=block64, select=multiple(64),
             beside=(comfy_quant("float8_e4m3fn_blockwise", params={"group_size": 64}),)), BLOCK),
    Specimen("ctq-block3d", "D22", replace(ctq, encoding=group64_3d, select=multiple(64),
             beside=(comfy_quant("float8_e4m3fn_block3d", group_size=64),)), GROUP),
    Specimen("ctq-text-encoder", "D22", replace(comfy, beside=(comfy_quant(), lambda layer: {
             f"{layer.name}.input_scale": layer.scale.clone()}))),
    Specimen("ctq-dummies", "D22", replace(legacy_weight_only, keep="proj|mlp.2", once=lambda layers, recipe:
             legacy(2)(layers, recipe) | {f"blocks.{i}.{n}.scale_weight": scalar(1.0) for i in (0, 1)
                                          for n in ("attn.proj", "mlp.2")})),
    # microscaling, four bits, int8
    Specimen("mxfp8", "D23", mxfp8, GROUP, format="mxfp8"),
    Specimen("mxfp8-padded", "D23", replace(mxfp8, select=big, beside=(with_shape("mxfp8", 32),)), GROUP,
             format="mxfp8"),
    Specimen("mxfp8-e8m0", "D23", replace(mxfp8, stored=E8M0), GROUP, format="mxfp8"),
    Specimen("mxfp8-hand-swizzled", "D23", replace(mxfp8, encoding=swizzled(group32), header=layerwise("mxfp8"),
             beside=()), GROUP, format="mxfp8"),
    Specimen("mxfp8-compressed", "D23b", mxfp8_linear, GROUP, format="mxfp8", words="compressed-tensors|MXFP8"),
    Specimen("mxfp8-modelopt", "D23b", replace(mxfp8_linear, container=quantization(quant_method="modelopt",
             quant_algo="MXFP8")), GROUP, format="mxfp8"),
    Specimen("mxfp8-hybrid", "D23c", replace(mxfp8, beside=(comfy_quant("hybrid_mxfp8"),
             constant("{}.weight_scalar", 0.001))), GROUP, format="mxfp8"),
    Specimen("nvfp4", "D24", nvfp4_comfy, GROUP, tolerance=0.13, format="nvfp4"),
    Specimen("nvfp4-padded", "D24", replace(nvfp4_comfy, select=big, beside=(global_scale, with_shape("nvfp4", 16))),
             GROUP, tolerance=0.13, format="nvfp4"),
    Specimen("nvfp4-pre-quant-scale", "D24", replace(nvfp4_comfy, encoding=smoothed, beside=(smooth_companions,
             comfy_quant("nvfp4"))), GROUP, tolerance=0.13, format="nvfp4"),
    Specimen("nvfp4-compressed", "D24b", nvfp4_compressed, GROUP, tolerance=0.13, format="nvfp4",
             words="compressed-tensors"),
    Specimen("nvfp4-lightx2v", "D24c", nvfp4_lightx2v, GROUP, tolerance=0.13, format="nvfp4", words="lightx2v"),
    Specimen("nvfp4-lightx2v-alpha", "D24c", replace(nvfp4_lightx2v, beside=(calibrated_alpha,)), GROUP,
             tolerance=0.13, format="nvfp4", words="lightx2v"),
    Specimen("nvfp4-modelopt", "D24d", nvfp4_modelopt, GROUP, tolerance=0.13, format="nvfp4", words="ModelOpt"),
    Specimen("nvfp4-modelopt-svd", "D24d", nvfp4_modelopt_svd, GROUP, tolerance=0.13, format="nvfp4",
             words="ModelOpt"),
    Specimen("nvfp4-bare", "D24e", replace(nvfp4_modelopt, container=one_file, beside=(multiplied,)),
             expected="refused", words="ModelOpt's order"),
    Specimen("nvfp4-convrot", "D24", nvfp4_convrot, GROUP, tolerance=0.13, format="nvfp4"),
    Specimen("mxfp4-autoround", "D35", mxfp4_autoround, GROUP, tolerance=0.2, format="nvfp4", words="MXFP4"),
    Specimen("int8", "D25", int8_tensor, format="int8"),
    Specimen("int8-rows", "D25", replace(int8_tensor, encoding=per_row), ROW, format="int8"),
    Specimen("int8-convrot", "D25", replace(int8_tensor, encoding=rotated(per_row, 64), select=multiple(64),
             beside=(convrot,)), ROW, format="any"),
    Specimen("convrot-w4a4", "D25", Recipe(convrot_w4a4, select=multiple(64), beside=(comfy_quant("convrot_w4a4",
             convrot_groupsize=64),)), "any", tolerance=0.2, format="any"),
    Specimen("w4a8", "D25", Recipe(w4a8, scale="{}.weight_s_rel", select=square, beside=(w4a8_companions,
             comfy_quant("asym_w4a8_int8", group_size=16, convrot_groupsize=64))), "any", tolerance=0.2, format="any"),
    Specimen("int8-rowwise", "D25b", int8_rowwise, ROW, format="int8"),
    Specimen("int8-blockwise", "D25b", int8_blockwise, BLOCK, format="int8"),
    Specimen("int8-blockwise-64", "D25b", int8_small_blocks, BLOCK, format="int8"),
    Specimen("int8-fast", "D25c", replace(int8_tensor, encoding=per_row, beside=(without_format(per_row=True),)), ROW,
             format="int8", words="INT8-Fast"),
    Specimen("int8-fast-convrot", "D25c", replace(int8_tensor, encoding=rotated(per_row, 64), select=multiple(64),
             beside=(without_format(convrot=True, convrot_groupsize=64),)), ROW, format="int8_convrot"),
    Specimen("int8-fast-silent", "D25c", replace(int8_tensor, encoding=per_row, beside=(without_format(),)),
             expected="refused", words="names no format"),
    Specimen("int8-convolutions", "D25", replace(int8_tensor, encoding=flat_rows, select=with_convs), "any",
             format="int8"),
    # low rank, and zero points
    Specimen("svdquant", "D32", svdquant_natural, GROUP, tolerance=0.15, format="svdquant_w4a4", words="SVDQuant"),
    Specimen("svdquant-tiles", "D32", svdquant_tiles, GROUP, tolerance=0.15, format="svdquant_w4a4"),
    Specimen("awq-w4a16", "D33", awq_kitchen, GROUP, tolerance=0.15, format="awq_w4a16", words="AWQ"),
    Specimen("nunchaku", "D27", nunchaku_recipe(("proj_up", "proj_down", "smooth_factor")), GROUP, tolerance=0.15,
             format="svdquant_w4a4", words="[Nn]unchaku"),
    Specimen("nunchaku-flux", "D27", nunchaku_recipe(("lora_up", "lora_down", "smooth")), GROUP, tolerance=0.15,
             format="svdquant_w4a4", words="[Nn]unchaku"),
    Specimen("nunchaku-fp4", "D27b", nunchaku_fp4(1), GROUP, tolerance=0.12, format="nvfp4", words="[Nn]unchaku"),
    Specimen("nunchaku-fp4-joined", "D27b", nunchaku_fp4(2), GROUP, tolerance=0.12,
             format="float8_e4m3fn", words="[Nn]unchaku"),
    Specimen("nunchaku-awq", "D27", awq_recipe(1), GROUP, tolerance=0.15, format="awq_w4a16"),
    # AMD
    Specimen("fnuz", "D29", Recipe(dtype=E4M3_FNUZ), format="float8_e4m3fnuz"),
    Specimen("fnuz-e5m2", "D29", Recipe(dtype=E5M2_FNUZ, scale="{}.scale_weight"), tolerance=0.07,
             format="float8_e5m2fnuz"),
    Specimen("fbgemm", "D31", fbgemm, ROW, words="fbgemm"),
    # known and refused
    Specimen("sdnq", "D26", sdnq, ROW, words="SDNQ"),
    Specimen("sdnq-transposed", "D26", replace(sdnq, encoding=shaped(per_row, 1, -1), transposed=True), ROW),
    Specimen("sdnq-no-config", "D26", Recipe(per_row, scale="{}.scale"), expected="refused", words="SDNQ|SD\\.Next"),
    Specimen("nunchaku-fp4-wide-scales", "D27b", Recipe(per_row, dtype=I8, weight="{}.qweight", scale="{}.wscales",
             beside=(constant("{}.wtscale", 0.5),)), expected="refused", words="[Nn]unchaku"),
    Specimen("gptq", "D34", Recipe(per_row, dtype=I8, weight="{}.qweight", scale="{}.scales"), expected="refused",
             words="GPTQ"),
    Specimen("transformer-engine", "D28", Recipe(scale=None, as_bytes=U8, beside=(lambda layer: {
             f"{layer.name}._extra_state": torch.arange(96, dtype=U8)},)), expected="refused",
             words="Transformer Engine"),
]  # fmt: skip

ZOO: dict[str, Specimen] = {specimen.name: specimen for specimen in SPECIMENS}

# One of each family, for expensive tests.
CORE = (
    "plain-e4m3", "comfy-header", "comfy-marker", "legacy-2", "ltx", "lightx2v-rows", "musubi", "musubi-groups",
    "deepseek-alone", "kijai-e5m2", "ltx-transposed", "quanto-alone", "flux-fp8-api",
)  # fmt: skip


# ---- a model to store -----------------------------------------------------------------------------------------------


def tiny_model(hidden: int = 128, depth: int = 2, seed: int = 0) -> StateDict:
    """A transformer's state dict in bf16: square and other shapes, biases, norms, heavy tails, one layer of zeros."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"img_in": (hidden, 64), "final_layer.linear": (72, hidden), "context_in": (hidden, 200)}
    for i in range(depth):
        sizes |= {f"blocks.{i}.attn.qkv": (3 * hidden, hidden), f"blocks.{i}.attn.proj": (hidden, hidden),
                  f"blocks.{i}.mlp.0": (4 * hidden, hidden), f"blocks.{i}.mlp.2": (hidden, 4 * hidden)}  # fmt: skip
    model: StateDict = {}
    for name, size in sizes.items():
        weight = torch.randn(size, generator=generator) / size[1] ** 0.5
        if name.endswith("mlp.0"):
            # a few outliers, as trained models have
            weight *= torch.exp(0.5 * torch.randn(size, generator=generator))
        model[f"{name}.weight"] = weight
        model[f"{name}.bias"] = 0.1 * torch.randn(size[0], generator=generator)
    for i in range(depth):
        model[f"blocks.{i}.norm.weight"] = 1 + 0.1 * torch.randn(hidden, generator=generator)
    model["modulation.lin.weight"] = torch.zeros(2 * hidden, hidden)
    model["patch_embed.weight"] = torch.randn(hidden, 4, 2, 2, generator=generator) / 4
    return {key: tensor.to(BF16) for key, tensor in model.items()}
