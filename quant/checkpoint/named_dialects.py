"""Dialects told apart by the names of their tensors."""

from __future__ import annotations

from .dialect import CODES, HALF, NOISE, Dialect
from .signs import (
    compressed_nvfp4,
    has,
    int8_fast,
    lightx2v_nvfp4,
    modelopt_nvfp4,
    mxfp4,
    nunchaku_int4,
    nunchaku_nvfp4,
    nvfp4_triple,
    opaque,
    sdnq,
)

NAMED = (
    Dialect(
        "D27", "Nunchaku SVDQuant INT4", "Nunchaku, DeepCompressor", nunchaku_int4,
        keys=(
            "qweight I8 [out, in / 2] in MMA order; wscales BF16 [in / 64, out]; proj_up, proj_down, smooth_factor "
            "(lora_up, lora_down, smooth) in MMA order; of AWQ layers qweight I32 [out / 4, in / 2], wscales, wzeros"
        ),
        formula="W = codes * scale / smooth_factor + proj_up @ proj_down.T; AWQ: W = codes * scale + zero",
        example="svdq-int4_r32-qwen-image: transformer_blocks.0.attn.to_qkv.qweight",
        recognised_by="qweight with wscales in 16 bits",
        core="does not find its layers: an error",
    ),
    Dialect(
        "D27b", "Nunchaku SVDQuant NVFP4", "Nunchaku, DeepCompressor", nunchaku_nvfp4,
        keys=(
            "qweight I8 [out, in / 2], wscales F8_E4M3 [in / 16, out] in MMA order; wtscale [], or wcscales [out] of "
            "layers that were joined; proj_up, proj_down, smooth_factor as in its INT4"
        ),
        formula="W = codes * scale * wtscale * wcscales / smooth_factor + proj_up @ proj_down.T",
        example="svdq-fp4_r32-flux.1-dev",
        recognised_by="wcscales or wtscale, or wscales in F8",
        core="does not find its layers: an error",
    ),
    Dialect(
        "D34", "GPTQ or AutoAWQ", "GPTQModel, AutoAWQ", has(".qweight"),
        keys="qweight I32; qzeros; scales; g_idx",
        formula="not decoded",
        example="language models",
        recognised_by="qweight without wscales",
        core="does not find its layers: an error",
        advice="it is made for language models: take the original or an FP8 file of the same model",
    ),
    Dialect(
        "D17", "ModelOpt quantizer state", "NVIDIA ModelOpt",
        lambda m: "quantizer" in m.roles or m.has(".weight_quantizer._scale"),
        keys="weight; weight_quantizer._scale, weight_quantizer._amax; input_quantizer._amax",
        formula="not decoded",
        example="a model saved by mto.save",
        recognised_by="weight_quantizer",
        core=NOISE,
        advice="export it with ModelOpt's export_hf_checkpoint, which writes weight_scale",
    ),
    Dialect(
        "D28", "Transformer Engine", "NVIDIA Transformer Engine", opaque,
        keys="weight U8; _extra_state (pickled)",
        formula="not decoded",
        example="models of fp8_model_init",
        recognised_by="_extra_state beside bytes",
        core=NOISE,
        advice="its scales are pickled in _extra_state: save the model from there dequantized to bf16",
    ),
    Dialect(
        "D35", "MXFP4", "AutoRound, llm-compressor", mxfp4,
        keys="weight_packed U8 [out, in / 2], even element low; weight_scale U8 [out, in / 32]",
        formula="W = codes * 2^(scale - 127), held as NVFP4 with the same values",
        example="auto_round with data_type mx_fp4, packing auto_round:llm_compressor",
        recognised_by="weight_packed with scales of powers of two",
        core="does not find its layers: an error",
    ),
    Dialect(
        "D24b", "NVFP4 of compressed-tensors", "llm-compressor, AutoRound", compressed_nvfp4,
        keys=(
            "weight_packed U8 [out, in / 2], even element low; weight_scale F8_E4M3 [out, in / 16] in rows; "
            "weight_global_scale F32 [1] (2688 / amax)"
        ),
        formula="W = codes * scale / global_scale",
        example="nvfp4-pack-quantized in config.json",
        recognised_by="weight_packed with weight_global_scale",
        core="does not find its layers: an error",
    ),
    Dialect(
        "D24c", "NVFP4 of lightx2v", "lightx2v", lightx2v_nvfp4,
        keys=(
            "weight U8 [out, in / 2], even element low; weight_scale F8_E4M3 in cuBLAS tiles; weight_global_scale F32 "
            "[], or alpha and input_global_scale"
        ),
        formula="W = codes * scale / global_scale, or * alpha * input_global_scale",
        example="Wan-NVFP4 of lightx2v",
        recognised_by="weight with weight_global_scale, or with alpha and input_global_scale",
        core=HALF,
    ),
    Dialect(
        "D24d", "NVFP4 of ModelOpt", "NVIDIA ModelOpt", modelopt_nvfp4,
        keys=(
            "weight U8 [out, in / 2], even element low; weight_scale F8_E4M3 [out, in / 16] in rows; weight_scale_2 F32"
            " []; pre_quant_scale [in]; svdquant_lora_a [r, in], svdquant_lora_b [out, r]"
        ),
        formula="W = (codes * scale * scale_2 + lora_b @ lora_a) * pre_quant_scale",
        example="hf_quant_config.json {quant_algo: NVFP4} or NVFP4_SVD",
        recognised_by="weight_scale_2 and ModelOpt's config",
        core=HALF,
    ),
    Dialect(
        "D24e", "NVFP4 of unknown order", "unknown", nvfp4_triple,
        keys="weight U8; weight_scale F8_E4M3; weight_scale_2 F32",
        formula="not decoded",
        example="repacks without metadata",
        recognised_by="weight_scale_2 without marker or config",
        core=HALF,
        advice=(
            "nothing says whether its nibbles and block scales lie in ComfyUI's or in ModelOpt's order: get the file "
            "with its markers, or with ModelOpt's config.json beside it"
        ),
    ),
    Dialect(
        "D20", "flux-fp8-api", "aredden flux-fp8-api, flumina, cog-flux", has(".float8_data"),
        keys="float8_data F8; scale F32 [] (448 / amax); scale_reciprocal F32 []; weight [1] (empty)",
        formula="W = codes * scale_reciprocal",
        example="flux-dev-fp8 of flux-fp8-api",
        recognised_by="float8_data",
        core="NaN or an error",
    ),
    Dialect(
        "D19", "optimum-quanto", "Hugging Face optimum-quanto", has(".weight._data"),
        keys="weight._data F8; weight._scale [out, 1]; input_scale, output_scale [] (1 where unused)",
        formula=CODES,
        example="quanto_qmap.json beside it",
        recognised_by="weight._data",
        core="does not find its layers: NaN",
    ),
    Dialect(
        "D18", "torchao", "PyTorch torchao", has("._weight_qdata", ".weight:qdata"),
        keys="_weight_qdata F8; _weight_scale F32 [out, 1], [1, 1] or blocks",
        formula=CODES,
        example="tensor_names in the header",
        recognised_by="_weight_qdata or weight:qdata",
        core="does not find its layers: an error",
    ),
    Dialect(
        "D26", "SDNQ", "SD.Next SDNQ", sdnq,
        keys="weight F8; scale [out, 1], or both transposed; zero_point; svd_up, svd_down",
        formula=CODES,
        example="quantization_config.json {quant_method: sdnq}",
        recognised_by="scale, and its config",
        core=NOISE,
        advice="keep its quantization_config.json beside it, or save it dequantized from SD.Next",
        transposed=True,
    ),
    Dialect(
        "D14", "Mistral qscale_weight", "Mistral AI", has(".qscale_weight"),
        keys="weight F8; qscale_weight []; qscale_act []",
        formula=CODES,
        example="consolidated.safetensors, params.json",
        recognised_by="qscale_weight",
        core=NOISE,
    ),
    Dialect(
        "D25c", "ComfyUI-INT8-Fast", "ComfyUI-INT8-Fast", int8_fast,
        keys="weight I8; weight_scale F32 [] or [out, 1]",
        formula="W = codes * scale, rotated back where the marker says convrot",
        example="comfy_quant {convrot: true, convrot_groupsize: 256}",
        recognised_by="a marker that names no format but says whether its I8 codes are rotated",
        core="an error",
    ),
    Dialect(
        "D23b", "linear MXFP8", "compressed-tensors, ModelOpt, lightx2v", lambda m: m.micro,
        keys="weight F8_E4M3; weight_scale U8 [out, in / 32] in rows",
        formula="W = codes * 2^(scale - 127)",
        example="config.json {format: mxfp8-quantized}",
        recognised_by="scales of powers of two; tiles or rows by config and codes",
        core=NOISE,
    ),
)  # fmt: skip
