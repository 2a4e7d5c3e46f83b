"""What a user can change between two runs: loaders, the nodes behind them, and how the model is run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import folder_paths
import torch
from inside import (
    BASE,
    BF16,
    CPU,
    FEW_TOKENS,
    MODELS,
    REQUEST,
    call,
    fp8,
    load,
    patched,
    predict,
    unet,
    unload,
    write_fp8,
    write_lora,
)
from safetensors.torch import load_file, save_file

import nodes

OTHER, LTX, MARKED, LORA = "walk-other.safetensors", "walk-ltx.safetensors", "walk-marked.safetensors", "walk-lora"
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
        (QUANTIZE, LORAS, PATCH, SAMPLING, COMPILE, WATCH),
        (4, 4, 1, 1, OFTEN, 1),
    ),
    "healed": Workflow(
        [("UNETLoader", LTX)], (QUANTIZE, LORAS, PATCH, SAMPLING, COMPILE, WATCH), (1, 4, 6, 1, OFTEN, 1)
    ),
    "ours": Workflow(LOAD, (QUANTIZE, LORAS, PATCH, SAMPLING, COMPILE, WATCH), (1, 4, 4, 1, 1, 1)),
    "vae": Workflow([("VAELoader", "taef2")], (VAES,), (1,)),
}
RUNS = ("loaded", "evicted" if REQUEST["dynamic"] else "lowvram", "saved")


def write_files() -> None:
    """Two models of one base, two FP8 files, a LoRA; no settings."""
    generator = torch.Generator().manual_seed(11)
    state = load_file(MODELS / BF16)
    other = {name: tensor + 0.02 * tensor.std() * torch.randn(tensor.shape, generator=generator).to(tensor)
             if tensor.ndim == 2 else tensor for name, tensor in state.items()}  # fmt: skip
    save_file({name: tensor.contiguous() for name, tensor in other.items()}, MODELS / OTHER)
    write_fp8(LTX, marked=False)
    write_fp8(MARKED, marked=True)
    write_lora(f"{LORA}.safetensors", strength=1.0)
    write_settings("")


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


def applied(given, node: tuple, loader: tuple):
    """The output of one node behind a loader; given: a MODEL or a VAE, None for the loader itself."""
    kind, *inputs = node
    if kind == "UNETLoader":
        return unet(*inputs)
    if kind == "LoadFP8Checkpoint":
        return fp8(inputs[0], compute=inputs[1], activation_scale=inputs[2])[0]
    if kind == "VAELoader":
        return call(kind, vae_name=inputs[0])[0]
    if kind.startswith("Quantize"):
        what = {"vae": given} if kind == "QuantizeVAE" else {"model": given}
        return call(kind, **what, method=inputs[0], granularity=inputs[1], keep=inputs[2])[0]
    if kind == "ScaledLinearPatch":
        scales = f"diffusion_models/{LTX}" if loader == ("UNETLoader", LTX) else "none"
        return patched(given, *inputs, scales_from=scales)[0]
    if kind == "ModelSamplingAuraFlow":
        return call(kind, model=given, shift=inputs[0])[0]
    if kind == "CalibrateModel":
        return call(kind, model=given, name="walk", memory_gb=inputs[0])[0]
    if kind == "TorchCompileModel":
        return call(kind, model=given, backend=inputs[0])[0]
    return call(kind, model=given, lora_name=f"{LORA}.safetensors", strength_model=inputs[0])[0]


##### How it is run


def run(given, way: str, digits: str, seed: int) -> torch.Tensor:
    """The velocity of one forward, or a picture; what a file holds as the hash of its tensors."""
    if hasattr(given, "decode"):
        return decoded(given, seed)
    if way == "saved":
        return saved(given)
    if way == "lowvram":
        return cast_at_use(given, digits, seed)
    load(given)
    if way == "evicted":
        given.partially_unload(CPU, 1e32)
        load(given)
    return predict(given, seed, wrapped=True, digits=digits)


def decoded(vae, seed: int) -> torch.Tensor:
    latent = torch.randn(1, 128, 4, 4, generator=torch.Generator().manual_seed(seed))
    return call("VAEDecode", vae=vae, samples={"samples": latent})[0].float()


def cast_at_use(model, digits: str, seed: int) -> torch.Tensor:
    unload()
    model.patch_model(CPU, lowvram_model_memory=1)
    try:
        return predict(model, seed, wrapped=True, digits=digits)
    finally:
        model.unpatch_model(CPU)


def saved(model) -> torch.Tensor:
    call("SaveQuantizedModel", model=model, filename_prefix="walk/saved")
    (path,) = (BASE / "output" / "walk").glob("*.safetensors")
    tensors = load_file(path)
    path.unlink()
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return torch.tensor(list(hashed.digest()), dtype=torch.uint8)
