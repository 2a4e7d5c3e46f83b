"""Blackwell's kernels, for operands as cuBLASLt takes them, against float32 arithmetic."""

from __future__ import annotations

from dataclasses import replace

import comfy_kitchen as ck
import pytest
import torch
from cublas import mxfp8_as_cublas, nvfp4_as_cublas
from scaled_fp8.quant.kernels.diagnosis import typical
from scaled_fp8.quant.kernels.probe import probe_error
from scaled_fp8.quant.kernels.proof import SHAPE
from scaled_fp8.quant.kernels.registry import KERNELS

BY_NAME = {kernel.name: kernel for kernel in KERNELS}


@pytest.fixture(autouse=True)
def blackwell(monkeypatch) -> None:
    monkeypatch.setattr(ck, "scaled_mm_nvfp4", nvfp4_as_cublas)
    monkeypatch.setattr(ck, "scaled_mm_mxfp8", mxfp8_as_cublas)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("shape", (SHAPE, (272, 656), (256, 512)), ids=str)
@pytest.mark.parametrize("name", ("scaled_mm nvfp4", "scaled_mm mxfp8"))
def test_blackwells_kernels_are_right_for_operands_as_cublas_takes_them(name, shape, dtype):
    """At the shapes of the probe and others: ragged sides, and inputs that are an odd number of 16."""
    layer = replace(typical(BY_NAME[name], torch.device("cpu"), dtype), shape=shape)
    assert probe_error(BY_NAME[name], layer, "eager") <= BY_NAME[name].bound
