"""Pictures of a report: 8 bits of what was made, and a difference that is brighter but never clipped."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scaled_fp8.quant.quality.pictures import data_uri, enlargement, pairs_of


@pytest.mark.parametrize(("largest", "factor"), [(0.0, 0), (1.0, 1), (0.5, 2), (0.51, 1), (0.26, 2), (1 / 255, 128)])
def test_a_difference_is_enlarged_as_far_as_nothing_clips(largest: float, factor: int) -> None:
    assert enlargement(largest) == factor


def test_an_image_is_a_pair_each() -> None:
    a = torch.zeros(2, 4, 5, 3)
    b = a.clone()
    b[0, 1, 2] = torch.tensor([0.125, 0.0, 0.0625])
    first, second = pairs_of(a, b)
    assert (first.factor, second.factor) == (8, 0)
    shown = np.asarray(first.difference)
    assert shown.shape == (4, 5, 3) and tuple(shown[1, 2]) == (255, 0, 128)
    assert int((shown > 0).any(-1).sum()) == 1 and not np.asarray(second.difference).any()


def test_a_picture_inside_of_a_page_is_the_picture() -> None:
    (pair,) = pairs_of(torch.rand(1, 6, 7, 3), torch.rand(1, 6, 7, 3))
    kind, data = data_uri(pair.a).split(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == pair.a.tobytes()
