"""LPIPS, where a package that has it and all of its weights are installed; they are never downloaded here."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor


def perceptual() -> Callable[[Tensor, Tensor], float] | None:
    """LPIPS of two pictures by lpips (AlexNet) or piq (VGG16), the first whose package and weights are there."""
    there = (name for name in MAKERS if find_spec(name) and find_spec("torchvision") and has(name))
    name = next(there, None)
    return MAKERS[name]() if name else None


def has(name: str) -> bool:
    """Whether all weights that a package would download lie in torch's cache."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return all((folder / Path(urlparse(url).path).name).is_file() for url in WEIGHTS[name]())


def lpips_weights() -> list[str]:
    from torchvision.models import AlexNet_Weights

    return [AlexNet_Weights.IMAGENET1K_V1.url]


def piq_weights() -> list[str]:
    from piq import LPIPS
    from torchvision.models import VGG16_Weights

    return [VGG16_Weights.IMAGENET1K_V1.url, LPIPS._weights_url]


def by_lpips() -> Callable[[Tensor, Tensor], float]:
    from lpips import LPIPS

    network = LPIPS(net="alex", verbose=False)
    return lambda a, b: float(network(a, b, normalize=True))


def by_piq() -> Callable[[Tensor, Tensor], float]:
    from piq import LPIPS

    network = LPIPS()
    return lambda a, b: float(network(a, b))


WEIGHTS = {"lpips": lpips_weights, "piq": piq_weights}
MAKERS = {"lpips": by_lpips, "piq": by_piq}
