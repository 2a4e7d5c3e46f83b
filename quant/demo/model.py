"""A small diffusion transformer that draws 8x8 digits, with LTX-Video's layer names; its weights ship beside it.

Trained by training/train_digits.py on scikit-learn's digits.
"""

from __future__ import annotations

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, BLOCKS, HIDDEN = 128, 4, 4, 384
SIDE, PATCH, CLASSES = 8, 2, 10
TOKENS = (SIDE // PATCH) ** 2
NO_CLASS = CLASSES


class Attention(nn.Module):
    """Self-attention: ``[batch, tokens, width]`` -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(WIDTH, WIDTH)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two layers with a GELU between them: ``[batch, tokens, width]`` -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.proj_in, self.proj_out = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(F.gelu(self.proj_in(x), approximate="tanh"))


class Block(nn.Module):
    """One transformer block, shifted, scaled and gated by the condition ``[batch, 6, width]``."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.ff = Attention(), FeedForward()
        self.scale_shift_table = nn.Parameter(torch.zeros(6, WIDTH))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        parts = (condition + self.scale_shift_table).unsqueeze(2).unbind(1)
        x = x + parts[2] * self.attn1(modulated(x, parts[0], parts[1]))
        return x + parts[5] * self.ff(modulated(x, parts[3], parts[4]))


class DigitsTransformer(nn.Module):
    """Rectified-flow velocity of noisy digits ``[batch, 8, 8]`` at times ``[batch]`` for classes ``[batch]``."""

    def __init__(self) -> None:
        super().__init__()
        self.patchify_proj = nn.Linear(PATCH * PATCH, WIDTH)
        self.position = nn.Parameter(torch.randn(TOKENS, WIDTH) * 0.02)
        self.digit = nn.Embedding(CLASSES + 1, WIDTH)
        self.time_in, self.time_out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.adaln_single = nn.Linear(WIDTH, 6 * WIDTH)
        self.transformer_blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.scale_shift_table = nn.Parameter(torch.zeros(2, WIDTH))
        self.proj_out = nn.Linear(WIDTH, PATCH * PATCH)

    def forward(self, image: Tensor, time: Tensor, digit: Tensor) -> Tensor:
        dtype = self.position.dtype
        embedded = self.time_out(F.silu(self.time_in(waves(time).to(dtype)))) + self.digit(digit)
        condition = self.adaln_single(F.silu(embedded)).unflatten(-1, (6, WIDTH))
        x = self.patchify_proj(patches(image.to(dtype))) + self.position
        for block in self.transformer_blocks:
            x = block(x, condition)
        shift, scale = (self.scale_shift_table + embedded.unsqueeze(1)).unsqueeze(2).unbind(1)
        return unpatched(self.proj_out(modulated(x, shift, scale))).to(image.dtype)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, (WIDTH,)) * (1 + scale) + shift


def waves(time: Tensor) -> Tensor:
    """Sines and cosines of times in [0, 1]: ``[batch]`` -> ``[batch, width]``."""
    frequencies = torch.exp(torch.arange(WIDTH // 2) * (-log(1e4) / (WIDTH // 2))).to(time)
    angles = 1000 * time[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), -1)


def patches(image: Tensor) -> Tensor:
    """``[batch, 8, 8]`` -> ``[batch, 16, 4]``."""
    n = SIDE // PATCH
    return image.view(-1, n, PATCH, n, PATCH).transpose(2, 3).reshape(-1, TOKENS, PATCH * PATCH)


def unpatched(tokens: Tensor) -> Tensor:
    """``[batch, 16, 4]`` -> ``[batch, 8, 8]``."""
    n = SIDE // PATCH
    return tokens.view(-1, n, n, PATCH, PATCH).transpose(2, 3).reshape(-1, SIDE, SIDE)


@torch.no_grad()
def sample(model: nn.Module, noise: Tensor, digit: Tensor, steps: int = 32, guidance: float = 2.0) -> Tensor:
    """Images of digits in [-1, 1] from noise ``[batch, 8, 8]`` by Euler steps with classifier-free guidance."""
    times = torch.linspace(1, 0, steps + 1)
    both = torch.cat((digit, torch.full_like(digit, NO_CLASS)))
    image = noise
    for now, then in zip(times[:-1], times[1:], strict=True):
        conditioned, free = model(image.repeat(2, 1, 1), now.expand(len(both)), both).chunk(2)
        image = image + (then - now) * (free + guidance * (conditioned - free))
    return image
