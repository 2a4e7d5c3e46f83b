"""Times of kernels beside bfloat16 that tests are given, so that no clock decides what they see."""

from __future__ import annotations

# about as a CPU without FP8 units has them
TIMES = {
    "scaled_mm per-row": 11.0, "scaled_mm int8": 2.4, "scaled_mm int8 convrot": 3.0,
    "upcast by bits": 3.0, "dequantized block": 20.0, "upcast": 30.0, "upcast by table": 40.0,
}  # fmt: skip
OTHERS = 14000.0
