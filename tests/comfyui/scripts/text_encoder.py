"""CLIP-L with random weights at its real names and shapes: FP8 without a marker against bf16, and core's loader."""

from __future__ import annotations

import torch
from inside import BASE, REQUEST, answer, call, error, identical, pack, refused
from safetensors.torch import load_file, save_file

FOLDER = BASE / "models" / "text_encoders"
# Those that write to the residual stream, of which there are 24, as GPT-2 starts them.
LAST = ("self_attn.out_proj", "mlp.fc2")


def clip_l() -> dict[str, torch.Tensor]:
    """Random weights, sized as a model has them before training."""
    generator = torch.Generator().manual_seed(3)

    def matrix(rows: int, columns: int, size: float = 1.0) -> torch.Tensor:
        return (size * torch.randn(rows, columns, generator=generator) / columns**0.5).bfloat16()

    embeddings, model = "text_model.embeddings", {}
    model[f"{embeddings}.token_embedding.weight"] = matrix(49408, 768)
    model[f"{embeddings}.position_embedding.weight"] = matrix(77, 768)
    shapes = {f"self_attn.{x}_proj": (768, 768) for x in ("q", "k", "v", "out")}
    shapes |= {"mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072)}
    for i in range(12):
        for name, (rows, columns) in shapes.items():
            model[f"text_model.encoder.layers.{i}.{name}.weight"] = matrix(
                rows, columns, 24**-0.5 if name in LAST else 1.0
            )
            model[f"text_model.encoder.layers.{i}.{name}.bias"] = torch.zeros(rows).bfloat16()
        for norm in ("layer_norm1", "layer_norm2"):
            model |= norm_of(f"text_model.encoder.layers.{i}.{norm}")
    return model | norm_of("text_model.final_layer_norm")


def norm_of(name: str) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.ones(768).bfloat16(), f"{name}.bias": torch.zeros(768).bfloat16()}


def conditioning(clip) -> torch.Tensor:
    return call("CLIPTextEncode", clip=clip, text="a handwritten digit, seven, black on white")[0][0][0].float()


def ours(file: str, **more: str):
    return call("LoadFP8TextEncoder", text_encoder=file, type="stable_diffusion", **more)


if REQUEST.get("write"):
    save_file(clip_l(), FOLDER / "clip_l.safetensors")
    answer({})
else:
    pack()
    want = conditioning(call("CLIPLoader", clip_name="clip_l.safetensors", type="stable_diffusion")[0])
    figures = {}
    for name, file in REQUEST["files"].items():
        clip, report = ours(file)
        got = conditioning(clip)
        steady = identical(conditioning(clip), got)
        figures[name] = {"error": error(got, want), "report": report, "steady": steady}
    for name in ("ltx-bare", "comfy-marker"):
        by_core = call("CLIPLoader", clip_name=REQUEST["files"][name], type="stable_diffusion")[0]
        figures[name]["core"] = error(conditioning(by_core), want)
    truth = conditioning(call("CLIPLoader", clip_name="by-hand.safetensors", type="stable_diffusion")[0])
    figures["by hand"] = {"error": error(conditioning(ours(REQUEST["files"]["ltx-bare"])[0]), truth)}
    known = conditioning(ours(REQUEST["files"]["ltx-bare"])[0])
    bare = load_file(FOLDER / REQUEST["files"]["ltx-bare"])
    for stem in ("text_encoders.clip_l.transformer.", "cond_stage_model.transformer.", "text_encoder.", "no.encoder."):
        save_file({f"{stem}{name}": tensor for name, tensor in bare.items()}, FOLDER / "prefixed.safetensors")
        said = refused(ours, "prefixed.safetensors")
        same = not said and identical(conditioning(ours("prefixed.safetensors")[0]), known)
        figures.setdefault("prefixed", {})[stem] = said or same
    answer(figures)
