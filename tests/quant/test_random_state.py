"""What the package draws it draws from generators of its own: a program's random numbers stay what they were."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scaled_fp8 import quant
from scaled_fp8.quant.conversion.request import Request
from scaled_fp8.quant.demo import run
from scaled_fp8.quant.demo.model import DigitsTransformer
from scaled_fp8.quant.kernels import diagnosis, speed
from scaled_fp8.quant.kernels.registry import KERNELS
from scaled_fp8.quant.kernels.rules import Workload
from scaled_fp8.quant.nn import backends
from scaled_fp8.quant.recipes.methods import METHODS
from scaled_fp8.quant.weights.formats import float8_e4m3fn
from scaled_fp8.quant.weights.granularity import PerRow
from torch import nn


@dataclass(frozen=True)
class Ground:
    """What there is to work on: a folder with a scaled layer in m.safetensors; modules, and weights of the demo's."""

    folder: Path
    block: nn.Module
    linear: nn.Module
    digits: dict[str, torch.Tensor]


def diagnosed(ground: Ground) -> None:
    assert quant.doctor().findings


def timed(ground: Ground) -> None:
    layer = Workload(float8_e4m3fn, PerRow(), (256, 256), torch.device("cpu"), torch.bfloat16)
    assert speed.measured(next(kernel for kernel in KERNELS if not kernel.refuses(layer)), layer, 16)[0].ratio


def quantized(ground: Ground) -> None:
    module, _ = quant.quantize_component(ground.block, method="fp8-weight-only", component="transformer")
    with torch.no_grad():
        module(torch.ones(3, 128).bfloat16())


def read(ground: Ground) -> None:
    found = quant.read_checkpoint(ground.folder / "m.safetensors", "all")
    handle = quant.patch_linears(ground.linear, found)
    with torch.no_grad():
        ground.linear(torch.ones(3, 128).bfloat16())
    handle.restore()


def converted(ground: Ground) -> None:
    for name in quant.FORMATS:
        request = Request(name, requantize=True, unsupported=True)
        quant.convert(ground.folder / "m.safetensors", ground.folder / "o.safetensors", request)


def shown(ground: Ground) -> None:
    run.load_model(ground.digits)


def tried(ground: Ground) -> None:
    backends.tried(METHODS["fp8-weight-only"], PerRow(), (torch.device("cpu"), torch.bfloat16))


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ground:
    """Where nothing was proven or timed before; the doctor has two kernels and small layers."""
    monkeypatch.setenv("SCALED_FP8_CACHE", str(tmp_path / "cache"))
    for known in (speed.stand_in, backends.tried):
        known.cache_clear()
    monkeypatch.setattr(speed, "ratio", lambda *asked: speed.measured(*asked)[0].ratio)
    monkeypatch.setattr(diagnosis, "KERNELS", [kernel for kernel in KERNELS if "scaled_mm" not in kernel.name][:2])
    monkeypatch.setattr(diagnosis, "timed_shape", lambda device: (4, (64, 64)))
    weight = torch.randn(256, 128) * 0.05
    scale = weight.abs().max() / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    save_file({"0.weight": codes, "0.weight_scale": scale, "0.bias": torch.zeros(256)}, tmp_path / "m.safetensors")
    block = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128)).bfloat16()
    linear = nn.Sequential(nn.Linear(128, 256)).bfloat16()
    return Ground(tmp_path, block, linear, DigitsTransformer().state_dict())


def state() -> tuple[object, object, list[int]]:
    """Of Python, numpy and torch."""
    return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()


WORK = [diagnosed, timed, quantized, read, converted, shown, tried]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_random_numbers_stay_what_they_were(work: Callable[[Ground], None], cold: Ground) -> None:
    before = state()
    work(cold)
    assert state() == before
