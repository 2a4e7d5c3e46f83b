"""Mean pictures of ten digits, one step from noise, twice: by core's VAELoader with the autoencoder of the tests."""

from __future__ import annotations

import re
import sys

import torch
from inside import BF16, answer, call, pack, sample, unet

DIGITS = "0123456789"


def pictures(seed: int) -> torch.Tensor:
    """``[10, 64, 64, 3]``."""
    return call("VAEDecode", vae=vae, samples={"samples": sample(model, steps=1, digits=DIGITS, seed=seed)})[0].float()


def alike(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Correlation of each picture of a with each of b."""
    a, b = (picture.flatten(1) - picture.flatten(1).mean(1, keepdim=True) for picture in (a, b))
    return torch.nn.functional.normalize(a) @ torch.nn.functional.normalize(b).T


model = unet(BF16)
vae = call("VAELoader", vae_name="taef2")[0]
one, other = pictures(7), pictures(8)
again = call("VAEDecode", vae=vae, samples={"samples": vae.encode(one)})[0].float()

pack()
runs = next(module for name, module in sys.modules.items() if name.endswith(".nodes.panel.runs"))
quantized, report = call("QuantizeVAE", vae=vae, method="int8", granularity="default", keep="")
rows = runs.run_of(quantized.patcher).report().rows
answer({
    "quantized": int(re.search(r"^(\d+) of \d+ layers quantized", report, re.MULTILINE)[1]),
    "rows": [(row.layer, row.kernel, row.format, row.reason) for row in rows],
    "original": len(runs.run_of(vae.patcher).report().rows),
    "shape": list(one.shape),
    "spread": one.std().item(),
    "recognised": alike(one, other).argmax(1).tolist(),
    "again": alike(one, again).diagonal().tolist(),
})  # fmt: skip
