"""Launches and probes run on the device of their tensors, whichever is the current one."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from products import FAKE, fake, faked, weight
from scaled_fp8.quant.kernels import proof_cache
from scaled_fp8.quant.kernels.place import on, on_its_device
from scaled_fp8.quant.kernels.proof import probed


@pytest.fixture
def entered(monkeypatch):
    """The CUDA devices that were made current."""
    seen = []

    def device(which):
        seen.append(str(which))
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device", device)
    return seen


def test_a_launch_is_on_the_device_of_its_tensor_or_weight(entered):
    launch = on_its_device(lambda first, more: more)
    with FAKE:
        assert launch(fake(torch.zeros(2, 2), "cuda:1"), 3) == 3
        assert launch(faked(weight(4, 4), "cuda:2"), 4) == 4
    assert entered == ["cuda:1", "cuda:2"]


def test_a_probe_is_on_its_device(entered):
    proof, _ = probed(lambda: 0.0, torch.device("cuda:1"), 1.0)
    assert proof.works and entered == ["cuda:1"]


def test_a_cpu_is_always_the_current_device(entered):
    with on(torch.device("cpu")):
        assert entered == []


def test_two_cards_of_one_name_keep_proofs_of_their_own(monkeypatch):
    class Card:
        name = "NVIDIA H200"

        def __init__(self, uuid):
            self.uuid = uuid

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card(f"GPU-{device.index}"))
    names = {proof_cache.device_name(torch.device("cuda", i)) for i in (0, 1)}
    assert names == {"NVIDIA H200 GPU-0", "NVIDIA H200 GPU-1"}
