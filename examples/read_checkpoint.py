"""Read any checkpoint: what it is, and its weights as float tensors, one at a time.

python examples/read_checkpoint.py MODEL.safetensors
"""

from __future__ import annotations

import sys

from scaled_fp8 import quant


def main(path: str) -> None:
    checkpoint = quant.read_checkpoint(path)
    sys.stdout.write(f"{checkpoint.verdict.dialect}: {len(checkpoint)} quantized layers\n")
    for name, weight in checkpoint.items():
        exact = weight.dequantize()
        sys.stdout.write(f"{name}: {weight.format.name} {weight.granularity.name}, amax {exact.abs().max():.4f}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except quant.Refused as refusal:
        sys.exit(str(refusal))
