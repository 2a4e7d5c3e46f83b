"""How much of a layer's error an image shows where nobody has measured it: by what the layer does.

From one perturbed run a layer of a small trained FLUX.2 (a relative error of the layer's output, times the factor, is
that of the image). They rank layers; for a prediction of the error itself, measure the model's own.
"""

from __future__ import annotations

import re

USUAL = 0.18
# the first that matches a layer's name
PRIORS: tuple[tuple[str, float], ...] = (
    (r"txt_|context|add_[qkv]_proj|to_add_out|text", 0.08),  # of the text's own stream, only the image is seen
    (r"qkv|linear1|to_[qkv]$|to_qkv|\.(q|k|v)(_proj)?$", 0.32),  # decide what attends to what
)
PATTERNS = tuple((re.compile(pattern), factor) for pattern, factor in PRIORS)


def prior(name: str) -> float:
    """The factor of a layer by its name."""
    return next((factor for pattern, factor in PATTERNS if pattern.search(name)), USUAL)
