"""A checkpoint of any dialect written as plain high-precision tensors, one layer at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import Checkpoint, read_checkpoint
from .header import TensorInfo, info_of
from .refusal import Refused
from .source import Source
from .writer import write_safetensors

# what a file can be converted to without quantizing it
HIGH_PRECISION: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
PLAIN_CASTS = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
# header keys that describe quantization which the result does not have
QUANTIZATION_KEYS = ("tensor_names", "weight_qmax", "comfy_config", "scaled_fp8")

Pairs = Iterator[tuple[str, Tensor]]
Progress = Callable[[Pairs, int], Iterable[tuple[str, Tensor]]]


def silent(pairs: Pairs, count: int) -> Pairs:
    return pairs


def convert(
    src: str | os.PathLike[str] | Source, dst: str | os.PathLike[str], format: str, progress: Progress = silent
) -> Checkpoint:
    """Write src to dst with its quantized weights as float32, float16 or bfloat16; other tensors stay as they are.

    dst appears whole or not at all. Refused if src is, if dst is a file of src, or where a value does not fit.
    """
    if format not in HIGH_PRECISION:
        raise Refused(f"Format {format!r} cannot be written; choose one of {', '.join(HIGH_PRECISION)}.")
    ckpt = read_checkpoint(src)
    refuse_overwriting(ckpt.source, Path(dst))
    dtype = HIGH_PRECISION[format]
    plan = planned(ckpt, dtype)
    pairs = progress(converted(ckpt, dtype), len(plan))
    write_safetensors(dst, plan, pairs, plain_metadata(ckpt.source.metadata, plan))
    return ckpt


def planned(ckpt: Checkpoint, dtype: torch.dtype) -> list[TensorInfo]:
    """What the result holds."""
    weights = [info_of(ckpt.weight_key(name), dtype, ckpt.spec(name).full_shape) for name in ckpt]
    others = [ckpt.tensors.info(name) for name in ckpt.tensors]
    if not weights and not any(info.dtype in PLAIN_CASTS for info in others):
        raise Refused(f"{ckpt.source.name}: holds no quantized tensor, so there is nothing to convert.")
    return weights + [info_of(i.name, dtype, i.shape) if i.dtype in PLAIN_CASTS else i for i in others]


def converted(ckpt: Checkpoint, dtype: torch.dtype) -> Pairs:
    """Name and tensor, one in memory at a time."""
    for name in ckpt:
        weight = ckpt[name].dequantize(torch.float32)
        yield ckpt.weight_key(name), cast(weight, dtype, name).reshape(ckpt.spec(name).full_shape)
    for name in ckpt.tensors:
        tensor, plain = ckpt.tensors[name], ckpt.tensors.info(name).dtype in PLAIN_CASTS
        yield name, cast(tensor.float(), dtype, name) if plain else tensor


def cast(weight: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Float32 values in dtype; refused where one of them does not fit or is none."""
    largest = max(map(abs, map(float, weight.aminmax()))) if weight.numel() else 0.0
    if not isfinite(largest):
        raise Refused(f"{name}: the weight has NaN or infinity; the file is damaged, fetch it again.")
    if largest > torch.finfo(dtype).max:
        raise Refused(f"{name}: the weight reaches {largest:.4g}, too much for {dtype}; choose bfloat16 or float32.")
    return weight.to(dtype)


def plain_metadata(metadata: Mapping[str, str], plan: Iterable[TensorInfo]) -> dict[str, str]:
    """Metadata without what describes quantization."""
    names = {info.name for info in plan} | {info.name.removesuffix(".weight") for info in plan}
    return {
        key: value
        for key, value in metadata.items()
        if "quant" not in key.lower() and key not in QUANTIZATION_KEYS and key not in names and not has_type(value)
    }


def has_type(value: str) -> bool:
    """Whether this is torchao's description of a tensor."""
    return value.startswith("{") and '"_type"' in value


def refuse_overwriting(source: Source, dst: Path) -> None:
    if any(dst.exists() and file.exists() and dst.samefile(file) for file in source.files):
        raise Refused(f"{dst}: is a file of what is converted; give another name.")


__all__ = ["HIGH_PRECISION", "convert"]
