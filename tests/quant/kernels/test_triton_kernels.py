"""Triton's kernels on a CPU: interpreted, against eager arithmetic, and compiled for GPUs that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from scaled_fp8.quant.kernels.activations import SCHEMES

SCRIPTS = Path(__file__).parent / "triton_scripts"
# Triton reads it when it is imported, so that its kernels run in a process of their own
CACHE = {"SCALED_FP8_CACHE": "off"}


def told(script: str, **environment: str) -> dict[str, object]:
    """What a script writes as its last line."""
    command = [sys.executable, str(SCRIPTS / f"{script}.py")]
    paths = os.pathsep.join((str(Path(__file__).parents[2] / "support"), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        command, env={**os.environ, **CACHE, **environment, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def interpreted() -> dict[str, object]:
    return told("interpreted", TRITON_INTERPRET="1")


@pytest.mark.parametrize("dtype", ("bfloat16", "float16", "float32"))
@pytest.mark.parametrize("scheme", SCHEMES)
def test_activations_get_the_codes_of_eager_arithmetic(interpreted, scheme, dtype):
    found = interpreted["quantized"][f"{scheme} {dtype}"]
    assert found == {"most codes apart": 0, "scales equal": True, "works": True}


def test_every_float_rounds_as_torch_casts_it(interpreted):
    assert interpreted["rounded"] == {"numbers": interpreted["rounded"]["numbers"], "apart": 0, "nan": True}
    assert interpreted["rounded"]["numbers"] > 2000


@pytest.mark.parametrize("format", ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "int8"))
def test_every_code_is_read(interpreted, format):
    assert interpreted["decoded"][format] is True


@pytest.mark.parametrize("case", ("per-tensor", "per-row", "block", "group"))
@pytest.mark.parametrize("dtype", ("bfloat16", "float16", "float32"))
def test_dequantized_weights_and_few_rows(interpreted, case, dtype):
    # the interpreter cuts bfloat16 off where a GPU rounds: 2^-8
    bound = {"bfloat16": 2**-7, "float16": 2**-10, "float32": 1e-6}[dtype]
    for format in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "int8"):
        found = interpreted["products"].get(f"{format} {case} {dtype}")
        assert found is None if format == "int8" and case in ("block", "group") else max(found.values()) <= bound


def test_sums_of_few_rows_are_cut_where_a_gpu_has_room(interpreted):
    """1,100 inputs are nine steps: two parts of at least four; whole, halved and with more room they are the same."""
    found = interpreted["split"]
    assert len(found) == 9
    for name, told in found.items():
        parts = {"1": (1, 1152), "2": (2, 640), "100": (2, 640)}[name.split()[-1]]
        assert (told["parts"], told["span"]) == parts
        assert told["error"] <= 1e-6 and told["again"], name


def test_a_layer_is_planned_on_them_and_compiles(interpreted):
    assert interpreted["planned"] == {
        "dynamic": ["scaled_mm per-row", "Triton"], "upcast": ["upcast fused", "eager"], "compiled equal": True,
        "graphs": 1, "rows": [2, 3, 5, 16, 31, 32, 33, 40, 64, 100],
    }  # fmt: skip


@pytest.mark.parametrize("capability", (75, 80, 86, 89, 90, 100, 120))
def test_they_compile_for_a_gpu(capability, tmp_path):
    """To machine code, by the assembler that Triton brings along."""
    built = told("compiled", CAPABILITY=str(capability), TRITON_CACHE_DIR=str(tmp_path))
    assert built["kernels"] == 20
    assert built["bytes"] > 20 * 1000
