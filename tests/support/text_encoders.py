"""A text encoder in several dialects."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file

TEXT_ENCODERS = ("ltx-bare", "lightx2v-rows", "deepseek-alone", "comfy-marker")
sys.path.insert(0, str(Path(__file__).parent))  # the zoo


def write_text_encoders(folder: Path, original: str) -> dict[str, str]:
    """Dialect -> name of its file beside the original, which is "bf16"."""
    from zoo import ZOO

    weights = load_file(folder / original)
    files = {name: original.replace(".safetensors", f"-{name}.safetensors") for name in TEXT_ENCODERS}
    for name, file in files.items():
        # producers leave the embeddings in high precision
        replace(ZOO[name].recipe, keep="embedding").write(weights, folder / file)
    save_file(by_hand(load_file(folder / files["ltx-bare"])), folder / "by-hand.safetensors")
    return {"bf16": original} | files


def by_hand(tensors: dict) -> dict:
    """The truth about the LTX dialect: codes times scale, in float16, whose rounding is 60 times finer than FP8's."""
    scaled = {k: v for k, v in tensors.items() if f"{k}_scale" in tensors}
    rest = {k: v for k, v in tensors.items() if k not in scaled and not k.endswith("_scale")}
    return rest | {k: (v.float() * tensors[f"{k}_scale"]).half() for k, v in scaled.items()}
