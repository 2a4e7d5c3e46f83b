"""The pictures of two models side by side, and their difference made visible."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """What both models made of one seed. difference: of each channel, times factor; factor: 0 where none differs."""

    a: Image.Image
    b: Image.Image
    difference: Image.Image
    factor: int


def pairs_of(a: Tensor, b: Tensor) -> tuple[Pair, ...]:
    """A Pair for each image; a, b: IMAGE ``[images, height, width, 3]`` in [0, 1]."""
    return tuple(pair(one, other) for one, other in zip(a.detach().cpu(), b.detach().cpu(), strict=True))


def pair(a: Tensor, b: Tensor) -> Pair:
    apart = (b.float() - a.float()).abs()
    factor = enlargement(float(apart.amax()))
    return Pair(picture(a), picture(b), picture(apart * factor), factor)


def enlargement(largest: float) -> int:
    """The largest power of two by which a difference in [0, 1] clips nothing, 0 for none to see."""
    factor = 1
    while 0 < largest * factor * 2 <= 1:
        factor *= 2
    return factor if largest > 0 else 0


def picture(image: Tensor) -> Image.Image:
    """``[height, width, 3]`` in [0, 1] as a picture of 8 bits."""
    return Image.fromarray((image.float().clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def data_uri(image: Image.Image) -> str:
    """A picture as PNG inside of a page."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
