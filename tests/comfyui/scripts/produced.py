"""Files of random weights as producers write them, the weights that they mean, and how far off a reader is."""

from __future__ import annotations

import json
import logging
import math

import torch
from comfy.quant_ops import QuantizedTensor
from inside import error

E4M3 = torch.float8_e4m3fn
StateDict = dict[str, torch.Tensor]


##### A file


def linear_names(model: torch.nn.Module) -> set[str]:
    return {f"{name}.weight" for name, module in model.named_modules() if hasattr(module, "in_features")}


def randomise(model: torch.nn.Module, without: tuple[str, ...] = ()) -> None:
    """Random weights of a trained model's size, but where a name has one of without in it."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point() or any(part in name for part in ("freqs", *without)):
            continue
        scale = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.02
        noise = scale * torch.randn(tensor.shape)
        gain = tensor.ndim == 1 and name.endswith(("weight", "scale", "gamma"))
        tensor.data = (noise + gain).to(tensor.dtype)


def matrices(tensors: StateDict) -> set[str]:
    return {k for k, v in tensors.items() if k.endswith(".weight") and v.ndim == 2 and min(v.shape) >= 16}


def encoded(weight: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scale as stored and the weight that both mean."""
    values = weight.float()
    if kind == "blocks":
        rows, cols = (math.ceil(size / 128) for size in values.shape)
        padded = torch.zeros(rows * 128, cols * 128)
        padded[: values.shape[0], : values.shape[1]] = values
        scale = padded.view(rows, 128, cols, 128).abs().amax((1, 3)).clamp(min=1e-9) / 448
        spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: values.shape[0], : values.shape[1]]
    else:
        scale = values.abs().amax(1, keepdim=True) if kind == "rows" else values.abs().amax()
        spread = scale = scale.clamp(min=1e-9) / 448
    codes = (values / spread).to(E4M3)
    return codes, scale, codes.float() * spread


def marker() -> torch.Tensor:
    return torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)


def written(dialect: str, tensors: StateDict, linears: set[str]) -> tuple[StateDict, dict[str, str], StateDict]:
    """Tensors and metadata as that producer writes them, and the tensors that they mean."""
    if dialect == "cast":
        cast = {k: v.to(E4M3) if v.is_floating_point() and v.numel() else v for k, v in tensors.items()}
        return cast, {}, {k: v.to(tensors[k].dtype) for k, v in cast.items()}
    out, meant, metadata = dict(tensors), dict(tensors), {}
    chosen = (linears & matrices(tensors)) if dialect in ("marker", "header") else matrices(tensors)
    for key in sorted(chosen):
        name = key.removesuffix(".weight")
        codes, scale, value = encoded(tensors[key], dialect)
        out[key], meant[key] = codes, value.to(tensors[key].dtype)
        out[f"{key}_scale_inv" if dialect == "blocks" else f"{key}_scale"] = scale
        if dialect == "marker":
            out[f"{name}.comfy_quant"] = marker()
        if dialect == "ltx":
            out[f"{name}.input_scale"] = torch.tensor(0.01 + len(name) / 1e4)
    if dialect == "header":
        layers = {key.removesuffix(".weight"): {"format": "float8_e4m3fn"} for key in chosen}
        metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    return out, metadata, meant


##### What is compared


def plain(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor).float()


def difference(got: torch.Tensor, want: torch.Tensor) -> float:
    if got.shape != want.shape:
        return math.inf
    if torch.equal(got.nan_to_num(), want.nan_to_num()):
        return 0.0
    return error(got, want)


def tensors_in(module: torch.nn.Module, prefix: str = "") -> StateDict:
    """Every parameter and buffer that a module holds, scaled ones as they are."""
    return {
        f"{prefix}{name}.{key}": tensor.data
        for name, part in module.named_modules()
        for key, tensor in [*part._parameters.items(), *part._buffers.items()]
        if tensor is not None
    }


def worst(ours: StateDict, want: StateDict) -> tuple[float, str]:
    """The largest relative error of any tensor, and its name."""
    missing = sorted(want.keys() - ours.keys())
    if missing:
        return math.inf, f"missing: {missing[0]}"
    return max((difference(plain(ours[name]), plain(want[name])), name) for name in want)


##### What a user would read


QUANTIZATION = ("comfy_quant", "weight_scale", "input_scale", "scaled_fp8")


class Logged(logging.Handler):
    """Lines that ComfyUI logged and that a user should not see."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if "missing" in line or any(word in line for word in QUANTIZATION):
            self.lines.append(line[:200])


LOG = Logged()
logging.getLogger().addHandler(LOG)
