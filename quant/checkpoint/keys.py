"""What a key of a checkpoint is to its module: the companion-key dictionary, as data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Role:
    """One part a tensor can play for a weight.

    suffixes: key endings that say so; binding: the weight cannot be rebuilt without it, so one that no weight
    consumes refuses the file; formula: how it enters ``W``, for docs/dialects.md.
    """

    name: str
    suffixes: tuple[str, ...]
    formula: str
    binding: bool = False


ROLES = (
    Role("weight", (".weight", ".weight._data", "._weight_qdata", ".weight:qdata", ".float8_data",
                    ".weight_packed", ".qweight"), "codes"),
    Role("bias", (".bias", ".bias:_data"), "as it is"),
    Role("scale", (".weight_scale", ".scale_weight", ".weight_scale_inv", ".qscale_weight", ".weight._scale",
                   "._weight_scale", ".weight:scale", ".scale_reciprocal", ".weight_quantizer._scale",
                   ".weight.scale_weight", ".weight.weight_scale", ".fp8_map_scale", ".wscales"),
         "W = codes * scale", binding=True),
    Role("quant_scale", (), "W = codes / scale", binding=True),  # `.scale` beside `.float8_data`
    Role("global_scale", (".weight_scale_2",), "W = codes * scale * global", binding=True),
    Role("global_divisor", (".weight_global_scale",), "W = codes * scale / global", binding=True),
    Role("group_scale", (".weight_s_rel",), "int8 = codebook[codes] * scale", binding=True),
    Role("channel_scale", (".weight_s_channel",), "W = int8 * scale", binding=True),
    Role("codebook", (".weight_codebook",), "the values of 4-bit codes", binding=True),
    Role("zero_point", (".zero_point", ".weight_zero_point"), "W = (codes - zero) * scale", binding=True),
    Role("offset", (".weight_zero", ".weight_zeros", ".wzeros"), "W = codes * scale + offset", binding=True),
    Role("up", (".proj_up", ".weight_proj_up", ".svdquant_lora_b", ".svd_up"), "W = codes * scale + up @ down",
         binding=True),
    Role("down", (".proj_down", ".weight_proj_down", ".svdquant_lora_a", ".svd_down"),
         "W = codes * scale + up @ down", binding=True),
    Role("tensor_factor", (".wtscale",), "W = codes * scale * factor", binding=True),
    Role("output_factor", (".wcscales",), "W = codes * scale * factor", binding=True),
    Role("unused", (".smooth_factor_orig",), "what smoothing was before it was fused"),
    Role("quantizer", (".weight_quantizer._amax", ".weight_quantizer._double_scale",
                       ".weight_quantizer._pre_quant_scale", ".input_quantizer._amax",
                       ".input_quantizer._pre_quant_scale"), "state of a quantizer object"),
    Role("smooth", (".pre_quant_scale",), "x = x * smooth", binding=True),
    Role("smooth_divisor", (".smooth_factor", ".weight_smooth_factor"), "x = x / smooth", binding=True),
    Role("alpha", (), "global = alpha * input_divisor", binding=True),  # `.alpha` beside `.input_global_scale`
    Role("bias_scale", (".bias_scale",), "bias = codes * scale", binding=True),
    Role("fallback_scale", (".weight_scalar",), "per-tensor stand-in for the block scales"),
    Role("input_scale", (".input_scale", ".scale_input", ".activation_scale", ".act_scale", ".qscale_act"),
         "x_codes = x / scale"),
    Role("input_divisor", (".input_global_scale",), "x_codes = x * scale"),
    Role("input_helper", (".input_scale_reciprocal", ".input_scale_ub", ".output_scale", ".input_amax",
                          ".input_absmax"), "for activations only"),
    Role("marker", (".comfy_quant", ".weight_shape", ".k_scale", ".v_scale", "._extra_state"), "says what the rest is"),
)  # fmt: skip

SUFFIXES: dict[str, str] = {suffix: role.name for role in ROLES for suffix in role.suffixes}
BINDING = frozenset(role.name for role in ROLES if role.binding)
LONGEST = max(s.count(".") for s in SUFFIXES)
# suffixes that mean something only beside others of their module: (what stands beside, its role)
BESIDE = {
    ".scale": (".float8_data", "quant_scale"),
    ".alpha": (".input_global_scale", "alpha"),
    ".lora_up": (".qweight", "up"),
    ".lora_down": (".qweight", "down"),
    ".smooth": (".qweight", "smooth_divisor"),
    ".smooth_orig": (".qweight", "unused"),
}
# scales of one producer, who has a name of his own for the codes too: beside others they are of another layer or layout
PAIRED = {
    ".wscales": ".qweight", ".weight:scale": ".weight:qdata", "._weight_scale": "._weight_qdata",
    ".weight._scale": ".weight._data", ".scale_reciprocal": ".float8_data",
}  # fmt: skip
# scales that name their weight's whole key, where the weight is a bare parameter: `experts.gate_up_proj_scale_inv`
WEIGHT_KEYED = {"_scale_inv": ".weight_scale_inv", "_scale": ".weight_scale", ".scale_weight": ".scale_weight"}
# a gain of a norm, never a scale of codes
NORM = re.compile(r"(^|[._])(\w*norm\w*|ln\w*|\w*_l2_clip)$")
# the rightmost dot or colon that can begin a suffix is looked for from the left: longest suffix first
BREAK = re.compile(r"\.")


def split(key: str) -> tuple[str, str]:
    """A key as (module, suffix) by its longest known suffix; suffix "" when it has none."""
    dotted = "." + key
    starts = [m.start() for m in BREAK.finditer(dotted)][-LONGEST:]
    for start in starts:
        if dotted[start:] in SUFFIXES:
            return dotted[1:start], dotted[start:]
    return key, ""


def group(names: Iterable[str], quantized: set[str]) -> dict[str, dict[str, str]]:
    """Keys by module: ``{module: {suffix: key}}``. quantized: names of tensors whose dtype holds codes.

    A key that is no weight and no companion of one is in no module.
    """
    modules: dict[str, dict[str, str]] = {}
    listed = list(names)
    for key in listed:
        module, suffix = split(key)
        module, suffix = weight_keyed(key, quantized) if not suffix else (module, suffix)
        if not suffix and key in quantized:
            suffix = ".weight"
        if suffix:
            modules.setdefault(module, {})[suffix] = key
    add_bare(modules, listed, quantized)
    return modules


def weight_keyed(key: str, quantized: set[str]) -> tuple[str, str]:
    """(weight key, suffix) of a scale called after a quantized parameter; (key, "") for any other."""
    for ending, suffix in WEIGHT_KEYED.items():
        if key.removesuffix(ending) in quantized and key.endswith(ending):
            return key.removesuffix(ending), suffix
    return key, ""


def add_bare(modules: dict[str, dict[str, str]], names: list[str], quantized: set[str]) -> None:
    """Adds what needs the rest of its module to be known as such: `X.scale`, and `X` itself (from a sidecar's map)."""
    for key in names:
        owner, suffix = key.rpartition(".")[0], "." + key.rpartition(".")[2]
        if suffix != ".scale" and suffix in BESIDE and BESIDE[suffix][0] in modules.get(owner, {}):
            modules[owner][suffix] = key
    for key in names:
        owner = key.removesuffix(".scale")
        suffix = ".scale" if owner != key else "="
        keys = modules.get(owner, {})
        weight = keys.get(".float8_data") or keys.get(".weight", "")
        if weight in quantized and weight != key and not (suffix == ".scale" and NORM.search(owner)):
            keys[suffix] = key
