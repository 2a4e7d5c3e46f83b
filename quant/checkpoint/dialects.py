"""The dialects of FP8 checkpoints: how each producer stores a scaled weight, one entry each, in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .module import CODES, FLOAT8, Module

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Dialect:
    """One producer's way to store a scaled weight.

    number: where the catalogue of dialects describes it; sign: whether a module is written in it, asked in the
    order of the table; advice: for one that is refused, the way out; linear: block scales lie in rows, not in
    cuBLAS tiles; reciprocal: its documents name both directions of the scale, so the numbers decide;
    transposed: `[in, out]` files of it are known, so a layout without any evidence is doubtful.
    """

    number: str
    name: str
    producer: str
    sign: Callable[[Module], bool]
    advice: str = ""
    linear: bool = False
    reciprocal: bool = False
    transposed: bool = False


def has(*suffixes: str) -> Callable[[Module], bool]:
    return lambda m: m.has(*suffixes)


def marked(*formats: str) -> Callable[[Module], bool]:
    return lambda m: m.format in formats


def opaque(m: Module) -> bool:
    """FP8 bytes whose scale hides in Transformer Engine's pickled state."""
    return m.has("._extra_state") and m.dtype() in CODES and not m.key("scale")


def nvfp4_triple(m: Module) -> bool:
    return m.dtype() == "U8" and m.dtype("scale") in ("F8_E4M3", "U8") and m.key("global_scale") is not None


def foreign_nvfp4(m: Module) -> bool:
    packed = m.dtype() == "U8" and m.dtype("scale") == "F8_E4M3"
    return m.has(".weight_packed", ".weight_global_scale") or ((packed or nvfp4_triple(m)) and m.format != "nvfp4")


def grid_of_blocks(m: Module) -> bool:
    """A `.scale` over blocks (DeepSeek-V4), not over rows or groups of them (SDNQ)."""
    weight, scale = m.shape(), m.shape("scale")
    return m.has(".scale") and len(weight) == len(scale) == 2 and scale[0] < weight[0] and scale != (1, weight[1])


def sdnq(m: Module) -> bool:
    bare = m.has(".scale") and not m.has(".float8_data")
    return m.clues.method == "sdnq" and m.key("scale") is not None or (bare and not grid_of_blocks(m))


def ideogram(m: Module) -> bool:
    return m.clues.header.get("model_type", "").startswith("ideogram4") or bool(m.clues.config.get("ideogram_fp8"))


def comfy_fp8(m: Module) -> bool:
    return m.format in ("float8_e4m3fn", "float8_e5m2", "fp8") and m.key("scale") is not None


NOT_MARKED = "convert the original model again with a tool that writes ComfyUI's markers"

DIALECTS = (
    Dialect("D27", "Nunchaku SVDQuant", "Nunchaku", lambda m: m.has(".qweight") or "nunchaku" in m.roles,
            advice="it is INT4/NVFP4 with a low-rank part: load it with Nunchaku's own nodes"),
    Dialect("D17", "ModelOpt quantizer state", "NVIDIA ModelOpt", lambda m: "quantizer" in m.roles
            or m.has(".weight_quantizer._scale"),
            advice="export it with ModelOpt's export_hf_checkpoint, which writes weight_scale"),
    Dialect("D28", "Transformer Engine", "NVIDIA Transformer Engine", opaque,
            advice="its scales are pickled in _extra_state: save the model from there dequantized to bf16"),
    Dialect("D24b", "NVFP4 of compressed-tensors or lightx2v", "llm-compressor, lightx2v", foreign_nvfp4,
            advice="its nibble and scale order is not ComfyUI's: " + NOT_MARKED),
    Dialect("D20", "flux-fp8-api", "aredden flux-fp8-api, flumina, cog-flux", has(".float8_data")),
    Dialect("D19", "optimum-quanto", "Hugging Face optimum-quanto", has(".weight._data")),
    Dialect("D18", "torchao", "PyTorch torchao", has("._weight_qdata", ".weight:qdata")),
    Dialect("D26", "SDNQ", "SD.Next SDNQ", sdnq, transposed=True,
            advice="keep its quantization_config.json beside it, or save it dequantized from SD.Next"),
    Dialect("D14", "Mistral qscale_weight", "Mistral AI", has(".qscale_weight")),
    Dialect("D25", "ComfyUI INT8", "ComfyUI, convert_to_quant",
            lambda m: m.format in ("int8_tensorwise", "convrot_w4a4", "asym_w4a8_int8")),
    Dialect("D23c", "hybrid MXFP8", "convert_to_quant", lambda m: m.micro and m.key("fallback_scale") is not None),
    Dialect("D23", "ComfyUI MXFP8", "ComfyUI, convert_to_quant", marked("mxfp8", "hybrid_mxfp8")),
    Dialect("D23b", "linear MXFP8", "compressed-tensors, ModelOpt, lightx2v", lambda m: m.micro, linear=True),
    Dialect("D24", "ComfyUI NVFP4", "ComfyUI, BFL, Lightricks", marked("nvfp4")),
    Dialect("D22", "convert_to_quant row or block scales", "convert_to_quant, ComfyUI-QuantOps",
            marked("float8_e4m3fn_rowwise", "float8_e4m3fn_blockwise", "float8_e4m3fn_block3d")),
    Dialect("D13", "DeepSeek block weight_scale_inv", "DeepSeek, Qwen, Hugging Face FineGrainedFP8",
            lambda m: m.has(".weight_scale_inv") or grid_of_blocks(m), reciprocal=True),
    Dialect("D8", "HunyuanVideo fp8 map", "Tencent HunyuanVideo",
            lambda m: m.has(".fp8_map_scale") or (m.has("=") and m.scale_from("_map.pt"))),
    Dialect("D9", "AngelSlim fp8_scales", "Tencent AngelSlim",
            lambda m: m.has("=") or m.scale_from("fp8_scales.safetensors", "fp8_scales.pth")),
    Dialect("D3, D5, D6", "ComfyUI weight_scale, marked", "ComfyUI, Black Forest Labs, kijai", comfy_fp8),
    Dialect("D2, D6, D11", "ComfyUI legacy scaled_fp8", "ComfyUI, kijai, lightx2v --comfyui_mode",
            lambda m: m.has(".scale_weight", ".weight.scale_weight") and m.clues.in_legacy_scope(m.name)),
    Dialect("D12", "Ideogram 4 row scales", "Ideogram", lambda m: m.key("scale") is not None and ideogram(m)),
    Dialect("D31", "FBGEMM FP8", "Hugging Face transformers fbgemm_fp8",
            lambda m: m.has(".input_scale_ub") or (m.key("scale") is not None and m.clues.method == "fbgemm_fp8")),
    Dialect("D16", "ModelOpt export", "NVIDIA ModelOpt",
            lambda m: m.key("scale") is not None and m.clues.method.startswith(("modelopt", "fp8_p"))),
    Dialect("D15", "compressed-tensors / AutoFP8", "llm-compressor, vLLM, AutoFP8",
            lambda m: m.key("scale") is not None and (m.clues.method in ("compressed-tensors", "fp8", "auto-round")
                                                      or m.has(".act_scale"))),
    Dialect("D29", "AMD fnuz", "AMD Quark, MI300 exports",
            lambda m: m.dtype().endswith("FNUZ") and m.key("scale") is not None),
    Dialect("D21", "FastVideo AbsMaxFP8", "FastVideo",
            lambda m: m.has(".scale_weight") and m.has(".scale_input") and m.shape("scale") == (1,)),
    Dialect("D7", "musubi-tuner fp8_scaled (scale_weight, no marker)", "musubi-tuner, sd-scripts, FramePack",
            has(".scale_weight", ".weight.scale_weight")),
    Dialect("D10", "lightx2v per-channel", "lightx2v",
            lambda m: len(m.shape("scale")) == 2 and m.shape("scale")[1] == 1 and m.dtype() in FLOAT8),
    Dialect("D4", "LTX-2 (weight_scale, no marker)", "Lightricks LTX-2, repacks without metadata",
            lambda m: m.key("scale") is not None, transposed=True),
    Dialect("D1, D30", "plain cast", "ComfyUI, kijai, diffusers layerwise casting", lambda m: m.dtype() in FLOAT8),
)  # fmt: skip

PLAIN = DIALECTS[-1]


def dialect_of(module: Module) -> Dialect | None:
    """The first dialect of the table that the module is written in."""
    return next((d for d in DIALECTS if d.sign(module)), None)
