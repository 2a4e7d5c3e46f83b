"""What only a GPU can show; skipped elsewhere, and the last lines say so."""

from __future__ import annotations

import pytest
import torch
from scaled_fp8.quant.kernels import speed

HERE = torch.cuda.is_available()
WHY = "NO CUDA GPU: nothing that tests/gpu shows has been shown here"
MEASURED = speed.ratio


def pytest_collection_modifyitems(items):
    for item in items:
        if not HERE and "/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.skip(reason=WHY))


@pytest.fixture(autouse=True)
def own_times(given_times, monkeypatch) -> None:
    """Kernels are chosen by this GPU's own times, as users have them."""
    monkeypatch.setattr(speed, "ratio", MEASURED)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", 0)
