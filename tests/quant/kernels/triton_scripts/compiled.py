"""Compiles each of Triton's kernels for the GPU of CAPABILITY, which need not be here, and tells of the code."""

from __future__ import annotations

import json
import os
import sys
import warnings

import triton
import triton.language as tl
from scaled_fp8.quant.kernels import triton_kernels as own
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

warnings.simplefilter("ignore")
CAPABILITY = int(os.environ["CAPABILITY"])
# before sm_80 there is no bfloat16
ACTIVATION = "*bf16" if CAPABILITY >= 80 else "*fp16"
POINTERS = {
    "x_ptr": ACTIVATION, "y_ptr": ACTIVATION, "bias_ptr": ACTIVATION, "codes_ptr": "*u8", "scale_ptr": "*fp32",
    "part_ptr": "*fp32", "given_ptr": "*fp32",
}  # fmt: skip
NATIVE = {"NATIVE": CAPABILITY >= 89}
CODES = {"TINY": own.TINY, "MAXIMUM": 448.0, **NATIVE}
DOT = {"DOT": tl.bfloat16 if CAPABILITY >= 80 else tl.float16, "BIASED": True, "TOKENS": 16, "OUTPUTS": 16}

WHOLE = (True, False)
BUILDS = [
    *(
        (own.token_kernel, {**CODES, "KIND": kind, "BLOCK": 4096, "WHOLE": whole}, 8)
        for kind in (0, 3)
        for whole in WHOLE
    ),
    (own.token_kernel, {**CODES, "KIND": 0, "BLOCK": own.IN_REGISTERS, "WHOLE": True}, 16),
    (own.part_kernel, {"BLOCK": 4096}, 8),
    *(
        (own.tensor_kernel, {**CODES, "PARTS": parts, "EACH": each, "BLOCK": 2048}, 4)
        for parts in (0, own.PARTS)
        for each in (parts > 0, 4)
    ),
    (own.run_kernel, {**CODES, "RUN": 128}, 1),
    *((own.dequantize_kernel, {**NATIVE, "KIND": kind, "BLOCK": 1024}, 4) for kind in range(4)),
    *((own.few_rows_kernel, {**NATIVE, **DOT, "KIND": kind, "BLOCK": own.STEP}, 4) for kind in range(4)),
    (own.sum_kernel, {"BIASED": True, "BLOCK": 1024}, 4),
]


def machine_code(kernel, constants: dict[str, object], warps: int) -> bytes:
    names = kernel.arg_names
    types = {name: "constexpr" if name in constants else POINTERS.get(name, "i32") for name in names}
    source = ASTSource(kernel, types, {(names.index(name),): value for name, value in constants.items()})
    options = {"num_warps": warps, "num_stages": 4}
    return triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=options).asm["cubin"]


sizes = [len(machine_code(*build)) for build in BUILDS]
sys.stdout.write(json.dumps({"kernels": len(sizes), "bytes": sum(sizes)}) + "\n")
