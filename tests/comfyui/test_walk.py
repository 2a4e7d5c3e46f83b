"""Change something and run again, many times over: always what a fresh ComfyUI makes of the same workflow.

Torch Compile's node is walked without the minutes that compiling takes: test_patch.py compiles for real. Text encoders
are walked in legacy memory. SCALED_FP8_WALK=1000 walks so many changes in each memory regime, in pieces of
PIECE that `-k` can choose among.
"""

from __future__ import annotations

import os

import pytest

STEPS, PIECE = int(os.environ.get("SCALED_FP8_WALK", "20")), 50
SEED = 2026
PIECES = [(SEED + i, min(PIECE, STEPS - i * PIECE)) for i in range(-(-STEPS // PIECE))]


@pytest.mark.parametrize(("seed", "steps"), PIECES, ids=[f"seed {seed}" for seed, _ in PIECES])
@pytest.mark.parametrize("dynamic", [False, True], ids=["legacy memory", "dynamic VRAM"])
def test_every_state_is_that_of_a_fresh_comfyui(contract, figure, dynamic, seed, steps):
    # what was wrong once is walked before the first piece
    known = seed == SEED
    walked = contract("walk", dynamic=dynamic, steps=steps, seed=seed, known=known)
    where = "dynamic VRAM" if dynamic else "legacy memory"
    figure(f"walk of {steps} changes, seed {seed}, {where}: {walked['counts']}, {walked['differences']} differences")
    assert sum(walked["counts"].values()) >= steps
    assert walked["counts"]["ran"] > steps / 2
    assert walked["wrong"] == []
