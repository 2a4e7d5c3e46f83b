"""FP8 checkpoints with their text encoders inside, as core saves them: each architecture has prefixes of its own."""

from __future__ import annotations

import pytest

PAIRS = {"SD15": "CLIP-L", "SD20": "CLIP-H", "SDXL": "SDXL", "SDXLRefiner": "CLIP-G", "Flux": "FLUX.1"}
DIALECTS = ("marker", "ltx", "rows", "cast")


@pytest.fixture(scope="module")
def found(contract) -> dict:
    return contract("checkpoints", pairs=PAIRS, dialects=DIALECTS)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("architecture", PAIRS)
def test_model_and_text_encoder_are_those_of_the_dequantized_file(found, architecture, dialect):
    case = found[architecture][dialect]
    assert "refused" not in case
    # bf16 rounds a weight by at most 2^-9 of itself
    assert case["weights"] <= 0.004 and case["encoder weights"] <= 0.004
    assert case["error"] <= 0.02 and case["conditioning"] <= 0.02


@pytest.mark.parametrize("architecture", PAIRS)
def test_text_encoders_stay_scaled(found, architecture):
    assert found[architecture]["ltx"]["scaled"] > 5


@pytest.mark.parametrize("architecture", PAIRS)
def test_what_cores_save_checkpoint_writes_of_both_is_read_by_core_and_here(found, architecture):
    assert max(found[architecture]["ltx"]["saved"].values()) <= 0.02
