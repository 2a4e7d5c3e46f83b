"""A text encoder behind a LoRA, loaded whole and then cast at each use: core's own before this pack is there, ours."""

from __future__ import annotations

import torch
from alphabet import ENCODERS, FP8_ENCODERS, applied, write_encoders
from inside import answer, error, pack, unload
from running import cast_at_each_use, conditioning

torch.set_num_threads(1)
write_encoders()
LORA = ("LoraLoader", 1.0)
CHAINS = {
    "core": [("CLIPLoader", ENCODERS[0])],
    "Load FP8 Text Encoder": [("LoadFP8TextEncoder", FP8_ENCODERS["ltx"])],
    "Quantize Text Encoder": [
        ("CLIPLoader", ENCODERS[0]),
        ("QuantizeTextEncoder", "fp8-weight-only", "per-tensor", "layers.0"),
    ],
}


def behind(chain: list[tuple]):
    given = None
    for node in chain:
        given = applied(given, node, chain[0])
    return given


def low(clip) -> torch.Tensor:
    with cast_at_each_use(clip):
        return conditioning(clip, "loaded", "38")


def moved(chain: list[tuple]) -> dict[str, float]:
    """How far the LoRA takes a conditioning, and how far each low VRAM is from it, whole in between."""
    unload()
    clip = behind(chain)
    lora = applied(clip, LORA, chain[0])
    want = conditioning(lora, "loaded", "38")
    found = {"effect": error(conditioning(clip, "loaded", "38"), want), "after whole": error(low(lora), want)}
    found["again"] = error(low(lora), want)
    conditioning(lora, "loaded", "38")
    return found | {"whole again": error(low(lora), want)}


figures = {"core": moved(CHAINS.pop("core"))}
pack()
answer(figures | {name: moved(chain) for name, chain in CHAINS.items()})
