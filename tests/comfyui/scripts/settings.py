"""The Quantize nodes with a settings file in ComfyUI's user folder, and what they say of memory and of compiling."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import card
import folder_paths
from inside import BF16, answer, call, extra, pack, pieces, unet, unload

import nodes

pack()
extra("nodes_torch_compile.py")
ENGINE = next(name for name in sys.modules if name.endswith("scaled-fp8.quant"))
FILE = Path(folder_paths.get_user_directory()) / "scaled_fp8.toml"
base = unet(BF16)


def quantized(method: str = "auto", granularity: str = "default"):
    return call("QuantizeModel", model=base, method=method, granularity=granularity, keep="")


def written(text: str) -> str:
    """What a node makes of such a settings file."""
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text)
    try:
        return quantized()[1]
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"


def stamp() -> object:
    return nodes.NODE_CLASS_MAPPINGS["QuantizeModel"].fingerprint_inputs()


def table(model) -> str:
    """What FP8 Report says of a model."""
    return call("FP8Report", model=model)[1]


def sizes(method: str) -> list[int]:
    """Bytes that an estimate tells of the layers that a method quantizes, and that they hold when it has."""
    memory = importlib.import_module(f"{ENGINE}.recipes.memory")
    patched = quantized(method)[0].object_patches
    weights = {name.removeprefix("diffusion_model."): layer._parameters["weight"] for name, layer in patched.items()}
    granularity = memory.own_granularity(method, "per-tensor")
    told = memory.estimate_memory({k: tuple(w.shape) for k, w in weights.items()}, method, granularity=granularity)
    return [told.resident, sum(tensor.nbytes for weight in weights.values() for _, tensor in pieces(weight.data))]


without = stamp()
figures = {
    "common": written('[quantization]\ntransformer = "int8"\n'),
    "family": written('[quantization]\ntransformer = "int8"\n[flux2]\nquantization_transformer = "8bit"\n'),
    "asked": quantized("fp8-weight-only")[1],
    "stamps differ": without != stamp(),
    "old name": written('[quantization]\nquantization_transformer = "fp8-filtered"\n'),
    "four bits": written('[flux2]\ntransformer = "4bit"\n'),
    "ignored": {
        key: written(f'[{table}]\n{key} = "int8"\n')
        for table, key in (("flux2", "encoder"), ("ltx2", "vae"), ("quantization", "component_type"))
    },
}
FILE.unlink()
model = quantized("fp8-weight-only")[0]
compiled = call("TorchCompileModel", model=model, backend="cudagraphs")[0]
figures["plain"], figures["compiled"] = table(model), table(compiled)
figures["not ours"] = table(call("TorchCompileModel", model=base, backend="inductor")[0])
figures["sizes"] = {m: sizes(m) for m in ("fp8-dynamic", "int8", "int8-convrot", "int4", "mxfp8", "nvfp4")}

# the same where ComfyUI moves weights by itself
unload()
card.insert()
base = unet(BF16)
moved = quantized("fp8-weight-only")[0]
figures["moved"] = table(moved)
moved.model_options["torch_compile_kwargs"] = {"backend": "inductor", "mode": "reduce-overhead"}
figures["moved by graphs"] = table(moved)
answer(figures)
