"""What SaveQuantizedModel writes into a header of how the file was made."""

from __future__ import annotations

import pytest
from scaled_fp8.quant import open_source
from scaled_fp8.quant.checkpoint.fingerprint import fingerprint
from scaled_fp8.quant.quality.card import KEY, Card, parsed


@pytest.fixture(scope="module")
def headers(contract) -> dict[str, dict[str, str]]:
    return contract("file_card")


def card(headers: dict[str, dict[str, str]], name: str) -> Card:
    return parsed(headers[name][KEY])


def test_a_saved_model_says_what_it_was_made_of(headers, base):
    found = card(headers, "plain")
    source = base / "models" / "diffusion_models" / "digits-flux2-bf16.safetensors"
    assert (found.source, found.fingerprint) == (source.name, fingerprint(open_source(source)))
    assert found.layers == {"float8_e4m3fn": 14} and found.method == "float8_e4m3fn"
    (kept,) = found.kept.values()
    assert "txt_in" in {name.rpartition("diffusion_model.")[2] for name in kept}
    assert {"scaled-fp8", "torch", "ComfyUI"} <= found.versions.keys() and not found.history
    assert str(base) not in headers["plain"][KEY]


def test_figures_of_a_comparison_are_in_it(headers):
    quality = card(headers, "compared").quality
    assert quality and quality.metrics == {"psnr": 31.4} and quality.b.seconds_per_step == 0.5
    assert not quality.layers and "1 of 1 layers" in quality.warnings[0]


def test_figures_of_before_a_patch_and_broken_ones_are_not(headers):
    assert card(headers, "later").quality is None
    assert card(headers, "broken").quality is None


def test_a_file_made_of_a_saved_one_keeps_its_card_as_history(headers):
    found = card(headers, "again")
    assert found.source == "card-plain.safetensors"
    assert [one.source for one in found.history] == ["digits-flux2-bf16.safetensors"]
