"""After 1,000 random patches, clones, LoRAs, loads and dtype changes the models are what they were, bit by bit."""

from __future__ import annotations

import pytest

STEPS = 1000


@pytest.fixture(scope="module")
def walked(contract, figure) -> dict:
    figures = contract("moves", steps=STEPS, seed=2026)
    figure(f"random walk of {STEPS} moves: {figures['counts']}")
    return figures


def test_every_move_was_made(walked):
    assert sum(walked["counts"].values()) == STEPS
    assert len(walked["counts"]) == 10


@pytest.mark.parametrize("root", [0, 1, 2], ids=["LoadFP8Checkpoint", "UNETLoader of FP8", "UNETLoader of bf16"])
def test_bit_identical(walked, root):
    assert walked["states"][root]
    assert walked["outputs"][root]
