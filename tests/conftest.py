"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scaled_fp8.quant.kernels import speed
from times import OTHERS, TIMES
from torch import Tensor
from zoo import tiny_model

# probes are run here, not read from what an earlier start kept
os.environ["SCALED_FP8_CACHE"] = "off"
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def given_times(monkeypatch) -> None:
    """Kernels are chosen by a table of times, not by how busy this machine is."""
    monkeypatch.setattr(speed, "ratio", lambda kernel, layer, tokens: TIMES.get(kernel.name, OTHERS))


@pytest.fixture(scope="session")
def tiny() -> dict[str, Tensor]:
    """A small transformer's state dict, bf16."""
    return tiny_model()


@pytest.fixture(scope="session")
def digits() -> dict[str, Tensor]:
    """digits-flux2: a small, really trained FLUX.2 diffusion model, bf16, ComfyUI's key names."""
    return load_file(DATA / "digits-flux2-bf16.safetensors")


def pytest_terminal_summary(terminalreporter) -> None:
    """What was skipped and why, a line a reason, before the line of totals."""
    skips = (report.longrepr for report in terminalreporter.stats.get("skipped", []))
    reasons = Counter(skip[2].removeprefix("Skipped: ") for skip in skips)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"skipped {count}: {reason}")
