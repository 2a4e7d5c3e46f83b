"""Nodes that test_walk.py does not walk: an input is changed and the node run again, with a LoRA in between.

Each state there is comes up twice in a row of changes on one model, and is what a fresh ComfyUI makes of it.
"""

from __future__ import annotations

import pytest

NODES = {
    "Quantize Model, a budget": 3, "Quantize Model, calibrated": 2, "Scaled Linear Patch, steps": 4,
    "Calibrate Model, Save Calibration": 2, "Measure Sensitivity": 3, "Compare Models": 2, "Load FP8 Checkpoint": 4,
    "Load FP8 Text Encoder": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def changed(contract, figure) -> dict:
    found = contract("changes", dynamic=False)
    for node, figures in found.items():
        figure(f"changed and run again, {node}: {figures['states']} states, {len(figures['wrong'])} differences")
    return found


@pytest.mark.parametrize("node", NODES)
def test_every_state_is_that_of_a_fresh_comfyui(changed, node):
    assert changed[node]["wrong"] == []
    assert changed[node]["states"] >= 2 * NODES[node]
    # the inputs do something, and so do the LoRAs; some say the same in other words
    assert changed[node]["outcomes"] >= NODES[node]
    assert changed[node]["refused"] == []


def test_every_node_has_its_row(changed):
    assert changed.keys() == NODES.keys()
