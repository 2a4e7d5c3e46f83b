"""Core's own loader on the digits model: if these move, the harness or ComfyUI changed, not this pack."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def latents(contract) -> dict:
    return contract("baseline")


def test_core_loads_a_marked_file(latents):
    assert latents["marked"] == pytest.approx(0.0195, abs=0.004)


def test_core_makes_noise_of_an_unmarked_file(latents):
    assert latents["ltx"] == pytest.approx(1.56, abs=0.1)
