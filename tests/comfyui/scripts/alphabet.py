"""What a user can change between two runs: loaders and the nodes behind them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import folder_paths
import torch
from inside import (
    BF16,
    FEW_TOKENS,
    MODELS,
    REQUEST,
    call,
    fp8,
    patched,
    unet,
    write_fp8,
    write_lora,
)
from narrow import built, told
from produced import written
from safetensors.torch import load_file, save_file
from small_encoders import CLIP, SmallEncoder

import nodes

OTHER, LTX, MARKED, LORA = "walk-other.safetensors", "walk-ltx.safetensors", "walk-marked.safetensors", "walk-lora"
ENCODERS = ("walk-encoder.safetensors", "walk-other-encoder.safetensors")
FP8_ENCODERS = {dialect: f"walk-{dialect}-encoder.safetensors" for dialect in ("ltx", "marker", "rows")}
SMALL = SmallEncoder(("CLIP_L",), "stable_diffusion", {**CLIP, "num_hidden_layers": 3}, text=False)
SETTINGS = Path(folder_paths.get_user_directory()) / "scaled_fp8.toml"
TEXTS = ("", '[quantization]\ntransformer = "int8"\n', '[flux2]\ntransformer = "fp8"\ngranularity = "per-row"\n')

##### The nodes, each with all that it can be

QUANTIZE = [
    ("QuantizeModel", method, granularity, keep)
    for method, granularity in (("fp8-dynamic", "per-row"), ("fp8-dynamic", "block"), ("fp8-weight-only", "per-tensor"),
                                ("int8", "per-tensor"), ("int8-convrot", "per-row"), ("nvfp4", "per-tensor"),
                                ("mxfp8", "default"), ("auto", "default"))
    for keep in ("", "single_blocks")
]  # fmt: skip
LORAS = [(way, strength) for way in ("LoraLoaderModelOnly", "LoraLoaderBypassModelOnly") for strength in (1.0, -0.5)]
PATCH = [
    ("ScaledLinearPatch", compute, scale, layers)
    for compute, scale in (("upcast", "dynamic"), ("int8", "dynamic"), ("auto", "static"))
    for layers in (".*", "double_blocks")
]
PATCH += [("ScaledLinearPatch", "scaled_mm", scale, FEW_TOKENS) for scale in ("dynamic", "dynamic-per-tensor")]
MERGE = [("ModelMergeSimple", ratio) for ratio in (0.5, 0.8)]
SAMPLING = [("ModelSamplingAuraFlow", 1.5), ("ModelSamplingAuraFlow", 3.0)]
COMPILE = [("TorchCompileModel", "inductor")]
WATCH = [("CalibrateModel", memory) for memory in (1.0, 0.01)]
# core's node loads a model anew without dynamic VRAM, and what UNETLoader loads does not run on the stand-in's card
OFTEN = 0 if REQUEST["dynamic"] else 1
LOAD = [
    ("LoadFP8Checkpoint", file, compute, scale)
    for file in (LTX, MARKED)
    for compute, scale in (("upcast", "dynamic"), ("int8", "dynamic"), ("auto", "static"))
]
QUANTIZE_ENCODER = [
    ("QuantizeTextEncoder", method, granularity, keep)
    for method, granularity in (("fp8-dynamic", "per-row"), ("fp8-weight-only", "per-tensor"), ("int8", "per-tensor"),
                                ("nvfp4", "per-tensor"), ("mxfp8", "default"), ("auto", "default"))
    for keep in ("", "layers.0")
]  # fmt: skip
ENCODER_LORAS = [("LoraLoader", strength) for strength in (1.0, -0.5)]
SKIP = [("CLIPSetLastLayer", layer) for layer in (-1, -2)]
VAES = [("QuantizeVAE", method, "default", keep) for method in ("int8", "none") for keep in ("", "layers.0")]


@dataclass(frozen=True)
class Workflow:
    """loaders: what its first node can be; parts: what can stand behind it, with how often each is changed."""

    loaders: list[tuple]
    parts: tuple[list[tuple], ...]
    weights: tuple[int, ...]


# what is mostly refused is seldom tried
WORKFLOWS = {
    "bf16": Workflow(
        [("UNETLoader", BF16), ("UNETLoader", OTHER)],
        (QUANTIZE, LORAS, MERGE, PATCH, SAMPLING, COMPILE, WATCH),
        (4, 4, 1, 1, 1, OFTEN, 1),
    ),
    "healed": Workflow(
        [("UNETLoader", LTX)], (QUANTIZE, LORAS, MERGE, PATCH, SAMPLING, COMPILE, WATCH), (1, 4, 1, 6, 1, OFTEN, 1)
    ),
    "ours": Workflow(LOAD, (QUANTIZE, LORAS, MERGE, PATCH, SAMPLING, COMPILE, WATCH), (1, 4, 1, 4, 1, 1, 1)),
    "vae": Workflow([("VAELoader", "taef2")], (VAES,), (1,)),
}
# the stand-in's card has no way for an embedding of a text encoder, by core's own loader either
if not REQUEST["dynamic"]:
    WORKFLOWS["encoder"] = Workflow(
        [("CLIPLoader", file) for file in ENCODERS], (QUANTIZE_ENCODER, ENCODER_LORAS, SKIP), (3, 3, 1)
    )
    WORKFLOWS["fp8 encoder"] = Workflow(
        [("LoadFP8TextEncoder", file) for file in FP8_ENCODERS.values()],
        (QUANTIZE_ENCODER, ENCODER_LORAS, SKIP),
        (1, 4, 1),
    )


# from here on ComfyUI knows CLIP-L by these sizes
told(SMALL).__enter__()


def write_files() -> None:
    """Two models of one base, two FP8 files, a LoRA; the same of text encoders; no settings."""
    generator = torch.Generator().manual_seed(11)
    state = load_file(MODELS / BF16)
    other = {name: tensor + 0.02 * tensor.std() * torch.randn(tensor.shape, generator=generator).to(tensor)
             if tensor.ndim == 2 else tensor for name, tensor in state.items()}  # fmt: skip
    save_file({name: tensor.contiguous() for name, tensor in other.items()}, MODELS / OTHER)
    write_fp8(LTX, marked=False)
    write_fp8(MARKED, marked=True)
    write_lora(f"{LORA}.safetensors", strength=1.0)
    write_encoders()
    write_settings("")


def write_encoders() -> None:
    folder = Path(folder_paths.get_folder_paths("text_encoders")[0])
    ((state, linears),) = built(SMALL)
    other = {name: tensor * 1.01 if name in linears else tensor for name, tensor in state.items()}
    files = dict(zip(ENCODERS, ((state, {}), (other, {})), strict=True))
    files |= {file: written(dialect, state, linears)[:2] for dialect, file in FP8_ENCODERS.items()}
    for file, (tensors, header) in files.items():
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file, header or None)
    layers = {f"clip_l.transformer.{name}": state[name] for name in sorted(linears) if state[name].ndim == 2}
    write_lora(f"{LORA}-encoder.safetensors", strength=1.0, weights=layers, prefix="text_encoders.")


def write_settings(text: str) -> None:
    """Edit the settings file, if it is another text."""
    if not SETTINGS.exists() or SETTINGS.read_text() != text:
        SETTINGS.parent.mkdir(parents=True, exist_ok=True)
        SETTINGS.write_text(text)


##### A node run, and what runs it again


def stamp(node: tuple) -> object:
    """What ComfyUI asks a node for before it takes its last output again."""
    cls = nodes.NODE_CLASS_MAPPINGS[node[0]]
    return cls.fingerprint_inputs() if node[0].startswith("Quantize") else None


QUANTIZED = {"QuantizeVAE": "vae", "QuantizeTextEncoder": "clip"}


def applied(given, node: tuple, loader: tuple):
    """The output of one node behind a loader; given: a MODEL, CLIP or VAE, None for the loader itself."""
    kind, *inputs = node
    if kind == "UNETLoader":
        return unet(*inputs)
    if kind == "LoadFP8Checkpoint":
        return fp8(inputs[0], compute=inputs[1], activation_scale=inputs[2])[0]
    if kind == "VAELoader":
        return call(kind, vae_name=inputs[0])[0]
    if kind == "CLIPLoader":
        return call(kind, clip_name=inputs[0], type=SMALL.type)[0]
    if kind == "LoadFP8TextEncoder":
        return call(kind, text_encoder=inputs[0], type=SMALL.type)[0]
    if kind == "LoraLoader":
        file = f"{LORA}-encoder.safetensors"
        return call(kind, model=None, clip=given, lora_name=file, strength_model=0.0, strength_clip=inputs[0])[1]
    if kind == "CLIPSetLastLayer":
        return call(kind, clip=given, stop_at_clip_layer=inputs[0])[0]
    if kind.startswith("Quantize"):
        what = {QUANTIZED.get(kind, "model"): given}
        return call(kind, **what, method=inputs[0], granularity=inputs[1], keep=inputs[2])[0]
    if kind == "ScaledLinearPatch":
        scales = f"diffusion_models/{LTX}" if loader == ("UNETLoader", LTX) else "none"
        return patched(given, *inputs, scales_from=scales)[0]
    if kind == "ModelSamplingAuraFlow":
        return call(kind, model=given, shift=inputs[0])[0]
    if kind == "CalibrateModel":
        return call(kind, model=given, name="walk", memory_gb=inputs[0])[0]
    if kind == "ModelMergeSimple":
        return call(kind, model1=given, model2=unet(OTHER), ratio=inputs[0])[0]
    if kind == "TorchCompileModel":
        return call(kind, model=given, backend=inputs[0])[0]
    return call(kind, model=given, lora_name=f"{LORA}.safetensors", strength_model=inputs[0])[0]
