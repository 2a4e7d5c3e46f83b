"""Every format in every granularity against arithmetic written here, against comfy-kitchen and against torchao."""

from __future__ import annotations

from collections.abc import Callable

import arithmetic
import comfy_kitchen
import pytest
import torch
from comfy_kitchen.tensor import QuantizedTensor
from scaled_fp8.quant import FORMATS, Format, Refused
from scaled_fp8.quant.nn.tensor import from_tensor, to_tensor
from scaled_fp8.quant.weights import job
from scaled_fp8.quant.weights.encode import quantize
from scaled_fp8.quant.weights.granularity import Granularity, PerBlock, PerRow, PerTensor
from scaled_fp8.quant.weights.job import Search
from scaled_fp8.quant.weights.native import description, loads_in_core, native_tensors
from torch import Tensor

CASES = [pytest.param(f, g, id=f"{f.name}-{g.name}") for f in FORMATS.values() for g in f.granularities]
NATIVE = [case for case in CASES if loads_in_core(*case.values)]
FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


@pytest.fixture(scope="module")
def weight() -> Tensor:
    """``[200, 576]`` float32: rows of unlike size, an outlier, no multiple of 128 or 256."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(200, 576, generator=generator) * torch.logspace(-3, 0, 200).unsqueeze(1)
    weight[7, 11] = 9.0
    return weight


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


##### Arithmetic written here


def nearest(values: Tensor, table: Tensor) -> Tensor:
    """The table's value nearest to each, by looking at all of them."""
    return table[(values.unsqueeze(-1) - table).abs().argmin(-1)]


def plain(weight: Tensor, format: Format, granularity: Granularity) -> Tensor:
    kinds: dict[str, Callable[..., arithmetic.Encoded]] = {
        "per-tensor": arithmetic.per_tensor,
        "per-row": arithmetic.per_row,
        "block": arithmetic.block128,
    }
    codes, scale = kinds[granularity.name](weight, format.dtype, torch.float32)
    if granularity.name == "block":
        scale = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: weight.shape[0], : weight.shape[1]]
    return codes.float() * scale


def microscaled(weight: Tensor) -> Tensor:
    codes, scale = arithmetic.group32(weight, torch.float8_e4m3fn, torch.uint8)
    return codes.float() * torch.exp2(scale.float() - 127).repeat_interleave(32, 1)


def two_levels(weight: Tensor) -> Tensor:
    """NVFP4: blocks of 16, their scale an e4m3 multiple of the tensor's, the values of a 4-bit float."""
    table = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])
    outer = weight.abs().amax() / (448 * 6)
    blocks = weight.unflatten(1, (-1, 16))
    inner = (blocks.abs().amax(2, keepdim=True) / 6 / outer).to(torch.float8_e4m3fn).float()
    scale = inner * outer
    size = nearest((blocks.abs() / scale).nan_to_num(0.0, 0.0).clamp(max=6), table)
    return (size * blocks.sign() * scale).flatten(1)


def turned_int4(weight: Tensor) -> Tensor:
    turn = torch.block_diag(*[arithmetic.hadamard(64)] * (weight.shape[1] // 64))
    turned = weight @ turn.T
    scale = turned.abs().amax(1, keepdim=True) / 7
    return (turned / scale).round() * scale @ turn


def turned_int8(weight: Tensor) -> Tensor:
    codes, scale = arithmetic.rotated(arithmetic.per_row, 64)(weight, torch.int8)
    return ((codes.float() * scale).unflatten(1, (-1, 64)) @ arithmetic.hadamard(64)).flatten(1)


def codebook_int4(weight: Tensor) -> Tensor:
    codes, inner, channel, _, book = comfy_kitchen.quantize_w4a8_int8_weight(weight, convrot_groupsize=64)
    byte = codes.view(torch.uint8)
    values = book[torch.stack((byte & 15, byte >> 4), -1).flatten(1).long()]
    grid = (values.unflatten(1, (-1, 16)) * inner.float().unsqueeze(-1)).flatten(1).round().clamp(-127, 127)
    turned = grid * channel.unsqueeze(1)
    return (turned.unflatten(1, (-1, 64)) @ arithmetic.hadamard(64)).flatten(1)


BY_HAND: dict[str, Callable[[Tensor], Tensor]] = {
    "mxfp8": microscaled,
    "nvfp4": two_levels,
    "int8_convrot": turned_int8,
    "int4": codebook_int4,
    "int4_convrot": turned_int4,
}


@pytest.mark.parametrize(("format", "granularity"), CASES)
def test_is_what_arithmetic_says(format: Format, granularity: Granularity, weight: Tensor) -> None:
    got = quantize(weight, format, granularity).dequantize()
    by_hand = BY_HAND[format.name](weight) if format.name in BY_HAND else plain(weight, format, granularity)
    if format.rotates:
        # sums of 64 products come in another order: a value in the middle of two codes may fall to either
        assert relative(got, by_hand) < 0.02
        assert relative(got, weight) <= 1.02 * relative(by_hand, weight)
    else:
        torch.testing.assert_close(got, by_hand, rtol=1e-6, atol=0)


BOUNDS = {"float8_e4m3fn": 0.03, "float8_e4m3fnuz": 0.03, "mxfp8": 0.03, "float8_e5m2": 0.06, "float8_e5m2fnuz": 0.06}
BOUNDS |= {"nvfp4": 0.11, "int8": 0.02, "int8_convrot": 0.01, "int4": 0.08, "int4_convrot": 0.16}


@pytest.mark.parametrize(("format", "granularity"), CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_error_of_a_normal_weight(format: Format, granularity: Granularity, dtype: torch.dtype) -> None:
    weight = (torch.randn(160, 512, generator=torch.Generator().manual_seed(1)) * 0.02).to(dtype)
    found = quantize(weight, format, granularity)
    assert relative(found.dequantize(), weight.float()) < BOUNDS[format.name]
    assert found.scale.dtype == torch.float32
    assert found.codes.dtype == format.dtype
    assert found.scale.shape == granularity.scale_shape((160, 512))


##### comfy-kitchen and torchao

LAYOUTS = {
    "mxfp8": ("TensorCoreMXFP8Layout", {}),
    "nvfp4": ("TensorCoreNVFP4Layout", {}),
    "int8-per-row": ("TensorWiseINT8Layout", {"per_channel": True}),
    "int8-per-tensor": ("TensorWiseINT8Layout", {}),
    "int8_convrot": ("TensorWiseINT8Layout", {"per_channel": True, "convrot": True, "convrot_groupsize": 64}),
    "int4": ("AsymW4A8Int8Layout", {"convrot_groupsize": 64}),
    "int4_convrot": ("TensorCoreConvRotW4A4Layout", {"convrot_groupsize": 64}),
}


def kitchen(weight: Tensor, format: Format, granularity: Granularity) -> QuantizedTensor:
    name = format.name if format.name in LAYOUTS else f"{format.name}-{granularity.name}"
    layout, options = LAYOUTS[name]
    return QuantizedTensor.from_float(weight, layout, **options)


@pytest.mark.parametrize(
    ("format", "granularity"), [c for c in NATIVE if not str(c.id).startswith("float8")]
)  # fmt: skip
@pytest.mark.parametrize("shape", [(200, 576), (50, 576), (128, 256)], ids=str)
def test_saves_what_comfy_kitchen_stores(
    format: Format, granularity: Granularity, shape: tuple[int, int], weight: Tensor
) -> None:
    weight = weight[: shape[0], : shape[1]].contiguous()
    if format.rotates and shape[1] == 256:
        pytest.skip("its group is 256 there, the table of this test has 64")
    theirs = kitchen(weight, format, granularity)
    mine = quantize(weight, format, granularity)
    saved = native_tensors(mine, "")
    stored = theirs.state_dict("weight")
    assert set(saved) - {"comfy_quant"} == set(stored)
    for name, tensor in stored.items():
        assert saved[name].shape == tensor.shape, name
        same = saved[name].view(torch.uint8) == tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else None
        if format.rotates and same is not None:
            assert same.float().mean() > 0.995, name
        elif same is not None:
            assert same.all(), name
        else:
            torch.testing.assert_close(saved[name].reshape(tensor.shape), tensor, rtol=1e-5, atol=0)
    assert relative(mine.dequantize(), weight) <= 1.02 * relative(theirs.dequantize(), weight)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_fp8_is_not_worse_than_comfy_kitchen(dtype: torch.dtype, weight: Tensor) -> None:
    mine = quantize(weight, FORMATS[str(dtype).removeprefix("torch.")], PerTensor())
    theirs = comfy_kitchen.quantize_per_tensor_fp8(weight, mine.scale, dtype).float() * mine.scale
    assert relative(mine.dequantize(), weight) <= 1.02 * relative(theirs, weight)


@pytest.mark.parametrize("granularity", [PerTensor(), PerRow(), PerBlock(128, 128)], ids=lambda g: g.name)
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_fp8_codes_and_scales_are_torchaos(granularity: Granularity, dtype: torch.dtype, weight: Tensor) -> None:
    primitives = pytest.importorskip("torchao.quantization.quant_primitives")
    weight = weight[:128, :512].contiguous()
    rows = {"per-tensor": (128, 512), "per-row": (1, 512), "block": (128, 128)}[granularity.name]
    scale = primitives._choose_scale_float8(weight, list(rows), dtype)
    codes = primitives._quantize_affine_float8(weight, scale, dtype)
    mine = quantize(weight, FORMATS[str(dtype).removeprefix("torch.")], granularity)
    assert torch.equal(mine.codes.view(torch.uint8), codes.view(torch.uint8))
    assert torch.equal(mine.scale.flatten(), scale.flatten())


##### Corners


@pytest.mark.parametrize(("format", "granularity"), CASES)
def test_zeros_stay_zeros(format: Format, granularity: Granularity) -> None:
    weight = torch.zeros(128, 256)
    assert torch.equal(quantize(weight, format, granularity).dequantize(), weight)
    weight[64:] = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    found = quantize(weight, format, granularity).dequantize()
    assert torch.equal(found[:64], weight[:64])
    assert found.isfinite().all()


@pytest.mark.parametrize(("format", "granularity"), CASES)
@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("-inf"), "infinite")])
def test_refuses_nan_and_infinity_by_name(format: Format, granularity: Granularity, value: float, word: str) -> None:
    weight = torch.ones(32, 256, dtype=torch.bfloat16)
    weight[3, 5] = value
    with pytest.raises(Refused, match=f"blocks.0.q: has {word}"):
        quantize(weight, format, granularity, name="blocks.0.q")


@pytest.mark.parametrize(("format", "granularity"), CASES)
@pytest.mark.parametrize("size", [6e-8, 1e-6, 3e-5, 6e4], ids=str)
def test_the_ends_of_float16(format: Format, granularity: Granularity, size: float) -> None:
    """A scale in float16 would be zero for the first three: 6e-8 / 448 is below its smallest number."""
    weight = torch.full((32, 256), size, dtype=torch.float16)
    found = quantize(weight, format, granularity).dequantize()
    assert relative(found, weight.float()) < 0.13  # half a step of e5m2, relative


@pytest.mark.parametrize(("format", "granularity"), CASES)
def test_the_ends_of_float32_are_finite(format: Format, granularity: Granularity) -> None:
    for size in (1e-45, 1e-38, 1e36):
        assert quantize(torch.full((16, 64), size), format, granularity).dequantize().isfinite().all(), size


@pytest.mark.parametrize(("format", "granularity"), CASES)
def test_slabs_and_threads_do_not_show(
    format: Format, granularity: Granularity, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(700, 512, generator=torch.Generator().manual_seed(5))
    once = quantize(weight, format, granularity)
    monkeypatch.setattr(job, "SLAB", 512 * 130)
    torch.set_num_threads(1)
    again = quantize(weight, format, granularity)
    torch.set_num_threads(2)
    assert torch.equal(once.codes.view(torch.uint8), again.codes.view(torch.uint8))
    assert torch.equal(once.scale, again.scale)


@pytest.mark.parametrize(("format", "granularity"), CASES)
def test_weight_is_not_touched(format: Format, granularity: Granularity) -> None:
    weight = torch.randn(64, 256)
    before = weight.clone()
    quantize(weight, format, granularity, search=Search())
    assert torch.equal(weight, before)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(4, 4, 3, 3), "flatten a convolution"),
        (torch.ones(4, 4, dtype=torch.int8), "only floating-point"),
        (torch.ones(0, 4), "is empty"),
        (torch.ones(4, 5), "multiples of 2"),
    ],
    ids=["4-D", "integers", "empty", "odd"],
)
def test_refuses_what_it_cannot_hold(weight: Tensor, message: str) -> None:
    with pytest.raises(Refused, match=message):
        quantize(weight, FORMATS["nvfp4"])


def test_refuses_a_granularity_the_format_has_not() -> None:
    with pytest.raises(Refused, match="int8 has no block scales, only per-row, per-tensor"):
        quantize(torch.ones(4, 4), FORMATS["int8"], PerBlock())
    with pytest.raises(Refused, match="choose per-row or per-tensor"):
        FORMATS["int8"].granularity("block")


##### Search and stochastic rounding


@pytest.mark.parametrize(("format", "granularity"), CASES)
def test_search_never_makes_it_worse(format: Format, granularity: Granularity, weight: Tensor) -> None:
    plain = relative(quantize(weight, format, granularity).dequantize(), weight)
    assert relative(quantize(weight, format, granularity, search=Search()).dequantize(), weight) <= plain * (1 + 1e-6)


# what is left of the error; comfy-kitchen's INT4 has searched for scales itself
LEFT = {"nvfp4": 0.97, "int4_convrot": 0.97, "int4": 0.99}


@pytest.mark.parametrize("name", [name for name, format in FORMATS.items() if format.factors])
def test_search_pays_for_four_bits(name: str, weight: Tensor) -> None:
    plain = relative(quantize(weight, FORMATS[name]).dequantize(), weight)
    assert relative(quantize(weight, FORMATS[name], search=Search()).dequantize(), weight) < LEFT[name] * plain


def test_search_by_importance_lowers_the_outputs_error() -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(64, 256, generator=generator)
    x = torch.randn(512, 256, generator=generator) * torch.logspace(-2, 1, 256)
    important = Search(importance=x.square().mean(0))
    errors = [
        relative(x @ quantize(weight, FORMATS["nvfp4"], search=search).dequantize().T, x @ weight.T)
        for search in (important, Search())
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("name", ["float8_e4m3fn", "int8", "int8_convrot", "int4_convrot"])
def test_stochastic_rounding_keeps_what_is_below_a_step(name: str) -> None:
    weight = torch.full((256, 256), 0.1)
    weight[:, 0] = 1.0
    small = weight + 0.0008
    kept = quantize(small, FORMATS[name], seed=4).dequantize() - quantize(weight, FORMATS[name], seed=5).dequantize()
    assert 0.0004 < float(kept[:, 1:].mean()) < 0.0012


##### As ComfyUI and the resident layout hold it


@pytest.mark.parametrize(("format", "granularity"), CASES)
def test_the_resident_tensor_is_the_same_weight(format: Format, granularity: Granularity, weight: Tensor) -> None:
    found = quantize(weight, format, granularity)
    tensor = to_tensor(found, torch.bfloat16)
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.bfloat16, (200, 576))
    assert torch.equal(tensor.dequantize(), found.dequantize(torch.bfloat16))
    assert torch.equal(from_tensor(tensor.clone()).dequantize(), found.dequantize())


@pytest.mark.parametrize(("format", "granularity"), CASES)
def test_marker_names_what_core_knows_and_nothing_that_it_would_misread(
    format: Format, granularity: Granularity, weight: Tensor
) -> None:
    core = {
        "float8_e4m3fn", "float8_e5m2", "mxfp8", "nvfp4", "int8_tensorwise", "convrot_w4a4", "asym_w4a8_int8",
    }  # fmt: skip
    entry = description(quantize(weight, format, granularity))
    assert (entry["format"] in core) == loads_in_core(format, granularity)
    assert entry.get("convrot_groupsize") == (64 if format.rotates else None)
