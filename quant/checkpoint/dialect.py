"""What a dialect of quantized checkpoints is: one producer's way to store a scaled weight."""

from __future__ import annotations

from dataclasses import dataclass

from .signs import Sign

CODES = "W = codes * scale"
# what ComfyUI core 0.33 does with a file
LOADS = "loads it"
NOISE = "takes the codes for weights: noise, no error"
HALF = "finds weights of half their inputs: an error"
UNKNOWN = "does not know the format: an error"


@dataclass(frozen=True)
class Dialect:
    """One producer's way to store a scaled weight.

    number: where the catalogue of dialects describes it; sign: whether a module is written in it, asked in the order
    of the table, of modules whose marker names a format only where marked; keys, formula, example, recognised_by
    and core (what ComfyUI core 0.33 does with it): for the documentation; advice: for one that is refused, the way out;
    reciprocal: its documents name both directions of the scale, so the numbers decide; transposed:
    `[in, out]` files of it are known, so a layout without any evidence is doubtful.
    """

    number: str
    name: str
    producer: str
    sign: Sign
    keys: str
    formula: str
    example: str
    recognised_by: str
    core: str
    advice: str = ""
    marked: bool = False
    reciprocal: bool = False
    transposed: bool = False
