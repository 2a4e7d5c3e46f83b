"""Small builds of every text encoder that ComfyUI recognises: its own class, narrow, with random weights."""

from __future__ import annotations

from dataclasses import dataclass, field

LLAMA = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
T5 = {"d_model": 64, "d_ff": 96, "d_kv": 16, "num_heads": 4}
CLIP = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
# where no text is encoded, four layers are as good as all
FEW = {**LLAMA, "num_hidden_layers": 4, "vocab_size": 4096}
# heads of their own width, and no tables of every layer's own embeddings
GEMMA4 = {**FEW, "num_hidden_layers": 6, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}
QWEN35 = {**LLAMA, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "num_hidden_layers": 8, "vocab_size": 4096}


@dataclass(frozen=True)
class SmallEncoder:
    """kinds: of comfy.sd.TEModel, one a file; type: as in ComfyUI's loaders; sizes: narrower than its own.

    text: whether a text can be encoded; it needs a tokenizer that some files bring along, and some widths are fixed.
    """

    kinds: tuple[str, ...]
    type: str
    sizes: dict[str, object] = field(default_factory=dict)
    text: bool = True


def one(kind: str, type: str, sizes: dict[str, object], text: bool = True) -> SmallEncoder:
    return SmallEncoder((kind,), type, sizes, text)


ENCODERS: dict[str, SmallEncoder] = {
    "CLIP-L": one("CLIP_L", "stable_diffusion", CLIP),
    "CLIP-H": one("CLIP_H", "stable_diffusion", CLIP),
    "CLIP-G": one("CLIP_G", "stable_diffusion", CLIP),
    "T5-XXL of SD3": one("T5_XXL", "sd3", T5),
    "T5-XXL of LTXV": one("T5_XXL", "ltxv", T5),
    "T5-XXL of Chroma": one("T5_XXL", "chroma", T5),
    "T5-XXL of CogVideoX": one("T5_XXL", "cogvideox", T5),
    "T5-XXL of Mochi": one("T5_XXL", "mochi", T5),
    "UMT5-XXL": one("T5_XXL", "wan", T5 | {"vocab_size": 4096}, text=False),
    "T5-XXL of 2020": one("T5_XXL_OLD", "cosmos", T5),
    # as wide as core's own, for by nothing else is it told from T5-XXL
    "Pile-T5-XL": one("T5_XL", "stable_diffusion", T5 | {"d_ff": 5120}),
    "T5-base": one("T5_BASE", "stable_audio", T5),
    "UMT5-base": one("T5_BASE", "ace", T5 | {"vocab_size": 4096}, text=False),
    "Llama 3 8B": one("LLAMA3_8", "hidream", FEW, text=False),
    "Gemma 2 2B": one("GEMMA_2_2B", "lumina2", FEW, text=False),
    "Gemma 2 2B of PixelDiT": one("GEMMA_2_2B", "pixeldit", FEW, text=False),
    "Gemma 3 4B": one("GEMMA_3_4B", "lumina2", FEW, text=False),
    "Gemma 3 4B with vision": one("GEMMA_3_4B_VISION", "lumina2", FEW, text=False),
    "Gemma 3 12B": one("GEMMA_3_12B", "ltxv", FEW, text=False),
    "T5Gemma": one("T5_GEMMA", "stable_audio", FEW, text=False),
    "Gemma 4 E4B": one("GEMMA_4_E4B", "stable_diffusion", GEMMA4, text=False),
    "Gemma 4 E2B": one("GEMMA_4_E2B", "stable_diffusion", GEMMA4, text=False),
    "Gemma 4 31B": one("GEMMA_4_31B", "stable_diffusion", GEMMA4, text=False),
    "Gemma 4 12B": one("GEMMA_4_12B", "stable_diffusion", GEMMA4, text=False),
    "Qwen 2.5 3B": one("QWEN25_3B", "omnigen2", LLAMA),
    "Qwen 2.5 7B": one("QWEN25_7B", "qwen_image", LLAMA),
    "Qwen 2.5 7B of LongCat": one("QWEN25_7B", "longcat_image", LLAMA),
    "Qwen 3 4B": one("QWEN3_4B", "lumina2", LLAMA),
    "Qwen 3 4B of FLUX.2 klein": one("QWEN3_4B", "flux2", LLAMA),
    "Qwen 3 8B of FLUX.2 klein": one("QWEN3_8B", "flux2", LLAMA),
    "Qwen 3 8B of Ideogram": one("QWEN3_8B", "ideogram4", LLAMA),
    "Qwen 3 2B": one("QWEN3_2B", "ovis", LLAMA),
    "Qwen 3 0.6B": one("QWEN3_06B", "stable_diffusion", LLAMA),
    "Qwen 3.5 0.8B": one("QWEN35_08B", "stable_diffusion", QWEN35, text=False),
    "Qwen 3.5 2B": one("QWEN35_2B", "stable_diffusion", QWEN35, text=False),
    "Qwen 3.5 4B": one("QWEN35_4B", "stable_diffusion", QWEN35, text=False),
    "Qwen 3.5 9B": one("QWEN35_9B", "stable_diffusion", QWEN35, text=False),
    "Qwen 3.5 27B": one("QWEN35_27B", "stable_diffusion", QWEN35, text=False),
    "Qwen 3 VL 4B": one("QWEN3VL_4B", "stable_diffusion", FEW, text=False),
    "Qwen 3 VL 8B": one("QWEN3VL_8B", "stable_diffusion", FEW, text=False),
    "Qwen 3 VL 32B": one("QWEN3VL_32B", "minimax", FEW, text=False),
    "Mistral Small 24B": one("MISTRAL3_24B", "flux2", FEW, text=False),
    "Mistral Small 24B of 30 layers": one("MISTRAL3_24B_PRUNED_FLUX2", "flux2", FEW, text=False),
    "Ministral 3 3B": one("MINISTRAL_3_3B", "stable_diffusion", FEW, text=False),
    "Jina CLIP 2": one("JINA_CLIP_2", "stable_diffusion", CLIP | {"vocab_size": 4096}, text=False),
    "SDXL": SmallEncoder(("CLIP_L", "CLIP_G"), "sdxl", CLIP),
    "FLUX.1": SmallEncoder(("CLIP_L", "T5_XXL"), "flux"),
    "HunyuanImage with ByT5": SmallEncoder(("QWEN25_7B", "BYT5_SMALL_GLYPH"), "hunyuan_image"),
}
# What ComfyUI builds without the operations that know a scale: 1,000 times off, without an error.
DROPPED_BY_CORE = ("CLIP-L", "CLIP-H", "CLIP-G", "T5-base", "Pile-T5-XL", "Jina CLIP 2", "HunyuanImage with ByT5")
TOO_LARGE = {"GPT_OSS_20B": "20 billion parameters, whose sizes its constructor fixes"}
