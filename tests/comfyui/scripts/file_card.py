"""The cards of saved models: a quantized one, one that was compared, one patched since, and one loaded from a file."""

from __future__ import annotations

import json

from inside import BASE, BF16, answer, call, fp8, pack, unet

pack()
SIDE = {"name": "a", "format": "", "bytes": 1, "seconds_per_step": 0.5, "first_step_seconds": None, "peak_bytes": None}
LAYER = {"name": "x", "shape": [2, 2], "format_a": "", "format_b": "", "sqnr_db": -3.0, "relative": 1.4}
QUALITY = {
    "scaled_fp8_quality": 1, "a": SIDE, "b": SIDE, "metrics": {"psnr": 31.4}, "steps": [0.1], "layers": [LAYER],
    "measured": "outputs", "warnings": [], "settings": {"seed": "7"}, "versions": {}, "device": "cpu",
}  # fmt: skip


def saved(model, name: str) -> dict:
    """Written by SaveQuantizedModel, put where the loaders look; its header's metadata."""
    call("SaveQuantizedModel", model=model, filename_prefix=f"diffusion_models/{name}")
    written = sorted((BASE / "output" / "diffusion_models").glob(f"{name}_*.safetensors"))[-1]
    written.rename(BASE / "models" / "diffusion_models" / f"{name}.safetensors")
    with open(BASE / "models" / "diffusion_models" / f"{name}.safetensors", "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]


def quantized():
    return call("QuantizeModel", model=unet(BF16), method="fp8-weight-only", granularity="per-tensor", keep="txt_in")[0]


plain = saved(quantized(), "card-plain")
compared = quantized()
compared.attachments["scaled_fp8_quality"] = QUALITY
later = compared.clone()
later.attachments["scaled_fp8_quality"] = QUALITY | {"patches_uuid": "of before a patch"}
broken = quantized()
broken.attachments["scaled_fp8_quality"] = {"metrics": "none"}
answer({
    "plain": plain,
    "compared": saved(compared, "card-compared"),
    "later": saved(later, "card-later"),
    "broken": saved(broken, "card-broken"),
    "again": saved(fp8("card-plain.safetensors")[0], "card-again"),
})  # fmt: skip
