"""Files of FLUX.2's architecture with random weights, in bfloat16 and in ComfyUI's native FP8."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from scaled_fp8 import quant
from scaled_fp8.quant.files.header import info_of
from scaled_fp8.quant.files.writer import write_safetensors
from torch import Tensor

FLOAT8 = quant.FORMATS["float8_e4m3fn"]


@dataclass(frozen=True)
class Flux2:
    """hidden: width; double, single: blocks of each kind; context: width of the text's features."""

    hidden: int
    double: int
    single: int
    context: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor by ComfyUI's name; MLPs are three times as wide, and gated."""
        h = self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "img_in.weight": (h, 128), "txt_in.weight": (h, self.context),
            "time_in.in_layer.weight": (h, 256), "time_in.out_layer.weight": (h, h),
            "double_stream_modulation_img.lin.weight": (6 * h, h), "single_stream_modulation.lin.weight": (3 * h, h),
            "double_stream_modulation_txt.lin.weight": (6 * h, h), "final_layer.adaLN_modulation.1.weight": (2 * h, h),
            "final_layer.linear.weight": (128, h),
        }  # fmt: skip
        for i in range(self.double):
            for stream in ("img", "txt"):
                shapes |= norms(f"double_blocks.{i}.{stream}_attn.norm")
                linears = {"attn.qkv": (3 * h, h), "attn.proj": (h, h), "mlp.0": (6 * h, h), "mlp.2": (h, 3 * h)}
                shapes |= {f"double_blocks.{i}.{stream}_{name}.weight": shape for name, shape in linears.items()}
        for i in range(self.single):
            shapes |= norms(f"single_blocks.{i}.norm")
            shapes |= {f"single_blocks.{i}.linear1.weight": (9 * h, h), f"single_blocks.{i}.linear2.weight": (h, 4 * h)}
        return shapes


def norms(prefix: str) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.{name}_norm.weight": (128,) for name in ("key", "query")}


TINY = Flux2(256, 1, 3, 64)
GIBIBYTE = Flux2(3072, 1, 4, 7680)
KLEIN_4B = Flux2(3072, 5, 20, 7680)


def quantized(name: str, shape: tuple[int, ...]) -> bool:
    """Whether producers quantize it: the Linears of the blocks."""
    return "blocks." in name and len(shape) == 2


def weights(model: Flux2, device: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in bfloat16, of the size that trained ones have; the same at each call."""
    torch.manual_seed(0)
    for name, shape in model.shapes().items():
        if len(shape) == 1:
            yield name, torch.ones(shape, dtype=torch.bfloat16)
        else:
            yield name, (torch.randn(shape, device=device) * shape[1] ** -0.5).bfloat16().cpu()


def write_bf16(path: Path, model: Flux2, device: str = "cpu") -> Path:
    plan = [info_of(name, torch.bfloat16, shape) for name, shape in model.shapes().items()]
    write_safetensors(path, plan, weights(model, device))
    return path


def write_fp8(path: Path, model: Flux2, device: str = "cpu") -> Path:
    """As core and its producers write it: float8_e4m3fn, one scale a weight, described in the header."""
    layers = [name for name, shape in model.shapes().items() if quantized(name, shape)]
    plan = [
        info_of(name, FLOAT8.dtype if name in layers else torch.bfloat16, shape)
        for name, shape in model.shapes().items()
    ]
    plan += [info_of(f"{name}_scale", torch.float32, ()) for name in layers]
    described = {name.removesuffix(".weight"): {"format": "float8_e4m3fn"} for name in layers}
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": described})}
    write_safetensors(path, plan, native(model, device), metadata)
    return path


def native(model: Flux2, device: str) -> Iterator[tuple[str, Tensor]]:
    for name, weight in weights(model, device):
        if not quantized(name, tuple(weight.shape)):
            yield name, weight
            continue
        found = quant.quantize(weight.to(device), FLOAT8, quant.PerTensor())
        yield name, found.codes.cpu()
        yield f"{name}_scale", found.scale.float().reshape(()).cpu()
