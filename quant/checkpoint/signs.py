"""What the parts of a module say about who wrote it, as predicates for the table of dialects."""

from __future__ import annotations

from collections.abc import Callable

from .markers import base_of
from .module import CODES, FLOAT8, Module

Sign = Callable[[Module], bool]


def has(*suffixes: str) -> Sign:
    return lambda m: m.has(*suffixes)


def named(*formats: str) -> Sign:
    """Marked with one of these names."""
    return lambda m: m.format in formats


def based(*formats: str) -> Sign:
    """Marked with any name of one of these formats."""
    return lambda m: base_of(m) in formats


def scaled(sign: Sign) -> Sign:
    return lambda m: m.key("scale") is not None and sign(m)


def configured(*methods: str) -> Sign:
    """Of a config with one of these quantization methods."""
    return lambda m: m.clues.method in methods


def opaque(m: Module) -> bool:
    """FP8 bytes whose scale hides in Transformer Engine's pickled state."""
    return m.has("._extra_state") and m.dtype() in CODES and not m.key("scale")


def e2m1_pairs(m: Module) -> bool:
    """Pairs of 4-bit floats with one scale of e4m3 for 16."""
    return m.dtype() == "U8" and m.dtype("scale") in ("F8_E4M3", "U8") and not m.has(".qweight")


def compressed_nvfp4(m: Module) -> bool:
    return e2m1_pairs(m) and m.has(".weight_packed") and m.key("global_divisor") is not None


def lightx2v_nvfp4(m: Module) -> bool:
    divided = m.key("global_divisor") is not None or m.key("alpha") is not None
    return e2m1_pairs(m) and m.has(".weight") and divided


def modelopt_nvfp4(m: Module) -> bool:
    return nvfp4_triple(m) and m.clues.method.startswith(("modelopt", "nvfp4"))


def nvfp4_triple(m: Module) -> bool:
    return e2m1_pairs(m) and m.key("global_scale") is not None


def mxfp4(m: Module) -> bool:
    powers = m.dtype("scale") in ("U8", "F8_E8M0") and m.key("global_divisor") is None
    return m.dtype() == "U8" and m.has(".weight_packed") and powers


def nunchaku_int4(m: Module) -> bool:
    """Low-rank layers of 4-bit integers, and those of AWQ beside them."""
    integers = (m.dtype(), m.dtype("scale")) in {(w, s) for w in ("I8", "I32") for s in ("BF16", "F16")}
    return m.has(".qweight") and m.has(".wscales") and integers and not m.roles.keys() & FACTORS


def nunchaku_nvfp4(m: Module) -> bool:
    """Low-rank layers of 4-bit floats; a factor without them is one of a file that is cut."""
    return bool(m.roles.keys() & FACTORS) or (m.has(".qweight") and m.has(".wscales"))


FACTORS = {"tensor_factor", "output_factor"}


def grid_of_blocks(m: Module) -> bool:
    """A `.scale` over blocks (DeepSeek-V4), not over rows or groups of them (SDNQ)."""
    weight, scale = m.shape(), m.shape("scale")
    return m.has(".scale") and len(weight) == len(scale) == 2 and scale[0] < weight[0] and scale != (1, weight[1])


def sdnq(m: Module) -> bool:
    bare = m.has(".scale") and not m.has(".float8_data")
    return m.clues.method == "sdnq" and m.key("scale") is not None or (bare and not grid_of_blocks(m))


def ideogram(m: Module) -> bool:
    said = m.clues.header.get("model_type", "").startswith("ideogram4") or bool(m.clues.config.get("ideogram_fp8"))
    return m.key("scale") is not None and said


def int8_fast(m: Module) -> bool:
    """A marker without a format: ComfyUI-INT8-Fast says only whether and how the codes are rotated."""
    return m.marked and not m.format and m.dtype() == "I8" and m.key("scale") is not None


def hybrid(m: Module) -> bool:
    return m.format == "hybrid_mxfp8" or (m.micro and m.key("fallback_scale") is not None)


def legacy(m: Module) -> bool:
    return m.has(".scale_weight", ".weight.scale_weight") and m.clues.in_legacy_scope(m.name)


def plain(m: Module) -> bool:
    return m.dtype() in FLOAT8
