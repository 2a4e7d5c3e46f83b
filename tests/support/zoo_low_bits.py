"""The zoo's specimens of four bits and of int8 in other forms, by producer, each by that producer's arithmetic.

The orders in which Nunchaku, TinyChat and comfy-kitchen's tiles store codes are written out here as the place of each
element, from the producers' documentation of their layouts; the package under test takes them apart by permutations.
"""

from __future__ import annotations

from functools import partial

import comfy_kitchen
import torch
from arithmetic import Encoding, block64, block128, hadamard, per_row, shaped
from torch import Tensor
from zoo_recipe import (
    BF16,
    I8,
    U8,
    Beside,
    Layer,
    Recipe,
    StateDict,
    comfy_quant,
    folder,
    multiple,
    quantization,
)

RANK, GROUP, SHIFT = 16, 64, 0.171875
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


# ---- int8 -----------------------------------------------------------------------------------------------------------

int8_rowwise = Recipe(shaped(per_row, -1), dtype=I8, beside=(comfy_quant("int8_rowwise"),))
int8_blockwise = Recipe(
    block128, dtype=I8, select=multiple(128), beside=(comfy_quant("int8_blockwise", group_size=128),)
)
int8_small_blocks = Recipe(
    block64, dtype=I8, select=multiple(64), beside=(comfy_quant("int8_blockwise", group_size=64),)
)


def without_format(**said: object) -> Beside:
    """ComfyUI-INT8-Fast's marker: how the codes are rotated, not what they are."""

    def marker(layer: Layer) -> StateDict:
        import json

        return {f"{layer.name}.comfy_quant": torch.tensor(list(json.dumps(said).encode()), dtype=U8)}

    return marker


# ---- 4-bit floats ---------------------------------------------------------------------------------------------------


def low_first(codes: Tensor) -> Tensor:
    """Codes 0 to 15, ``[out, in]`` -> two a byte, the even one low."""
    return codes[:, ::2] | (codes[:, 1::2] << 4)


def nearest_e2m1(values: Tensor) -> Tensor:
    """Codes 0 to 15 of the nearest 4-bit floats."""
    return (values.abs().unsqueeze(-1) - E2M1).abs().argmin(-1).to(U8) | (values < 0).to(U8) << 3


def nvfp4_parts(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, block scales ``[out, in / 16]`` float8_e4m3fn in rows, and the global scale, amax / 2688."""
    weight = weight.float()
    amax = weight.abs().amax()
    outer = torch.where(amax == 0, 1.0, amax / 2688)
    blocks = weight.view(weight.shape[0], -1, 16)
    inner = (blocks.abs().amax(-1) / 6 / outer).to(torch.float8_e4m3fn)
    scale = torch.where(inner.float() == 0, torch.inf, inner.float() * outer)
    return nearest_e2m1((blocks / scale.unsqueeze(-1)).flatten(1)), inner, outer


def nvfp4_rows(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    codes, inner, _ = nvfp4_parts(weight)
    return low_first(codes), inner


def nvfp4_tiles(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    codes, inner, _ = nvfp4_parts(weight)
    return low_first(codes), comfy_kitchen.to_blocked(inner.view(U8), flatten=False).view(torch.float8_e4m3fn)


def divided(layer: Layer) -> StateDict:
    return {f"{layer.name}.weight_global_scale": (1 / nvfp4_parts(layer.weight)[2]).reshape(1)}


def multiplied(layer: Layer) -> StateDict:
    return {f"{layer.name}.weight_scale_2": nvfp4_parts(layer.weight)[2]}


def calibrated_alpha(layer: Layer) -> StateDict:
    """lightx2v's calibrated files: alpha is the reciprocal of both global scales."""
    given = torch.tensor(2688 / 7.5)
    return {f"{layer.name}.alpha": nvfp4_parts(layer.weight)[2] / given, f"{layer.name}.input_global_scale": given}


def mxfp4(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """AutoRound: shared exponent floor(log2(amax)) - 2 of 32 values, of which the largest may be clamped to 6."""
    blocks = weight.float().view(weight.shape[0], -1, 32)
    amax = blocks.abs().amax(-1)
    exponent = torch.where(amax == 0, -127.0, amax.log2().floor() - 2)
    codes = nearest_e2m1((blocks / 2 ** exponent.unsqueeze(-1)).clamp(-6, 6).flatten(1))
    return low_first(codes), (exponent + 127).clamp(0, 255).to(U8)


nvfp4_compressed = Recipe(
    nvfp4_rows, weight="{}.weight_packed", select=multiple(32), beside=(divided,),
    container=quantization(quant_method="compressed-tensors", format="nvfp4-pack-quantized"),
)  # fmt: skip
nvfp4_lightx2v = Recipe(nvfp4_tiles, select=multiple(32), beside=(divided,))
nvfp4_modelopt = Recipe(
    nvfp4_rows, select=multiple(32), beside=(multiplied,),
    container=folder("model.safetensors", hf_quant_config={
        "producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}),
)  # fmt: skip
mxfp4_autoround = Recipe(
    mxfp4, weight="{}.weight_packed", select=multiple(32),
    container=quantization(quant_method="auto-round", bits=4, data_type="mx_fp", group_size=32),
)  # fmt: skip


def rotated_nvfp4(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """comfy-kitchen's NVFP4 of a weight whose inputs were rotated by blocks of 64."""
    turned = turned_by(weight)
    return comfy_kitchen.quantize_nvfp4(turned.to(BF16), nvfp4_outer(turned))


def turned_by(weight: Tensor) -> Tensor:
    return (weight.float().view(-1, 64) @ hadamard(64)).view_as(weight)


def nvfp4_outer(weight: Tensor) -> Tensor:
    amax = weight.to(BF16).float().abs().amax()
    return torch.where(amax == 0, 1.0, amax / 2688)


nvfp4_convrot = Recipe(
    rotated_nvfp4, select=multiple(64),
    beside=(lambda layer: {f"{layer.name}.weight_scale_2": nvfp4_outer(turned_by(layer.weight))},
            comfy_quant("nvfp4", convrot=True, convrot_groupsize=64)),
)  # fmt: skip


# ---- low rank -------------------------------------------------------------------------------------------------------


def factors(weight: Tensor) -> tuple[Tensor, Tensor]:
    """``[out, rank]`` and ``[rank, in]`` bf16 of the largest singular values."""
    u, s, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    return (u[:, :RANK] * s[:RANK]).to(BF16), vt[:RANK].to(BF16)


def smoothing(width: int) -> Tensor:
    """What activations are divided by, bf16."""
    return torch.linspace(0.5, 2.0, width).to(BF16)


def residual_int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes -7 to 7 of what the low-rank part leaves, smoothed, and bf16 scales ``[out, in / 64]``."""
    up, down = factors(weight)
    rest = (weight.float() - up.float() @ down.float()) * smoothing(weight.shape[1]).float()
    groups = rest.view(weight.shape[0], -1, GROUP)
    amax = groups.abs().amax(-1)
    scale = torch.where(amax == 0, 1.0, amax / 7).to(BF16)
    return (groups / scale.float().unsqueeze(-1)).round().clamp(-7, 7).flatten(1).to(I8), scale


def svdquant(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    codes, scale = residual_int4(weight)
    return low_first(codes.view(U8) & 0xF).view(I8), scale.T.contiguous()


def svdquant_parts(layer: Layer) -> StateDict:
    up, down = factors(layer.weight)
    smooth = smoothing(layer.weight.shape[1])
    named = {"proj_up": up, "proj_down": down.T.contiguous(), "smooth_factor": smooth}
    return {f"{layer.name}.{key}": value for key, value in named.items()}


def in_tiles(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """comfy-kitchen's packed form: 128 rows by 64 columns; four rows of 32 bytes lie together."""
    packed, scale = svdquant(weight, dtype, stored)
    n, half = packed.shape
    row, byte = torch.meshgrid(torch.arange(n), torch.arange(half), indexing="ij")
    tile, quad, four, depth, at = row // 128, row % 128 // 4, row % 4, byte // 32, byte % 32
    place = (((tile * (half // 32) + depth) * 32 + quad) * 4 + four) * 32 + at
    flat = torch.empty(n * half, dtype=I8)
    flat[place.flatten()] = packed.flatten()
    scales = torch.stack(scale.split(128, 1)).contiguous()
    return flat.view(n // 128, half // 32, 32, 128), scales


def tiled_parts(layer: Layer) -> StateDict:
    parts = svdquant_parts(layer)
    up = parts[f"{layer.name}.proj_up"]
    parts[f"{layer.name}.proj_up"] = torch.stack([rows.T for rows in up.split(128)]).contiguous()
    return parts


svdquant_natural = Recipe(svdquant, select=multiple(64), beside=(svdquant_parts, comfy_quant("svdquant_w4a4")))
svdquant_tiles = Recipe(in_tiles, select=multiple(128), beside=(tiled_parts, comfy_quant("svdquant_w4a4")))


def asymmetric(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """AWQ: codes 0 to 15, and bf16 scales and zero points ``[out, in / 64]``: ``W = codes * scale + zero``."""
    groups = weight.float().view(weight.shape[0], -1, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = torch.where(high == low, 1.0, (high - low) / 15).to(BF16)
    zero = low.to(BF16)
    codes = ((groups - zero.float().unsqueeze(-1)) / scale.float().unsqueeze(-1)).round().clamp(0, 15)
    return codes.flatten(1).to(U8), scale, zero


def awq(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    codes, scale, _ = asymmetric(weight)
    return low_first(codes).view(I8), scale.T.contiguous()


def kitchen_zero(layer: Layer) -> StateDict:
    """comfy-kitchen's zero points are for codes less 8."""
    _, scale, zero = asymmetric(layer.weight)
    return {f"{layer.name}.weight_zero": (zero.float() + 8 * scale.float()).T.contiguous()}


awq_kitchen = Recipe(awq, select=multiple(64), beside=(kitchen_zero, comfy_quant("awq_w4a16")))


def modelopt_svd(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ModelOpt's SVDQuant: the low-rank part is one of the weight that was smoothed before."""
    smoothed = weight.float() / smoothing(weight.shape[1]).float()
    up, down = factors(smoothed)
    return smoothed - up.float() @ down.float(), up, down


def nvfp4_svd(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    return nvfp4_rows(modelopt_svd(weight)[0], dtype, stored)


def modelopt_parts(layer: Layer) -> StateDict:
    rest, up, down = modelopt_svd(layer.weight)
    named = {
        "weight_scale_2": nvfp4_parts(rest)[2], "pre_quant_scale": smoothing(layer.weight.shape[1]),
        "svdquant_lora_a": down, "svdquant_lora_b": up,
    }  # fmt: skip
    return {f"{layer.name}.{key}": value for key, value in named.items()}


nvfp4_modelopt_svd = Recipe(
    nvfp4_svd, select=multiple(32), beside=(modelopt_parts,),
    container=folder("diffusion_pytorch_model.safetensors", config={"quantization_config": {
        "quant_method": "modelopt", "quant_algo": "NVFP4_SVD", "lora_rank": RANK}}),
)  # fmt: skip


# ---- Nunchaku: the order in which its matrix instructions load ------------------------------------------------------


def mma_codes(codes: Tensor) -> Tensor:
    """Codes ``[out, in]`` as int8 ``[out, in / 2]``: eight of a row to a word of 32 bits."""
    n, k = codes.shape
    row, col = torch.meshgrid(torch.arange(n), torch.arange(k), indexing="ij")
    word = (row // 128 * (k // 64) + col // 64) * 8 + row % 128 // 16
    word = ((word * 8 + row % 8) * 4 + col % 32 // 8) * 4 + row % 16 // 8 * 2 + col % 64 // 32
    words = torch.zeros(n * k // 8, dtype=torch.int64)
    words.index_add_(0, word.flatten(), ((codes.long() & 0xF) << 4 * (col % 8)).flatten())
    return words.to(torch.int32).view(I8).view(n, k // 2)


def mma_values(values: Tensor) -> Tensor:
    """Values of outputs, ``[out]`` or ``[out, groups]`` -> flat, as lanes load them."""
    n = values.shape[0]
    columns = values.reshape(n, -1)
    row, group = torch.meshgrid(torch.arange(n), torch.arange(columns.shape[1]), indexing="ij")
    place = (row // 128 * columns.shape[1] + group) * 8 + row % 128 // 16
    place = ((place * 4 + row % 8 // 2) * 2 + row % 16 // 8) * 2 + row % 2
    flat = torch.empty_like(columns).flatten()
    flat[place.flatten()] = columns.flatten()
    return flat


def mma_fragments(values: Tensor, channel: Tensor, rank: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Fragments of 16 x 16 whose first side goes over eight lanes, and whose second over four pairs."""
    ranks = int(rank.max()) + 1
    place = channel // 16 * (ranks // 16) + rank // 16
    place = ((place * 8 + first % 8) * 4 + second % 8 // 2) * 8 + first // 8 * 4 + second // 8 * 2 + second % 2
    flat = torch.empty_like(values).flatten()
    flat[place.flatten()] = values.flatten()
    return flat.view(-1, ranks)


def mma_up(up: Tensor) -> Tensor:
    channel, rank = torch.meshgrid(*map(torch.arange, up.shape), indexing="ij")
    return mma_fragments(up, channel, rank, channel % 16, rank % 16)


def mma_down(down: Tensor) -> Tensor:
    rank, channel = torch.meshgrid(*map(torch.arange, down.shape), indexing="ij")
    return mma_fragments(down, channel, rank, rank % 16, channel % 16)


def nunchaku_int4(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    codes, scale = residual_int4(weight)
    return mma_codes(codes), mma_values(scale).view(-1, weight.shape[0])


def nunchaku_parts(names: tuple[str, str, str], layer: Layer) -> StateDict:
    up, down = factors(layer.weight)
    smooth = mma_values(smoothing(layer.weight.shape[1]))
    parts = zip(names, (mma_up(up), mma_down(down), smooth), strict=True)
    return {f"{layer.name}.{key}": value for key, value in parts} | {f"{layer.name}.smooth_factor_orig": smooth.clone()}


def nunchaku_recipe(names: tuple[str, str, str]) -> Recipe:
    """Every bias of a quantized layer lies in the order of its outputs' lanes, shifted ones make up for the shift."""
    return Recipe(
        nunchaku_int4, weight="{}.qweight", scale="{}.wscales", select=multiple(128),
        beside=(partial(nunchaku_parts, names),), biases=nunchaku_bias,
    )  # fmt: skip


def nunchaku_bias(layer: Layer, bias: Tensor) -> Tensor:
    if layer.name.endswith(("mlp_fc2", "img_mlp.net.2")):
        codes, scale = residual_int4(layer.weight)
        main = codes.float() * scale.float().repeat_interleave(GROUP, 1) / smoothing(layer.weight.shape[1]).float()
        bias = bias.float() - SHIFT * main.sum(1)
    return mma_values(bias)


# ---- Nunchaku's NVFP4 ------------------------------------------------------------------------------------------------


def residual_e2m1(weight: Tensor, joined: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes 0 to 15 of what the low-rank part leaves, smoothed; scales of 16 float8_e4m3fn; bf16 factors ``[joined]``.

    joined: layers whose outputs lie one after the other, each with the factor that is its own largest.
    """
    up, down = factors(weight)
    rest = (weight.float() - up.float() @ down.float()) * smoothing(weight.shape[1]).float()
    amax = rest.view(joined, -1).abs().amax(1)
    factor = torch.where(amax == 0, 1.0, amax / 2688).to(BF16)
    spread = factor.float().repeat_interleave(len(rest) // joined).view(-1, 1)
    groups = (rest / spread).view(len(rest), -1, 16)
    scale = (groups.abs().amax(-1) / 6).clamp(max=448).to(torch.float8_e4m3fn)
    divisor = torch.where(scale.float() == 0, torch.inf, scale.float())
    return nearest_e2m1((groups / divisor.unsqueeze(-1)).flatten(1)), scale, factor


def mma_micro(scale: Tensor) -> Tensor:
    """Bytes ``[out, in / 16]`` -> ``[in / 16, out]``: lane 0 has four of rows 0, 32, 64 and 96, lane 1 of 8, 40..."""
    n, count = scale.shape
    row, group = torch.meshgrid(torch.arange(n), torch.arange(count), indexing="ij")
    lane = row % 8 * 4 + row % 32 // 8
    place = ((row // 128 * (count // 4) + group // 4) * 32 + lane) * 16 + row % 128 // 32 * 4 + group % 4
    flat = torch.empty(n * count, dtype=U8)
    flat[place.flatten()] = scale.view(U8).flatten()
    return flat.view(torch.float8_e4m3fn).view(count, n)


def nunchaku_fp4(joined: int) -> Recipe:
    def encoded(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
        codes, scale, _ = residual_e2m1(weight, joined)
        return mma_codes(codes), mma_micro(scale)

    def factor(layer: Layer) -> StateDict:
        found = residual_e2m1(layer.weight, joined)[2]
        spread = found.repeat_interleave(len(layer.weight) // joined)
        return {f"{layer.name}.wtscale": found} if joined == 1 else {f"{layer.name}.wcscales": mma_values(spread)}

    return Recipe(
        encoded, weight="{}.qweight", scale="{}.wscales", select=multiple(128),
        beside=(partial(nunchaku_parts, ("proj_up", "proj_down", "smooth_factor")), factor),
        biases=lambda layer, bias: mma_values(bias),
    )  # fmt: skip


def tinychat(codes: Tensor) -> Tensor:
    """AWQ codes ``[out, in]`` -> int32 ``[out / 4, in / 2]``: columns i, i + 8, i + 16, i + 24 of 32 in 16 bits."""
    n, k = codes.shape
    row, col = torch.meshgrid(torch.arange(n), torch.arange(k), indexing="ij")
    word = ((row // 4 * (k // 64) + col // 64) * 4 + row % 4) * 16 + col % 64 // 32 * 8 + col % 8
    words = torch.zeros(n * k // 4, dtype=torch.int64)
    words.index_add_(0, word.flatten(), (codes.long() << 4 * (col % 32 // 8)).flatten())
    return words.to(torch.int32).to(torch.int16).view(torch.int32).view(n // 4, k // 2)


def in_turns(rows: Tensor, splits: int) -> Tensor:
    """Parts a a b b c c as a b c a b c."""
    return rows.reshape(splits, -1, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def nunchaku_awq(splits: int) -> Encoding:
    def encode(weight: Tensor, dtype: torch.dtype, stored: torch.dtype) -> tuple[Tensor, Tensor]:
        codes, scale, _ = asymmetric(in_turns(weight, splits))
        return tinychat(codes), filled(scale)

    return encode


def filled(values: Tensor) -> Tensor:
    """``[out, groups]`` -> ``[groups, out]``, groups filled up to 16 with zeros."""
    groups = values.shape[1]
    return torch.nn.functional.pad(values.T, (0, 0, 0, -groups % 16)).contiguous()


def awq_zeros(splits: int, layer: Layer) -> StateDict:
    return {f"{layer.name}.wzeros": filled(asymmetric(in_turns(layer.weight, splits))[2])}


def awq_bias(splits: int, layer: Layer, bias: Tensor) -> Tensor:
    """The 1 of 1 + scale is in the bias already, of the second part and the last but one."""
    ones = torch.zeros(splits)
    ones[1:2] = ones[-2:-1] = 1
    return in_turns(bias.float() + ones.repeat_interleave(len(bias) // splits), splits).to(bias.dtype)


def awq_recipe(splits: int) -> Recipe:
    return Recipe(
        nunchaku_awq(splits), weight="{}.qweight", scale="{}.wscales", select=multiple(64),
        beside=(partial(awq_zeros, splits),), biases=partial(awq_bias, splits),
    )  # fmt: skip
