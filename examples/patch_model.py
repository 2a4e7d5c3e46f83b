"""Patch a model of plain torch: its Linears run on scaled weights, and are as they were afterwards.

python examples/patch_model.py

A diffusers transformer is patched the same way: quant.patch_linears(pipeline.transformer, quant.read_checkpoint(path)).
"""

from __future__ import annotations

import sys

import torch
from scaled_fp8 import quant
from torch import nn


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256)).bfloat16()
    x = torch.randn(8, 256).bfloat16()
    with torch.inference_mode():
        before = model(x)
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
        float8 = quant.FORMATS["float8_e4m3fn"]
        weights = {name: quant.quantize(layer.weight, float8, quant.PerRow()) for name, layer in layers.items()}
        with quant.patch_linears(model, weights) as handle:
            scaled = model(x)
            sys.stdout.write(f"{handle.report().table()}\n")
        error = ((scaled - before).norm() / before.norm()).item()
        sys.stdout.write(f"relative error {error:.4f}; restored: {torch.equal(model(x), before)}\n")


if __name__ == "__main__":
    main()
