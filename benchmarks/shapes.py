"""The Linears and blocks of real models: which sizes are timed."""

from __future__ import annotations

from dataclasses import dataclass

LARGE = 4096  # from here on matrix units are busy
# what is told first, first: a run may be cut short
TOKENS = (LARGE, 1, 16, 256, 1024, 16384)


@dataclass(frozen=True)
class Model:
    """hidden: width; inner: width inside the MLP; gated: whether its first Linear is twice as wide; head: width of one.

    linears: name -> ``(out, in)`` of the Linears of its blocks.
    """

    name: str
    hidden: int
    inner: int
    gated: bool
    head: int
    linears: dict[str, tuple[int, int]]


def flux2(name: str, hidden: int) -> Model:
    h = hidden
    linears = {
        "qkv": (3 * h, h), "proj": (h, h), "mlp up": (6 * h, h), "mlp down": (h, 3 * h),
        "linear1": (9 * h, h), "linear2": (h, 4 * h),
    }  # fmt: skip
    return Model(name, h, 3 * h, True, 128, linears)


def plain(name: str, hidden: int, inner: int, **more: tuple[int, int]) -> Model:
    linears = {"proj": (hidden, hidden), "mlp up": (inner, hidden), "mlp down": (hidden, inner), **more}
    return Model(name, hidden, inner, False, 128, linears)


# those that are judged first: a run may be cut short
MODELS = (
    flux2("FLUX.2 klein 4B", 3072),
    plain("Wan 2.2 14B", 5120, 13824),
    plain("LTX-2.3 22B", 4096, 16384),
    flux2("FLUX.2 klein 9B", 4096),
    plain("FLUX.1", 3072, 12288, qkv=(9216, 3072), linear1=(21504, 3072), linear2=(3072, 15360)),
    plain("Qwen-Image", 3072, 12288, modulation=(18432, 3072)),
)
TINY = (Model("tiny", 256, 768, True, 128, {"proj": (256, 256), "mlp up": (1536, 256)}),)
# what a CPU is asked, which computes a hundredth as fast
SMALL = (Model("FLUX.2 klein 4B", 3072, 9216, True, 128, {"proj": (3072, 3072)}),)
SMALL_TOKENS = (256, 1, 16)


def distinct(models: tuple[Model, ...]) -> dict[tuple[int, int], list[str]]:
    """Shape ``(out, in)`` -> the Linears that have it: each is timed once."""
    found: dict[tuple[int, int], list[str]] = {}
    for model in models:
        for name, shape in model.linears.items():
            found.setdefault(shape, []).append(f"{model.name} {name}")
    return found
