"""The Quantize nodes with a settings file in ComfyUI's user folder, and what they say of memory and of compiling."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from inside import BF16, answer, call, extra, pack, unet

import nodes

pack()
extra("nodes_torch_compile.py")
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


without = stamp()
figures = {
    "common": written('[quantization]\ntransformer = "int8"\n'),
    "family": written('[quantization]\ntransformer = "int8"\n[flux2]\nquantization_transformer = "8bit"\n'),
    "asked": quantized("fp8-weight-only")[1],
    "stamps differ": without != stamp(),
    "ignored": written('[flux2]\nencoder = "int8"\n'),
}
FILE.unlink()
model = quantized("fp8-weight-only")[0]
compiled = call("TorchCompileModel", model=model, backend="cudagraphs")[0]
figures["plain"], figures["compiled"] = table(model), table(compiled)
figures["not ours"] = table(call("TorchCompileModel", model=base, backend="inductor")[0])
answer(figures)
