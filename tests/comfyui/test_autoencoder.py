"""The tests' own autoencoder shows what the digits model draws, so that pictures of other tests mean something."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def drawn(contract) -> dict:
    return contract("autoencoder")


def test_pictures_of_one_digit_are_alike_and_of_others_are_not(drawn):
    assert drawn["shape"] == [10, 64, 64, 3] and drawn["spread"] > 0.1
    right = sum(found == digit for digit, found in enumerate(drawn["recognised"]))
    # by chance one of ten
    assert right >= 8


def test_the_panel_shows_a_quantized_vae_and_the_one_it_came_from_is_as_it_was(drawn):
    assert len(drawn["rows"]) == drawn["quantized"] > 0 and drawn["original"] == 0
    for layer, kernel, format, reason in drawn["rows"]:
        assert layer and (kernel, format) == ("upcast", "int8") and "convolution" in reason


def test_a_picture_encoded_and_decoded_is_itself(drawn):
    assert min(drawn["again"]) > 0.6
