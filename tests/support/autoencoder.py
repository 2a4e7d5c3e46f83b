"""An autoencoder for the digits model's latents, in the shapes and names of TAEF2, which ComfyUI loads as ``taef2``.

Built, not trained: one channel carries the picture's grey through all blocks, and two fitted convolutions (made by
training/fit_autoencoder.py) turn eight by eight pixels of it into a latent's place and back. The other channels hold
random numbers that reach no picture.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FITTED = Path(__file__).parents[1] / "data" / "digits-autoencoder.safetensors"
WIDTH, GROUPED = 64, 256
# Places in the two sequences: blocks; those of them with a pool at the coarse end; convolutions that halve or follow a
# doubling; the first and the last convolution.
ENCODER = ((1, 3, 4, 5, 7, 8, 9, 11, 12, 13), (11, 12, 13), (2, 6, 10), 0, 14)
DECODER = ((3, 4, 5, 8, 9, 10, 13, 14, 15, 18), (3, 4, 5), (7, 12, 17), 1, 19)
AVERAGE = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.25, 0.25], [0.0, 0.25, 0.25]])
SAME = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])


def write_autoencoder(folder: Path) -> None:
    """taef2_encoder.safetensors and taef2_decoder.safetensors, bf16."""
    fitted = load_file(FITTED)
    halves = {"encoder": encoder(fitted), "decoder": decoder(fitted)}
    for name, tensors in halves.items():
        rounded = {key: tensor.bfloat16().contiguous() for key, tensor in tensors.items()}
        save_file(rounded, folder / f"taef2_{name}.safetensors", {"format": "pt"})


def encoder(fitted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pixels in [0, 1] -> 32 channels: grey, averaged three times, then the fitted convolution."""
    tensors, first, last = common(*ENCODER, AVERAGE)
    tensors[f"{first}.weight"] = through(WIDTH, 3, torch.zeros(3, 3))
    tensors[f"{first}.weight"][0, :] = SAME / 3
    tensors[f"{last}.weight"] = torch.zeros(32, WIDTH, 3, 3)
    tensors[f"{last}.weight"][:, :1] = fitted["encoder.weight"]
    return tensors | {f"{first}.bias": torch.zeros(WIDTH), f"{last}.bias": fitted["encoder.bias"]}


def decoder(fitted: dict[str, Tensor]) -> dict[str, Tensor]:
    """32 channels -> pixels in [0, 1]: the fitted convolution, doubled three times, grey for each colour."""
    tensors, first, last = common(*DECODER, SAME)
    tensors[f"{first}.weight"] = through(WIDTH, 32, torch.zeros(3, 3))
    tensors[f"{first}.weight"][:1] = fitted["decoder.weight"]
    tensors[f"{last}.weight"] = torch.zeros(3, WIDTH, 3, 3)
    tensors[f"{last}.weight"][:, 0] = SAME
    bias = torch.cat([fitted["decoder.bias"], torch.zeros(WIDTH - 1)])
    return tensors | {f"{first}.bias": bias, f"{last}.bias": torch.zeros(3)}


def common(blocks, pooled, between, first: int, last: int, step: Tensor) -> tuple[dict[str, Tensor], int, int]:
    """The blocks, which add nothing to the grey that they hand on, and the convolutions between them."""
    torch.manual_seed(0)
    tensors = {f"{place}.weight": through(WIDTH, WIDTH, step) for place in between}
    for place in blocks:
        for part in (0, 2, 4):
            tensors[f"{place}.conv.{part}.weight"] = through(WIDTH, WIDTH, torch.zeros(3, 3))
            tensors[f"{place}.conv.{part}.bias"] = torch.zeros(WIDTH)
    for place in pooled:
        tensors[f"{place}.pool.0.weight"] = through(GROUPED, WIDTH, torch.zeros(1, 1))
        tensors |= {f"{place}.pool.1.weight": torch.ones(GROUPED), f"{place}.pool.1.bias": torch.zeros(GROUPED)}
        tensors[f"{place}.pool.3.weight"] = through(WIDTH, GROUPED, torch.zeros(1, 1))
    return tensors, first, last


def through(out: int, into: int, kernel: Tensor) -> Tensor:
    """A convolution's weight: this kernel from the first channel to the first, small random numbers among the rest."""
    weight = torch.randn(out, into, *kernel.shape) * 0.02
    weight[0], weight[:, 0] = 0, 0
    weight[0, 0] = kernel
    return weight
