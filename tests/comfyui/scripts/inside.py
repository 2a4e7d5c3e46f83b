"""What every contract script needs inside ComfyUI's python: a clean ComfyUI, the pack, the digits model, measures."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.quant_ops import QuantizedTensor
from safetensors.torch import load_file, save_file

import nodes

sys.path.append(str(Path(__file__).parents[2] / "support"))
from times import OTHERS, TIMES

REQUEST = json.loads(Path(sys.argv[2]).read_text())
BASE = Path(REQUEST["base"])
torch.set_num_threads(2)
# ComfyUI's executor runs every node so
INFERENCE = torch.inference_mode()
INFERENCE.__enter__()
DATA = Path(REQUEST["data"])
MODELS = BASE / "models" / "diffusion_models"
BF16 = "digits-flux2-bf16.safetensors"
CPU = torch.device("cpu")
# layers that see the image alone, not a prompt padded to 512 tokens: a CPU without FP8 units multiplies one by one
FEW_TOKENS = "img_attn"


def answer(figures: dict) -> None:
    """Hand the measured figures to the test that started this script."""
    Path(sys.argv[3]).write_text(json.dumps(figures))


def pack() -> dict[str, type]:
    """The pack's nodes, loaded by ComfyUI's own loader from its custom_nodes folder."""
    before = set(nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(nodes.load_custom_node(str(BASE / "custom_nodes" / "scaled-fp8"))), "IMPORT FAILED"
    give_times()
    return {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name not in before}


def give_times() -> None:
    """Kernels are chosen by a table: what is compared bit by bit may not depend on how busy this machine is."""
    engine = next(name for name in sys.modules if name.endswith("scaled-fp8.quant"))
    speed = importlib.import_module(f"{engine}.kernels.speed")
    # in forwards too, where nothing is measured: of a device that torch calls otherwise than ComfyUI all plan there
    speed.time_of = lambda kernel, layer, tokens: TIMES.get(kernel.name, OTHERS)


def extra(file: str) -> dict[str, type]:
    """The nodes of one of core's comfy_extras files, which importing nodes alone does not load."""
    before = set(nodes.NODE_CLASS_MAPPINGS)
    path = Path(nodes.__file__).parent / "comfy_extras" / file
    assert asyncio.run(nodes.load_custom_node(str(path), module_parent="comfy_extras")), file
    return {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name not in before}


def call(node: str, **inputs):
    """Execute a V1 or V3 node as the executor does; its outputs."""
    cls = nodes.NODE_CLASS_MAPPINGS[node]
    if hasattr(cls, "PREPARE_CLASS_CLONE"):
        out = cls.PREPARE_CLASS_CLONE(None).execute(**inputs)
        return out.result
    return getattr(cls(), cls.FUNCTION)(**inputs)


def refused(work, *args, **inputs) -> str:
    """What work raises, as its class and its words; "" where it does not."""
    try:
        work(*args, **inputs)
    except (Exception, comfy.model_management.InterruptProcessingException) as problem:
        return f"{type(problem).__name__}: {problem}"
    return ""


def unet(name: str, dtype: str = "default"):
    return call("UNETLoader", unet_name=name, weight_dtype=dtype)[0]


def fp8(name: str, folder: str = "diffusion_models", compute: str = "auto", activation_scale: str = "dynamic"):
    """LoadFP8Checkpoint: MODEL, CLIP, VAE, report."""
    return call("LoadFP8Checkpoint", checkpoint=f"{folder}/{name}", compute=compute, activation_scale=activation_scale)


def patched(model, compute="auto", activation_scale="dynamic", layers=".*", scales_from="none"):
    """ScaledLinearPatch: MODEL, report."""
    return call(
        "ScaledLinearPatch", model=model, compute=compute, activation_scale=activation_scale,
        layers=layers, scales_from=scales_from,
    )  # fmt: skip


def context(digits: str = "01234567") -> torch.Tensor:
    table = load_file(DATA / "digits-conditioning.safetensors")
    return torch.cat([table[digit] for digit in digits])


def sample(model, steps: int = 12, digits: str = "01234567", seed: int = 7, cfg: float = 1.0) -> torch.Tensor:
    """Latents of a batch, one image for each digit, through core's KSampler."""
    latent = {"samples": torch.zeros(len(digits), 128, 4, 4)}
    conditioning = [[context(digits), {}]]
    out = call(
        "KSampler", model=model, seed=seed, steps=steps, cfg=cfg, sampler_name="euler", scheduler="simple",
        positive=conditioning, negative=conditioning, latent_image=latent,
    )  # fmt: skip
    return out[0]["samples"].float()


def load(model) -> None:
    comfy.model_management.load_models_gpu([model])


def unload() -> None:
    comfy.model_management.unload_all_models()


def predict(model, seed: int = 7, size: int = 4, wrapped: bool = False, digits: str = "38") -> torch.Tensor:
    """The velocity of one forward of a model that is loaded already; wrapped: with what nodes put around forwards."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 128, size, size, generator=generator)
    t = torch.full((2,), 0.7)
    options = {"wrappers": model.wrappers} if wrapped else {}
    denoised = model.model.apply_model(x, t, c_crossattn=context(digits), transformer_options=options)
    return (x - denoised.float()) / 0.7


def forward(model) -> torch.Tensor:
    """The velocity of one forward, fully loaded."""
    load(model)
    return predict(model)


def forward_lowvram(model) -> torch.Tensor:
    """The same with every weight left where it is and cast at use (legacy low-VRAM)."""
    unload()
    model.patch_model(CPU, lowvram_model_memory=1)
    try:
        return predict(model)
    finally:
        model.unpatch_model(CPU)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative error in the Frobenius norm; infinite where there is a NaN."""
    value = ((got - want).norm() / want.norm()).item()
    return value if value == value else float("inf")


def sqnr(got: torch.Tensor, want: torch.Tensor) -> float:
    """Signal to quantization noise in dB."""
    return 20 * torch.log10(want.norm() / (got - want).norm()).item()


def quantized_layers() -> dict[str, torch.Tensor]:
    """The weights a producer would quantize: every Linear of the blocks."""
    weights = load_file(DATA / BF16)
    return {k: w for k, w in weights.items() if w.ndim == 2 and "blocks." in k}


def write_fp8(name: str, marked: bool) -> None:
    """The digits model with per-tensor scales: as core writes it, or in LTX's way without a marker."""
    tensors, layers = load_file(DATA / BF16), {}
    for key, weight in quantized_layers().items():
        scale = weight.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max
        tensors[key] = (weight.float() / scale).to(torch.float8_e4m3fn)
        tensors[key + "_scale"] = scale
        if not marked:
            tensors[key.removesuffix("weight") + "input_scale"] = torch.tensor(1.0)
        layers[key.removesuffix(".weight")] = {"format": "float8_e4m3fn"}
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    save_file(tensors, MODELS / name, metadata if marked else {"format": "pt"})


def write_lora(
    name: str,
    strength: float,
    rank: int = 8,
    weights: dict[str, torch.Tensor] | None = None,
    prefix: str = "diffusion_model.",
) -> None:
    """A random LoRA on these Linears, those of the blocks without; strength: its delta's size relative to a weight."""
    generator, tensors = torch.Generator().manual_seed(1), {}
    for key, weight in (weights or quantized_layers()).items():
        up = torch.randn(weight.shape[0], rank, generator=generator)
        down = torch.randn(rank, weight.shape[1], generator=generator)
        up *= strength * weight.float().norm() / (up @ down).norm()
        stem = prefix + key.removesuffix(".weight")
        tensors |= {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}
        tensors[f"{stem}.alpha"] = torch.tensor(float(rank))
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    save_file(tensors, folder / name)


def state(model) -> dict[str, torch.Tensor]:
    """Every tensor of a MODEL as it stands, quantized ones by their pieces, and the class of every module."""
    found = {}
    for name, module in model.model.named_modules():
        found[f"{name}!{type(module).__qualname__}"] = torch.zeros(())
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        found |= {f"{name}.{k}{part}": v for k, tensor in tensors for part, v in pieces(tensor.data)}
    return {k: v.detach().clone() for k, v in found.items()}


def pieces(tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    if not isinstance(tensor, QuantizedTensor):
        return [("", tensor)]
    params = [(f".{k}", v) for k, v in vars(tensor._params).items() if isinstance(v, torch.Tensor)]
    return [(".codes", tensor._qdata), *params]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit-identical: the same names, dtypes, shapes and bytes."""
    return a.keys() == b.keys() and all(identical(a[k], b[k]) for k in a)


def identical(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_bytes(a), as_bytes(b))


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
