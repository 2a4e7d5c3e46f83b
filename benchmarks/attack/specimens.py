"""What is attacked: small models in a dozen dialects, written and decoded here by arithmetic of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil

import numpy as np

from .file import E2M1, TABLES, Entry, File, bf16, f32, nearest, u8

Parts = dict[str, Entry]  # suffix of a layer's key -> tensor
LAYERS = {"blocks.0.attn.to_q": (64, 32), "blocks.0.mlp.fc1": (96, 32)}
LARGE = {"blocks.0.attn.to_q": (160, 256), "blocks.0.mlp.fc1": (256, 128)}


@dataclass(frozen=True)
class Dialect:
    """pack: a weight's tensors; decode: the weight that a layer's tensors say, by the dialect's own names alone.

    once: further tensors; header: metadata; aside: whose scales lie in a file of this name; config: of a folder;
    marked: whether each layer says that it is ComfyUI's, which stores [out, in].
    """

    name: str
    pack: Callable[[np.ndarray], Parts]
    decode: Callable[[Parts], np.ndarray]
    shapes: Mapping[str, tuple[int, int]] = None  # type: ignore[assignment]
    once: Mapping[str, Entry] = None  # type: ignore[assignment]
    header: Callable[[list[str]], dict[str, str]] = lambda names: {}
    aside: str = ""
    config: object = None
    marked: bool = False


@dataclass(frozen=True)
class Specimen:
    """A model in a dialect. truth: weight by layer, as the codes say it."""

    dialect: Dialect
    file: File
    truth: dict[str, np.ndarray]


##### Codes and scales


def spread(scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A scale for each element of a weight: of one value, of rows, or of blocks or groups that cover it."""
    if scale.size == 1:
        return np.broadcast_to(scale.reshape(()), shape)
    grid = scale.reshape(scale.shape[0], -1) if scale.ndim != 2 else scale
    grid = grid.T if grid.shape == (1, shape[0]) and shape[0] != shape[1] else grid
    if (step := blocks_of(grid.shape, shape)) is None:
        raise ValueError(f"scales {scale.shape} cover no {shape}")
    return np.repeat(np.repeat(grid, step[0], 0), step[1], 1)[: shape[0], : shape[1]]


def blocks_of(grid: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows and columns of a block, by what producers use."""
    for rows, columns in ((1, shape[1]), (128, 128), (1, 128), (1, 64), (1, 32)):
        if grid == (ceil(shape[0] / rows), ceil(shape[1] / columns)):
            return rows, columns
    fused = grid[1] == 1 and not shape[0] % grid[0]
    return (shape[0] // grid[0], shape[1]) if fused else None


def float8(weight: np.ndarray, dtype: str, scale: np.ndarray) -> Entry:
    top = np.nanmax(np.where(np.isinf(TABLES[dtype]), np.nan, TABLES[dtype]))
    scaled = np.clip(weight / spread(scale, weight.shape), -top, top)
    return u8(nearest(scaled, TABLES[dtype]), dtype)


def scaled(
    weight: np.ndarray,
    dtype: str = "F8_E4M3",
    scale: str = ".weight_scale",
    by: str = "tensor",
    more: Parts | None = None,
) -> Parts:
    steps = AMAX[by](weight) / (448 if dtype == "F8_E4M3" else 57344)
    return {".weight": float8(weight, dtype, steps), scale: f32(steps), **(more or {})}


def block_amax(weight: np.ndarray, size: int = 128) -> np.ndarray:
    rows, columns = (ceil(side / size) for side in weight.shape)
    padded = np.zeros((rows * size, columns * size), np.float32)
    padded[: weight.shape[0], : weight.shape[1]] = abs(weight)
    return padded.reshape(rows, size, columns, size).max((1, 3))


AMAX: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tensor": lambda w: abs(w).max(),
    "rows": lambda w: abs(w).max(1, keepdims=True),
    "flat rows": lambda w: abs(w).max(1),
    "blocks": block_amax,
    "groups": lambda w: abs(w).reshape(len(w), -1, 64).max(2, keepdims=True),
}


def multiplied(parts: Parts, scale: str = ".weight_scale", weight: str = ".weight") -> np.ndarray:
    codes = parts[weight].values()
    # a kernel of one pixel is a matrix
    codes = codes.reshape(codes.shape[:2]) if codes.ndim > 2 and not set(codes.shape[2:]) - {1} else codes
    return codes * spread(parts[scale].values(), codes.shape)


def divided(parts: Parts) -> np.ndarray:
    """By the scale, or times its reciprocal where that is what is left."""
    codes = parts[".float8_data"].values()
    if ".scale" not in parts:
        return codes * spread(parts[".scale_reciprocal"].values(), codes.shape)
    return codes / spread(parts[".scale"].values(), codes.shape)


def reciprocal(weight: np.ndarray) -> Parts:
    """flux-fp8-api."""
    parts = scaled(weight)
    factor = 1 / parts[".weight_scale"].values()
    return {
        ".float8_data": parts[".weight"], ".scale": f32(factor), ".scale_reciprocal": f32(1 / factor),
        ".input_scale": f32(57344 / 5.0), ".input_scale_reciprocal": f32(5.0 / 57344), ".weight": bf16(np.zeros(1)),
    }  # fmt: skip


def whole_numbers(weight: np.ndarray) -> Parts:
    """INT8 by rows, in ComfyUI's own format."""
    scale = AMAX["rows"](weight) / 127
    codes = np.rint(weight / scale).astype(np.int8)
    return {".weight": u8(codes, "I8"), ".weight_scale": f32(scale), ".comfy_quant": marker("int8_tensorwise")}


def marker(format: str) -> Entry:
    return u8(json.dumps({"format": format}).encode())


##### NVFP4 and MXFP8 in ComfyUI's own formats: block scales in cuBLAS's tiles of 128 x 4


def tiled(grid: np.ndarray) -> np.ndarray:
    rows, columns = ceil(grid.shape[0] / 128), ceil(grid.shape[1] / 4)
    padded = np.zeros((rows * 128, columns * 4), grid.dtype)
    padded[: grid.shape[0], : grid.shape[1]] = grid
    tiles = padded.reshape(rows, 4, 32, columns, 4).transpose(0, 3, 2, 1, 4)
    return tiles.reshape(rows * 128, columns * 4)


def untiled(tiles: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = tiles.shape[0] // 128, tiles.shape[1] // 4
    grid = tiles.reshape(rows, columns, 32, 4, 4).transpose(0, 3, 2, 1, 4).reshape(tiles.shape)
    return grid[: shape[0], : shape[1]]


def mxfp8(weight: np.ndarray) -> Parts:
    amax = abs(weight).reshape(len(weight), -1, 32).max(2)
    powers = np.ceil(np.log2(np.maximum(amax, 1e-20) / 448)) + 127
    codes = np.clip(weight / np.repeat(2.0 ** (powers - 127), 32, 1), -448, 448)
    tiles = tiled(powers.astype(np.uint8))
    return {
        ".weight": u8(nearest(codes, TABLES["F8_E4M3"]), "F8_E4M3"), ".weight_scale": u8(tiles),
        ".comfy_quant": marker("mxfp8"),
    }  # fmt: skip


def from_mxfp8(parts: Parts) -> np.ndarray:
    codes = parts[".weight"].values()
    tiles = np.frombuffer(parts[".weight_scale"].data, np.uint8).reshape(parts[".weight_scale"].shape)
    powers = untiled(tiles, (codes.shape[0], codes.shape[1] // 32))
    return codes * np.repeat(TABLES["F8_E8M0"][powers], 32, 1)


def nvfp4(weight: np.ndarray) -> Parts:
    outer = np.float32(abs(weight).max() / (448 * 6))
    amax = abs(weight).reshape(len(weight), -1, 16).max(2)
    inner = nearest(np.clip(amax / 6 / outer, 2.0**-6, 448), TABLES["F8_E4M3"])
    steps = np.repeat(TABLES["F8_E4M3"][inner] * outer, 16, 1)
    codes = nearest(weight / steps, np.where(np.arange(16) == 8, np.nan, E2M1))
    pairs = codes[:, ::2] << 4 | codes[:, 1::2]
    return {
        ".weight": u8(pairs), ".weight_scale": u8(tiled(inner), "F8_E4M3"), ".weight_scale_2": f32(outer),
        ".comfy_quant": marker("nvfp4"),
    }  # fmt: skip


def from_nvfp4(parts: Parts) -> np.ndarray:
    pairs = np.frombuffer(parts[".weight"].data, np.uint8).reshape(parts[".weight"].shape)
    codes = np.stack([pairs >> 4, pairs & 15], 2).reshape(len(pairs), -1)
    inner = untiled(parts[".weight_scale"].values(), (codes.shape[0], codes.shape[1] // 16))
    return E2M1[codes] * np.repeat(inner, 16, 1) * parts[".weight_scale_2"].values().reshape(())


##### What a marker says of codes that were another format's


def from_nibbles(parts: Parts) -> np.ndarray:
    """W4A4: two whole numbers from -8 to 7 in a byte, the even input in its low half; one scale for each output."""
    pairs = np.frombuffer(parts[".weight"].data, np.uint8).reshape(parts[".weight"].shape)
    codes = np.stack([pairs & 15, pairs >> 4], 2).reshape(len(pairs), -1).astype(np.float32)
    return (codes - 16 * (codes > 7)) * spread(parts[".weight_scale"].values(), codes.shape)


def turned_back(weight: np.ndarray, group: int) -> np.ndarray:
    """A weight that ConvRot rotated: each group of inputs times a regular Hadamard matrix, which is its own inverse."""
    corner = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], np.float64) / 2
    matrix: np.ndarray = corner
    while len(matrix) < group:
        matrix = np.kron(matrix, corner)
    return (weight.reshape(-1, group) @ matrix).reshape(weight.shape).astype(np.float32)


##### The table


def layerwise(names: list[str]) -> dict[str, str]:
    layers = {name: {"format": "float8_e4m3fn"} for name in names}
    return {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


def plain(weight: np.ndarray) -> Parts:
    return {".weight": float8(weight, "F8_E4M3", np.ones((), np.float32))}


def own(parts: Parts) -> np.ndarray:
    return parts[".weight"].values()


old = partial(scaled, scale=".scale_weight")
from_old = partial(multiplied, scale=".scale_weight")
calibrated = {".input_scale": f32(4 / 448)}
MIXED = {"quant_method": "fp8", "weight_block_size": [128, 128]}

DIALECTS = (
    Dialect("ltx", partial(scaled, more=calibrated), multiplied),
    Dialect("rows", partial(scaled, by="rows"), multiplied, header=layerwise),
    Dialect("flat rows", partial(scaled, by="flat rows"), multiplied),
    Dialect("marked", partial(scaled, more={".comfy_quant": marker("float8_e4m3fn")}), multiplied, marked=True),
    Dialect("legacy", old, from_old, once={"scaled_fp8": u8(bytes(2), "F8_E4M3")}),
    Dialect("e5m2", partial(old, dtype="F8_E5M2"), from_old, once={"scaled_fp8": u8(bytes(2), "F8_E5M2")}),
    Dialect("musubi", partial(old, by="groups"), from_old, LARGE),
    Dialect("blocks", partial(scaled, scale=".weight_scale_inv", by="blocks"),
            partial(multiplied, scale=".weight_scale_inv"), LARGE, config={"quantization_config": MIXED}),
    Dialect("aside", scaled, multiplied, aside="fp8_scales.safetensors"),
    Dialect("reciprocal", reciprocal, divided),
    Dialect("int8", whole_numbers, multiplied, marked=True),
    Dialect("mxfp8", mxfp8, from_mxfp8, marked=True),
    Dialect("nvfp4", nvfp4, from_nvfp4, marked=True),
    Dialect("plain cast", plain, own),
    Dialect("bf16", lambda weight: {".weight": bf16(weight)}, own),
)  # fmt: skip


def specimen(dialect: Dialect, seed: int = 0) -> Specimen:
    """The model: two layers with biases, a norm, a table, and what the dialect adds."""
    chance, shapes = np.random.default_rng(seed), dialect.shapes or LAYERS
    tensors, truth = dict(dialect.once or {}), {}
    for std, (name, shape) in zip((0.02, 0.05), shapes.items(), strict=True):
        parts = dialect.pack((chance.standard_normal(shape) * std).astype(np.float32))
        truth[name] = dialect.decode(parts)
        tensors |= {name + suffix: entry for suffix, entry in parts.items()}
        tensors[f"{name}.bias"] = bf16(chance.standard_normal(shape[0]).astype(np.float32))
    tensors["blocks.0.norm.weight"] = bf16(1 + chance.standard_normal(32).astype(np.float32) / 8)
    tensors["pos_embed"] = f32(chance.standard_normal((1, 8, 4)))
    return Specimen(dialect, File(tensors, dialect.header(list(shapes))), truth)


def parts_of(tensors: Mapping[str, Entry], layer: str) -> Parts:
    return {key.removeprefix(layer): entry for key, entry in tensors.items() if key.startswith(f"{layer}.")}
