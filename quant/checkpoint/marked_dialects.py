"""Dialects whose marker names a format, which is binding."""

from __future__ import annotations

from .dialect import CODES, LOADS, UNKNOWN, Dialect
from .signs import based, hybrid, named

MARKED = (
    Dialect(
        "D25", "ComfyUI INT8 and INT4", "ComfyUI, convert_to_quant",
        named("int8_tensorwise", "convrot_w4a4", "asym_w4a8_int8"),
        keys=(
            "weight I8 of a Linear, a convolution or an embedding; weight_scale F32 [], [out] or [out, 1]; of W4A8 "
            "weight_s_rel, weight_s_channel, weight_codebook"
        ),
        formula="W = codes * scale, then rotated back by blocks of convrot_groupsize (Hadamard)",
        example="comfy_quant {format: int8_tensorwise, convrot: true, convrot_groupsize: 256}",
        recognised_by="marker",
        core="loads it in Linears and embeddings; of a convolution it takes the codes for weights: noise, no error",
        marked=True,
    ),
    Dialect(
        "D25b", "INT8 by rows or blocks", "convert_to_quant, ComfyUI-QuantOps", based("int8", "int8_convrot"),
        keys="weight I8; weight_scale F32 [out], [out, 1] or [out / group_size, in / group_size]",
        formula=CODES,
        example="comfy_quant {format: int8_blockwise, group_size: 128}",
        recognised_by="marker int8_rowwise or int8_blockwise",
        core=UNKNOWN,
        marked=True,
    ),
    Dialect(
        "D23c", "hybrid MXFP8", "convert_to_quant", hybrid,
        keys="as ComfyUI MXFP8, and weight_scalar F32 []",
        formula="W = codes * 2^(scale - 127); weight_scalar is a stand-in",
        example="comfy_quant {format: hybrid_mxfp8}",
        recognised_by="marker, or weight_scalar",
        core=UNKNOWN,
        marked=True,
    ),
    Dialect(
        "D23", "ComfyUI MXFP8", "ComfyUI, convert_to_quant", based("mxfp8"),
        keys="weight F8_E4M3; weight_scale U8 or F8_E8M0 [out, in / 32] in cuBLAS tiles",
        formula="W = codes * 2^(scale - 127)",
        example="comfy_quant {format: mxfp8}",
        recognised_by="marker; tiles or rows by the codes",
        core=LOADS,
        marked=True,
    ),
    Dialect(
        "D24", "ComfyUI NVFP4", "ComfyUI, Black Forest Labs, Lightricks", based("nvfp4"),
        keys=(
            "weight U8 [out, in / 2], even element high; weight_scale F8_E4M3 [out, in / 16] in cuBLAS tiles; "
            "weight_scale_2 F32 []; pre_quant_scale [in]"
        ),
        formula="W = codes * scale * scale_2 * pre_quant_scale",
        example="comfy_quant {format: nvfp4}",
        recognised_by="marker",
        core="loads it; with convrot in the marker it leaves the rotation out: noise, no error",
        marked=True,
    ),
    Dialect(
        "D32", "SVDQuant W4A4 of comfy-kitchen", "comfy-kitchen, ComfyUI pull request 13580", based("svdquant_w4a4"),
        keys=(
            "weight I8 [out, in / 2], even element low; weight_scale [in / 64, out]; proj_up [out, r]; proj_down [in, "
            "r]; smooth_factor [in]; packed: weight [out / 128, in / 64, 32, 128], weight_scale and proj_up in 128s too"
        ),
        formula="W = codes * scale / smooth_factor + proj_up @ proj_down.T",
        example="comfy_quant {format: svdquant_w4a4}",
        recognised_by="marker; the packed form by its four dimensions",
        core=UNKNOWN,
        marked=True,
    ),
    Dialect(
        "D33", "AWQ W4A16 of comfy-kitchen", "comfy-kitchen, ComfyUI pull request 13580", based("awq_w4a16"),
        keys="weight I8 [out, in / 2], even element low; weight_scale, weight_zero [in / 64, out]",
        formula="W = (codes - 8) * scale + zero",
        example="comfy_quant {format: awq_w4a16}",
        recognised_by="marker",
        core=UNKNOWN,
        marked=True,
    ),
    Dialect(
        "D3, D5, D6", "ComfyUI weight_scale, marked", "ComfyUI, Black Forest Labs, kijai",
        named("float8_e4m3fn", "float8_e5m2", "fp8"),
        keys="weight F8; weight_scale F32 [] (rows are read too)",
        formula=CODES,
        example="flux2_dev_fp8mixed: comfy_quant or _quantization_metadata {format: float8_e4m3fn}",
        recognised_by="marker; the tensor's dtype outranks its name of the FP8 format",
        core="loads it; E5M2 that is marked as E4M3: noise; scales by rows: an error with FP8 matrix products",
        marked=True,
    ),
    Dialect(
        "D22", "convert_to_quant row or block scales", "convert_to_quant, ComfyUI-QuantOps",
        based("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
        keys="weight F8; weight_scale F32 [out], [out / group_size, in / group_size] or [out, in / group_size, 1]",
        formula=CODES,
        example="comfy_quant {format: float8_e4m3fn_blockwise, group_size: 64}",
        recognised_by="marker",
        core=UNKNOWN,
        marked=True,
    ),
    Dialect(
        "D23e", "INT4 as this pack writes it", "this pack", based("int4", "int4_convrot"),
        keys="as ComfyUI INT8 and INT4, and pre_quant_scale [in]",
        formula="W = codes * scale * pre_quant_scale",
        example="comfy_quant {format: int4_smooth}",
        recognised_by="marker",
        core=UNKNOWN,
        marked=True,
    ),
)  # fmt: skip
