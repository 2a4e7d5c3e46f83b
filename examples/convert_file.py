"""Convert a file to FP8 as ComfyUI core loads it, and measure how far the weights moved.

python examples/convert_file.py SOURCE.safetensors TARGET.safetensors
"""

from __future__ import annotations

import sys

from scaled_fp8 import quant


def main(source: str, target: str) -> None:
    sys.stdout.write(quant.convert(source, target, "float8_e4m3fn").table() + "\n")
    sys.stdout.write(quant.compare(source, target).table() + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except quant.Refused as refusal:
        sys.exit(str(refusal))
