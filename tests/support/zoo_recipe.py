"""What a specimen of the zoo is made of: how a producer stores a model, as data, and the parts to put it together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from arithmetic import E4M3, Encoding, per_tensor
from safetensors.torch import save_file
from torch import Tensor

StateDict = dict[str, Tensor]
Metadata = dict[str, str]
BF16, F16, F32, U8, I8 = torch.bfloat16, torch.float16, torch.float32, torch.uint8, torch.int8


@dataclass(frozen=True)
class Layer:
    """A quantized layer on its way into a file: its name there, the original weight, codes and scale."""

    name: str
    weight: Tensor
    codes: Tensor
    scale: Tensor


Beside = Callable[[Layer], StateDict]
Container = Callable[[StateDict, Metadata, Path], Path]


def one_file(tensors: StateDict, metadata: Metadata, path: Path) -> Path:
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata or None)
    return path


@dataclass(frozen=True)
class Recipe:
    """How one producer stores a model; ``{}`` stands for a layer's name.

    select: which 2-D weights are quantized; beside: further tensors of a layer; once: further tensors of the file;
    header: metadata; biases: how those of quantized layers are stored; rest: what happens to every other tensor;
    company: other components in the same file.
    """

    encoding: Encoding = per_tensor
    dtype: torch.dtype = E4M3
    stored: torch.dtype = F32
    weight: str = "{}.weight"
    scale: str | None = "{}.weight_scale"
    prefix: str = ""
    keep: str = "(?!)"
    select: Callable[[Tensor], bool] = lambda weight: weight.ndim == 2 and min(weight.shape) >= 32
    beside: tuple[Beside, ...] = ()
    once: Callable[[list[Layer], Recipe], StateDict] = lambda layers, recipe: {}
    header: Callable[[list[Layer]], Metadata] = lambda layers: {}
    rest: Callable[[Tensor], Tensor] = lambda tensor: tensor
    company: Callable[[], StateDict] = dict
    transposed: bool = False
    as_bytes: torch.dtype | None = None
    container: Container = one_file
    biases: Callable[[Layer, Tensor], Tensor] | None = None

    def quantizes(self, key: str, tensor: Tensor) -> bool:
        named = key.endswith(".weight") and not re.search(self.keep, key)
        return named and (tensor.ndim == 2 or tensor.ndim == 4) and self.select(tensor)

    def layer(self, key: str, tensor: Tensor) -> Layer:
        codes, scale = self.encoding(tensor.flatten(1), self.dtype, self.stored)
        return Layer(key.removesuffix(".weight"), tensor.flatten(1).float(), codes.view(-1, *tensor.shape[1:])
                     if tensor.ndim > 2 else codes, scale)  # fmt: skip

    def tensors_of(self, layer: Layer) -> StateDict:
        """The tensors of one layer under their names in the file."""
        codes = layer.codes.T if self.transposed else layer.codes
        codes = codes.contiguous().view(self.as_bytes) if self.as_bytes else codes
        found = {self.weight.format(layer.name): codes}
        if self.scale:
            found[self.scale.format(layer.name)] = layer.scale
        for beside in self.beside:
            found |= beside(layer)
        return found

    def pack(self, state_dict: StateDict) -> tuple[StateDict, Metadata]:
        """The whole model as tensors and metadata of a file."""
        whole = {self.prefix + key: tensor for key, tensor in state_dict.items()} | self.company()
        layers = [self.layer(key, tensor) for key, tensor in whole.items() if self.quantizes(key, tensor)]
        tensors: StateDict = {k: self.rest(v) for k, v in whole.items() if not self.quantizes(k, v)}
        for layer in layers:
            tensors |= self.tensors_of(layer)
            if self.biases and f"{layer.name}.bias" in tensors:
                tensors[f"{layer.name}.bias"] = self.biases(layer, tensors[f"{layer.name}.bias"])
        return tensors | self.once(layers, self), self.header(layers)

    def write(self, state_dict: StateDict, path: Path) -> Path:
        return self.container(*self.pack(state_dict), path)


@dataclass(frozen=True)
class Specimen:
    """A dialect in the zoo.

    dialect: its number in the catalogue; tolerance: relative error of the decoded weights; granularity: what the
    reader should find; expected: "decoded" or "refused"; words: a pattern that the verdict's dialect (or, where
    refused, the sentence) must contain; format: name of the number format of the codes.
    """

    name: str
    dialect: str
    recipe: Recipe
    granularity: str = "per-tensor"
    tolerance: float = 0.04
    format: str = "float8_e4m3fn"
    expected: str = "decoded"
    words: str = ""

    def write(self, state_dict: StateDict, path: Path) -> Path:
        return self.recipe.write(state_dict, path)

    def quantized(self, state_dict: StateDict) -> list[str]:
        """Names of the layers of state_dict that it stores quantized, without ``.weight``."""
        recipe = self.recipe
        keys = [k for k, v in state_dict.items() if recipe.quantizes(recipe.prefix + k, v)]
        return [key.removesuffix(".weight") for key in keys]


# ---- what stands beside the weights ---------------------------------------------------------------------------------


def scalar(value: float, dtype: torch.dtype = F32) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def calibrated(key: str = "{}.input_scale", shape: tuple[int, ...] = ()) -> Beside:
    """A plausible static activation scale, amax / 448, another one for each layer."""
    return lambda layer: {key.format(layer.name): scalar((3 + len(layer.name) / 7) / 448).reshape(shape)}


def constant(key: str, value: float, shape: tuple[int, ...] = ()) -> Beside:
    return lambda layer: {key.format(layer.name): scalar(value).reshape(shape)}


def json_bytes(value: Any) -> Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=U8)


def comfy_quant(format: str = "float8_e4m3fn", **more: Any) -> Beside:
    return lambda layer: {f"{layer.name}.comfy_quant": json_bytes({"format": format, **more})}


def with_shape(format: str, group_size: int) -> Beside:
    """convert_to_quant's marker of formats that it pads."""

    def marker(layer: Layer) -> StateDict:
        shape = {"orig_dtype": "torch.bfloat16", "orig_shape": list(layer.weight.shape)}
        return comfy_quant(format, group_size=group_size, **shape)(layer)

    return marker


def layerwise(format: str = "float8_e4m3fn", **more: Any) -> Callable[[list[Layer]], Metadata]:
    """ComfyUI's header: every layer and its format."""

    def header(layers: list[Layer]) -> Metadata:
        table = {layer.name: {"format": format, **more} for layer in layers}
        return {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": table})}

    return header


def fixed(**metadata: str) -> Callable[[list[Layer]], Metadata]:
    return lambda layers: metadata


def legacy(numel: int, dtype: torch.dtype = E4M3) -> Callable[[list[Layer], Recipe], StateDict]:
    """ComfyUI's old marker."""
    return lambda layers, recipe: {f"{recipe.prefix}scaled_fp8": torch.zeros(numel).to(dtype)}


# ---- containers -----------------------------------------------------------------------------------------------------


def sharded(tensors: StateDict, metadata: Metadata, path: Path) -> Path:
    """Two shards and an index.json; neighbours in the alphabet, so a weight and its scale, lie in different shards."""
    names = [f"{path.stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    keys = sorted(tensors)
    for i, name in enumerate(names):
        one_file({key: tensors[key] for key in keys[i::2]}, {} if i else metadata, path.parent / name)
    index = path.parent / f"{path.name}.index.json"
    weight_map = {key: names[i % 2] for i, key in enumerate(keys)}
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return index


def folder(weights: str = "diffusion_pytorch_model.safetensors", **sidecars: Any) -> Container:
    """A folder with JSON sidecars: ``config={...}`` becomes config.json."""

    def write(tensors: StateDict, metadata: Metadata, path: Path) -> Path:
        home = path.with_suffix("")
        home.mkdir(parents=True)
        one_file(tensors, metadata, home / weights)
        for name, content in sidecars.items():
            (home / f"{name}.json").write_text(json.dumps(content))
        return home

    return write


def quantization(**config: Any) -> Container:
    return folder(config={"_class_name": "Transformer2DModel", "quantization_config": config})


def hunyuan_video(tensors: StateDict, metadata: Metadata, path: Path) -> Path:
    """``NAME_fp8.pt`` beside ``NAME_fp8_map.pt``, which holds the scales by module name."""
    scales = {k.removesuffix(".weight_scale"): v for k, v in tensors.items() if k.endswith(".weight_scale")}
    module = {k: v for k, v in tensors.items() if not k.endswith(".weight_scale")}
    torch.save(scales, path.parent / f"{path.stem}_fp8_map.pt")
    torch.save({"module": module}, path.parent / f"{path.stem}_fp8.pt")
    return path.parent / f"{path.stem}_fp8.pt"


def angelslim(key: str) -> Container:
    """A diffusers folder whose scales lie in ``fp8_scales.safetensors``."""

    def write(tensors: StateDict, metadata: Metadata, path: Path) -> Path:
        scales = {k: v for k, v in tensors.items() if k.endswith(".weight_scale")}
        home = folder(config={"_class_name": "HunyuanVideoTransformer3DModel"})(
            {k: v for k, v in tensors.items() if k not in scales}, metadata, path
        )
        renamed = {key.format(k.removesuffix(".weight_scale")): v for k, v in scales.items()}
        one_file(renamed, {}, home / "fp8_scales.safetensors")
        return home

    return write


def quanto_files(qtype: str) -> Container:
    def write(tensors: StateDict, metadata: Metadata, path: Path) -> Path:
        names = [k.removesuffix(".weight._data") for k in tensors if k.endswith("._data")]
        qmap = {name: {"weights": qtype, "activations": "none"} for name in names}
        return folder(quanto_qmap=qmap)(tensors, metadata, path)

    return write


# ---- selections -----------------------------------------------------------------------------------------------------


def big(weight: Tensor) -> bool:
    return weight.ndim == 2 and min(weight.shape) >= 32


def square(weight: Tensor) -> bool:
    return big(weight) and weight.shape[0] == weight.shape[1]


def multiple(of: int) -> Callable[[Tensor], bool]:
    return lambda weight: big(weight) and not any(size % of for size in weight.shape)


def nonzero(weight: Tensor) -> bool:
    """torchao and optimum-quanto divide by the zero amax of a weight of zeros and store NaN for it."""
    return big(weight) and bool(weight.any())
