"""One-pass kernels for GPUs, in Triton: quantizing activations, dequantizing weights, few rows by byte-wide weights.

Only imported where Triton is. Under its interpreter (TRITON_INTERPRET=1) they run on a CPU.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..weights.granularity import PerBlock
from ..weights.weight import QuantizedWeight
from .place import on_its_device
from .upcast import TALL, WIDE

INTERPRETED = bool(triton.knobs.runtime.interpret)
FEW_ROWS = 32
# inputs of one step of few_rows, the least steps of a part, and programs that keep a multiprocessor busy
STEP, LEAST_STEPS, BUSY = 128, 4, 4
PARTS = 1024
# inputs of a row that a program keeps, 32 a thread at most
IN_REGISTERS = 16384

# How bytes are read: see decoded. e5m2fnuz is not among them: its largest codes lie above float16's
KINDS = {torch.float8_e4m3fn: 0, torch.float8_e5m2: 1, torch.float8_e4m3fnuz: 2, torch.int8: 3}
FLOAT8, INT8 = tl.constexpr(0), tl.constexpr(3)
NAN = tl.constexpr(float("nan"))


@cache
def native(device: torch.device) -> bool:
    """Whether the device converts float8 by itself; else it is done on bits."""
    if INTERPRETED or device.type != "cuda":
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 9)


##### Numbers to codes


@triton.jit
def limited(x, MAXIMUM: tl.constexpr):
    # a NaN passes
    x = tl.minimum(x, MAXIMUM, propagate_nan=tl.PropagateNan.ALL)
    return tl.maximum(x, -MAXIMUM, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def encoded(x, KIND: tl.constexpr, NATIVE: tl.constexpr):
    """Float32 within range to a byte, round half to even: float8_e4m3fn or int8."""
    if KIND == INT8:
        # above 2^23 a float32 has no fraction left
        return (x + 12582912.0 - 12582912.0).to(tl.int8).to(tl.uint8, bitcast=True)
    if NATIVE:
        return x.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    bits = x.to(tl.int32, bitcast=True)
    sign = (bits >> 24) & 0x80
    size = bits & 0x7FFFFFFF
    # 20 mantissa bits go; 120 is the difference of the exponents' biases
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    # adding 2^14 leaves multiples of 2^-9, the step of subnormals, in the lowest bits
    small = (size.to(tl.float32, bitcast=True) + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
    code = tl.where(size < 0x3C800000, small, normal)
    return tl.where(size > 0x7F800000, 0x7F, sign | code).to(tl.uint8)


@triton.jit
def token_kernel(
    x_ptr, codes_ptr, scale_ptr, columns, TINY: tl.constexpr, MAXIMUM: tl.constexpr,
    KIND: tl.constexpr, NATIVE: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """WHOLE: a block holds all of a row, which is read once and kept in registers."""
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * columns
    codes_ptr += row * columns
    offsets = tl.arange(0, BLOCK)
    if WHOLE:
        x = tl.load(x_ptr + offsets, mask=offsets < columns, other=0.0).to(tl.float32)
        scale = tl.maximum(tl.max(tl.abs(x), 0) / MAXIMUM, TINY)
        tl.store(codes_ptr + offsets, encoded(limited(x / scale, MAXIMUM), KIND, NATIVE), mask=offsets < columns)
    else:
        largest = tl.zeros([BLOCK], tl.float32)
        for start in range(0, columns, BLOCK):
            x = tl.load(x_ptr + start + offsets, mask=start + offsets < columns, other=0.0).to(tl.float32)
            largest = tl.maximum(largest, tl.abs(x))
        scale = tl.maximum(tl.max(largest, 0) / MAXIMUM, TINY)
        # what was just read is still in the cache
        for start in range(0, columns, BLOCK):
            inside = start + offsets < columns
            x = tl.load(x_ptr + start + offsets, mask=inside, other=0.0).to(tl.float32)
            tl.store(codes_ptr + start + offsets, encoded(limited(x / scale, MAXIMUM), KIND, NATIVE), mask=inside)
    tl.store(scale_ptr + row, scale)


@triton.jit
def part_kernel(x_ptr, part_ptr, count, BLOCK: tl.constexpr):
    """The largest magnitude of every PARTS-th block."""
    part = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    largest = tl.zeros([BLOCK], tl.float32)
    for start in range(part.to(tl.int64) * BLOCK, count, tl.num_programs(0).to(tl.int64) * BLOCK):
        x = tl.load(x_ptr + start + offsets, mask=start + offsets < count, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(x))
    tl.store(part_ptr + part, tl.max(largest, 0))


@triton.jit
def tensor_kernel(
    x_ptr, codes_ptr, given_ptr, scale_ptr, part_ptr, parts, count, scales, TINY: tl.constexpr, MAXIMUM: tl.constexpr,
    NATIVE: tl.constexpr, PARTS: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Every program finds the same scale from the parts, with none of them it is given; and writes it EACH times."""
    program = tl.program_id(0).to(tl.int64)
    if PARTS > 0:
        largest = tl.max(tl.load(part_ptr + tl.arange(0, PARTS), mask=tl.arange(0, PARTS) < parts, other=0.0), 0)
        scale = tl.maximum(largest / MAXIMUM, TINY)
    else:
        scale = tl.load(given_ptr)
    if EACH > 0:
        place = program * EACH + tl.arange(0, EACH)
        tl.store(scale_ptr + place, tl.zeros([EACH], tl.float32) + scale, mask=place < scales)
    offsets = program * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < count, other=0.0).to(tl.float32)
    tl.store(codes_ptr + offsets, encoded(limited(x / scale, MAXIMUM), FLOAT8, NATIVE), mask=offsets < count)


@triton.jit
def run_kernel(
    x_ptr, codes_ptr, scale_ptr, tokens, columns, TINY: tl.constexpr, MAXIMUM: tl.constexpr, NATIVE: tl.constexpr,
    RUN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    run = tl.program_id(1)
    offsets = row * columns + run * RUN + tl.arange(0, RUN)
    x = tl.load(x_ptr + offsets).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), 0) / MAXIMUM, TINY)
    # the GEMM wants the scales of one run of all tokens side by side
    tl.store(scale_ptr + run * tokens + row, scale)
    tl.store(codes_ptr + offsets, encoded(limited(x / scale, MAXIMUM), FLOAT8, NATIVE))


TINY = torch.finfo(torch.float32).tiny


@on_its_device
def per_token(x: Tensor, dtype: torch.dtype, maximum: float) -> tuple[Tensor, Tensor]:
    """``[tokens, in]`` to codes of dtype (float8_e4m3fn or int8) and scales ``[tokens, 1]``, in one kernel."""
    x = x.contiguous()
    codes, scale = torch.empty_like(x, dtype=dtype), x.new_empty(x.shape[0], 1, dtype=torch.float32)
    block = triton.next_power_of_2(x.shape[1])
    whole = block <= IN_REGISTERS
    block = block if whole else 4096
    token_kernel[(x.shape[0],)](
        x, codes.view(torch.uint8), scale, x.shape[1], TINY, maximum, KINDS[dtype], native(x.device), block, whole,
        num_warps=max(4, min(16, block // 512)),
    )  # fmt: skip
    return codes, scale


@on_its_device
def per_tensor(x: Tensor, maximum: float, by_tokens: bool = False) -> tuple[Tensor, Tensor]:
    """``[tokens, in]`` to float8_e4m3fn codes and their scale ``[1, 1]``, or it once a token, in two kernels."""
    x, block = x.contiguous(), 4096
    parts = min(PARTS, triton.cdiv(x.numel(), block))
    part, scale = (x.new_empty(*n, dtype=torch.float32) for n in ((parts,), (len(x) if by_tokens else 1, 1)))
    part_kernel[(parts,)](x, part, x.numel(), block, num_warps=8)
    return over_all(x, part, scale, scale, maximum), scale


@on_its_device
def static(x: Tensor, given: Tensor, maximum: float, by_tokens: bool = False) -> tuple[Tensor, Tensor]:
    """``[tokens, in]`` to float8_e4m3fn codes of a given scale ``[]``, and that, once a token or ``[1, 1]``, in one
    kernel."""
    scale = given.new_empty(len(x), 1) if by_tokens else None
    codes = over_all(x.contiguous(), None, given, scale, maximum)
    return codes, given.reshape(1, 1) if scale is None else scale


def over_all(x: Tensor, part: Tensor | None, given: Tensor, scale: Tensor | None, maximum: float) -> Tensor:
    """Codes by the scale from the parts, or the one that is given; scale: into which it is written."""
    codes, block = torch.empty_like(x, dtype=torch.float8_e4m3fn), 2048
    programs, (parts, most) = triton.cdiv(x.numel(), block), (0, 0) if part is None else (part.numel(), PARTS)
    scales, each = (0, 0) if scale is None else (len(scale), triton.next_power_of_2(triton.cdiv(len(scale), programs)))
    tensor_kernel[(programs,)](
        x, codes.view(torch.uint8), given, given if scale is None else scale, given if part is None else part, parts,
        x.numel(), scales, TINY, maximum, native(x.device), most, each, block,
    )  # fmt: skip
    return codes


@on_its_device
def by_runs(x: Tensor, run: int, maximum: float) -> tuple[Tensor, Tensor]:
    """``[tokens, in]`` to float8_e4m3fn codes and scales ``[tokens, in / run]``, column after column."""
    x, (tokens, columns) = x.contiguous(), x.shape
    codes = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = x.new_empty(columns // run, tokens, dtype=torch.float32)
    run_kernel[(tokens, columns // run)](
        x, codes.view(torch.uint8), scale, tokens, columns, TINY, maximum, native(x.device), run, num_warps=1
    )
    return codes, scale.t()


##### Codes to numbers


@triton.jit
def decoded(code, KIND: tl.constexpr, NATIVE: tl.constexpr):
    """A byte's value as float16, which has all of them: float8_e4m3fn, float8_e5m2, float8_e4m3fnuz or int8."""
    if KIND == INT8:
        return code.to(tl.int8, bitcast=True).to(tl.float16)
    wide = code.to(tl.int16)
    if KIND == 1:
        return (wide << 8).to(tl.float16, bitcast=True)
    if NATIVE and KIND == FLOAT8:
        return code.to(tl.float8e4nv, bitcast=True).to(tl.float16)
    # the same fields, three mantissa bits and four of the exponent, under float16's wider exponent
    fields = (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.float16, bitcast=True)
    if KIND == FLOAT8:
        return tl.where((wide & 0x7F) == 0x7F, NAN, fields * 256.0).to(tl.float16)
    return tl.where(wide == 0x80, NAN, fields * 128.0).to(tl.float16)


@triton.jit
def dequantize_kernel(
    codes_ptr, scale_ptr, y_ptr, columns, scale_columns, rows_each, columns_each,
    KIND: tl.constexpr, NATIVE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    values = decoded(tl.load(codes_ptr + row * columns + column, mask=inside, other=0), KIND, NATIVE).to(tl.float32)
    scale = tl.load(scale_ptr + (row // rows_each) * scale_columns + column // columns_each, mask=inside, other=0.0)
    tl.store(y_ptr + row * columns + column, (values * scale).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def few_rows_kernel(
    x_ptr, codes_ptr, scale_ptr, bias_ptr, y_ptr, tokens, outputs, columns, span, scale_columns, rows_each,
    columns_each, KIND: tl.constexpr, NATIVE: tl.constexpr, DOT: tl.constexpr, BIASED: tl.constexpr,
    TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One part of the sums each along the grid's second side: of span columns, a multiple of BLOCK."""
    part = tl.program_id(1)
    token = tl.arange(0, TOKENS)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    output_row = output.to(tl.int64)
    inner = tl.arange(0, BLOCK)
    sums = tl.zeros([TOKENS, OUTPUTS], tl.float32)
    for start in range(part * span, tl.minimum(columns, (part + 1) * span), BLOCK):
        column = start + inner
        x = tl.load(
            x_ptr + token[:, None] * columns + column[None, :],
            mask=(token[:, None] < tokens) & (column[None, :] < columns), other=0.0,
        )  # fmt: skip
        code = tl.load(
            codes_ptr + output_row[:, None] * columns + column[None, :],
            mask=(output[:, None] < outputs) & (column[None, :] < columns), other=0,
        )  # fmt: skip
        scale = tl.load(
            scale_ptr + (output // rows_each) * scale_columns + start // columns_each, mask=output < outputs, other=0.0
        )
        values = decoded(code, KIND, NATIVE).to(DOT)
        sums += tl.dot(x.to(DOT), tl.trans(values), input_precision="ieee") * scale[None, :]
    if BIASED:
        sums += tl.load(bias_ptr + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    inside = (token[:, None] < tokens) & (output[None, :] < outputs)
    place = y_ptr + (part * tokens + token[:, None]).to(tl.int64) * outputs + output[None, :]
    tl.store(place, sums.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def sum_kernel(part_ptr, bias_ptr, y_ptr, parts, count, outputs, BIASED: tl.constexpr, BLOCK: tl.constexpr):
    """The parts of all sums added in their order, so that the result is the same each time."""
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < count
    sums = tl.zeros([BLOCK], tl.float32)
    for part in range(0, parts):
        sums += tl.load(part_ptr + part * count + offsets, mask=inside, other=0.0)
    if BIASED:
        sums += tl.load(bias_ptr + offsets % outputs, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + offsets, sums.to(y_ptr.dtype.element_ty), mask=inside)


def tiling(weight: QuantizedWeight) -> tuple[int, int, int]:
    """Scales in a row of them, and how many rows and columns of the weight share one."""
    outputs, inputs = weight.shape
    if isinstance(weight.granularity, PerBlock):
        return weight.scale.shape[1], weight.granularity.rows, weight.granularity.cols
    return 1, (outputs if weight.scale.numel() == 1 else 1), inputs


@on_its_device
def dequantize(weight: QuantizedWeight, dtype: torch.dtype) -> Tensor:
    """The weight ``[out, in]`` in dtype: one kernel that reads a byte a weight and multiplies in float32."""
    outputs, inputs = weight.shape
    y, block = weight.scale.new_empty(outputs, inputs, dtype=dtype), 1024
    codes, scale = weight.codes.contiguous(), weight.scale.contiguous()
    dequantize_kernel[(outputs, triton.cdiv(inputs, block))](
        codes.view(torch.uint8), scale, y, inputs, *tiling(weight), KINDS[codes.dtype], native(y.device), block
    )
    return y


@on_its_device
def few_rows(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """``x @ W.T + bias`` for up to FEW_ROWS tokens, by kernels that read a byte a weight.

    One where there are outputs enough to fill the GPU; else each output's sum is cut in parts, which a second adds.
    """
    (tokens, inputs), outputs = x.shape, weight.shape[0]
    wide = 16 if outputs < TALL else 32
    parts, span = parts_of(triton.cdiv(outputs, wide), inputs, x.device)
    x, y = x.contiguous(), x.new_empty(tokens, outputs)
    sums = y if parts == 1 else x.new_empty(parts, tokens, outputs, dtype=torch.float32)
    codes, scale = weight.codes.contiguous(), weight.scale.contiguous()
    few_rows_kernel[(triton.cdiv(outputs, wide), parts)](
        x, codes.view(torch.uint8), scale, x if bias is None else bias, sums, tokens, outputs, inputs, span,
        *tiling(weight), KINDS[codes.dtype], native(x.device), dot_dtype(x.dtype), bias is not None and parts == 1,
        max(16, triton.next_power_of_2(tokens)), wide, STEP, num_warps=4, num_stages=4,
    )  # fmt: skip
    if parts > 1:
        sum_kernel[(triton.cdiv(y.numel(), 1024),)](
            sums, x if bias is None else bias, y, parts, y.numel(), outputs, bias is not None, 1024
        )
    return y


def parts_of(programs: int, inputs: int, device: torch.device) -> tuple[int, int]:
    """Into how many parts sums are cut, so that loads fill a GPU, and how many inputs each has."""
    steps = triton.cdiv(inputs, STEP)
    most = steps // LEAST_STEPS if inputs >= WIDE else 1
    wanted = max(1, min(BUSY * multiprocessors(device) // programs, most))
    span = triton.cdiv(steps, wanted) * STEP
    return triton.cdiv(inputs, span), span


@cache
def multiprocessors(device: torch.device) -> int:
    """How many work at once; one where nothing tells."""
    if device.type not in ("cuda", "xpu"):
        return 1
    found = getattr(torch, device.type).get_device_properties(device)
    return int(getattr(found, "multi_processor_count", 0) or getattr(found, "gpu_subslice_count", 0) or 1)


def dot_dtype(dtype: torch.dtype) -> tl.dtype:
    """What the matrix units multiply; the interpreter has no bfloat16."""
    names = {torch.float16: tl.float16, torch.bfloat16: tl.float32 if INTERPRETED else tl.bfloat16}
    return names.get(dtype, tl.float32)


def one_scale_a_step(weight: QuantizedWeight) -> bool:
    """Whether few_rows meets one column of scales at a time."""
    granularity = weight.granularity
    return not isinstance(granularity, PerBlock) or granularity.cols % 128 == 0
