"""Step by step from the keys of a file to a decision on each of its layers: the conservation law, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..errors import Refused
from ..files.sidecars import UNREAD
from ..files.stored import Source
from ..text import few
from .checks import LARGEST, READ, code_problem, handed_on_problem, inverted, relabelled, scale_problem
from .findings import Findings
from .keys import group
from .layer import Layer
from .leftovers import FLOATS, LOOSE, Leftover, leftover, meaningless
from .markers import marker_problem
from .metadata import read_clues
from .module import BYTES, CODES, Module
from .orientation import settle
from .plausibility import byte_format
from .recognition import FORMAT_OF, is_quantized, layer_of
from .sampling import CASTS, LAYERS, evenly_spaced
from .verdict import SHOWN

Fits = Callable[[Mapping[str, tuple[int, ...]]], bool]
OCP = ("float8_e4m3fn", "float8_e5m2")
DATA = ":_data"  # what torchao puts after the name of a parameter that is no quantized weight


##### The steps


def survey(source: Source, everything: bool = False, fits: Fits | None = None) -> Findings:
    """All that is to be known about a file before any weight of it is decoded; everything: look at every code.

    fits: whether tensors of these names and shapes are those of a model that is known.
    """
    found = survey_header(source, fits)
    find_numbers(found, everything)
    return found


def survey_header(source: Source, fits: Fits | None = None) -> Findings:
    """What names, shapes and markers say; whether the numbers are those of weights is not asked."""
    clues = read_clues(source)
    codes = {name for name in source if source[name].dtype in CODES}
    groups = group(source, codes)
    found = Findings(source, {name: Module(name, keys, source, clues) for name, keys in groups.items()})
    found.notes += [
        f"{name} beside it is read for what it says of quantization alone: {content[UNREAD]}."
        for name, content in source.sidecars.items()
        if UNREAD in content
    ]
    find_layers(found)
    find_mixture(found)
    find_orientation(found, fits)
    for step in (find_namesakes, find_loose_scales, find_consumed, find_directions):
        step(found)
    return found


def find_layers(found: Findings) -> None:
    """Each quantized module becomes a layer, stays a plain tensor, or is refused."""
    found.refused.update({n: reason for n, m in found.modules.items() if (reason := senseless(m))})
    quantized = {n: m for n, m in found.modules.items() if is_quantized(m) and n not in found.refused}
    bytes_are = format_of_bytes(list(quantized.values()))
    for name, module in quantized.items():
        if stays_as_it_is(module):
            if problem := handed_on_problem(module.source, module.key("weight") or ""):
                found.refused[name] = problem
            continue
        try:
            found.layers[name] = layer_of(module, bytes_are)
        except Refused as reason:
            found.refused[name] = reason.by_name


def senseless(module: Module) -> str:
    """Why a module cannot be one weight whatever its dialect, "" when it can."""
    weights = [module.keys[suffix] for suffix in module.roles.get("weight", ())]
    if len(weights) > 1:
        return f"it has two weights, {' and '.join(weights)}: which one is right cannot be seen"
    # a format is binding whatever the codes are, even where nothing else says that they are codes
    if weights and "format" in module.marker and (problem := marker_problem(module)):
        return problem
    return "its dtype F8_E8M0 is one of scales, not of weights" if module.dtype() == "F8_E8M0" else ""


def stays_as_it_is(module: Module) -> bool:
    """Whether codes without scales are handed on as a tensor: norms, biases, convolutions, bare parameters."""
    scaled = module.format or any(module.key(role) for role in LOOSE)
    return not scaled and module.dtype() in FORMAT_OF and module.dtype() != "I8" and len(module.shape()) != 2


def format_of_bytes(modules: list[Module]) -> str | None:
    """The FP8 format that U8 weights of the file hold, by the largest codes of a few; None for undecided."""
    raw = [m for m in modules if m.dtype() in BYTES and len(m.shape()) == 2 and m.dtype("scale") in FLOATS]
    small = [m for m in raw if 0 < m.source[m.key("weight") or ""].numel <= LARGEST][:READ]
    found = {byte_format(m.source.tensor(m.key("weight") or "").view(torch.uint8)) for m in small}
    return found.pop() if len(found) == 1 else None


def find_mixture(found: Findings) -> None:
    """OCP and AMD codes differ by a factor of two under the same bits: no tool writes both into one file."""
    fnuz = [name for name, layer in found.layers.items() if layer.format.name.endswith("fnuz")]
    others = [name for name, layer in found.layers.items() if layer.format.name in OCP]
    if fnuz and others:
        reason = "its dtype is AMD's fnuz where other layers are OCP, or the reverse: a dtype in the header is wrong"
        found.refused.update(dict.fromkeys(fnuz if len(fnuz) < len(others) else others, reason))


def find_orientation(found: Findings, fits: Fits | None) -> None:
    """Layers of one dialect share their orientation: they were written by one tool."""
    by_dialect: dict[str, list[Layer]] = {}
    for layer in found.layers.values():
        by_dialect.setdefault(layer.dialect.number, []).append(layer)
    for layers in by_dialect.values():
        settled, refused = settle(layers, partial(transposed_for, found, layers, fits))
        found.layers.update({layer.name: layer for layer in settled})
        found.refused.update(refused)


def transposed_for(found: Findings, layers: list[Layer], fits: Fits | None) -> bool | None:
    """Whether layers must be transposed to fit a known model; None where they fit both ways or neither."""
    if fits is None:
        return None
    as_stored, transposed = (fits(model_shapes(found, layers, flipped)) for flipped in (False, True))
    return None if as_stored == transposed else transposed


def model_shapes(found: Findings, layers: list[Layer], flipped: bool) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors that a model without quantization has, these layers transposed or not."""
    parts = {key for v in found.layers.values() for suffix, key in v.module.keys.items() if suffix != ".bias"}
    others = (key for key in found.source if key not in parts and not is_marker(key))
    shapes = {key: tuple(found.source[key].shape) for key in others}
    shapes |= {layer.weight_key: layer.full_shape for layer in found.layers.values()}
    return shapes | {v.weight_key: v.stored[::-1] for v in layers if flipped and len(v.full) < 3}


def find_namesakes(found: Findings) -> None:
    """Two tensors that a model has one name for, of which one would be lost."""
    for key in found.source:
        if key.endswith(DATA) and (plain := key.removesuffix(DATA)) in found.source:
            found.refused[plain] = f"{plain} and {key} are the same parameter: which one is right cannot be seen"


def find_loose_scales(found: Findings) -> None:
    """Scales without codes: dummies beside high-precision weights, or lost ones."""
    ignored: dict[Leftover, list[str]] = {leftover: [] for leftover in Leftover}
    for name, module in found.modules.items():
        loose = [key for role in LOOSE if (key := module.key(role))]
        if not loose or name in found.layers or name in found.refused:
            continue
        try:
            ignored[leftover(module, loose[0])].append(name)
            found.consumed.update(meaningless(module))
        except Refused as reason:
            found.refused[name] = reason.by_name
    found.notes += [f"{kind.value} are ignored: {few(names, SHOWN)}." for kind, names in ignored.items() if names]


def find_consumed(found: Findings) -> None:
    """Which keys are parts of layers or markers, so that what is left are the model's other tensors.

    What lies beside a weight that is no layer is handed on with it: only a quantized weight swallows companions.
    """
    for name, module in found.modules.items():
        if name in found.layers or name in found.refused:
            found.consumed.update(key for suffix, key in module.keys.items() if module.role(suffix) != "bias")
        if module.key("bias_scale") and module.key("bias"):
            found.consumed.add(module.key("bias_scale") or "")
    found.consumed.update(k for k in found.source if is_marker(k))
    for module in found.modules.values():
        add_bias(found, module)


def add_bias(found: Findings, module: Module) -> None:
    """Notes how the bias is made where it is not what the file holds: scaled, shuffled, or for shifted activations."""
    key, scale, layer = module.key("bias"), module.key("bias_scale"), found.layers.get(module.name)
    if key is not None and scale is not None:
        found.biases[key.removesuffix(":_data")] = partial(scaled_bias, found.source, key, scale)
    elif key is not None and layer is not None and layer.bias_changes:
        found.biases[key] = layer.bias


def scaled_bias(source: Source, key: str, scale: str) -> Tensor:
    return source.tensor(key).float() * source.tensor(scale).float()


def is_marker(key: str) -> bool:
    return key.rpartition(".")[2] in ("scaled_fp8", "comfy_quant")


def find_directions(found: Findings) -> None:
    """Where a dialect's documents name both directions of its scale, the one that makes sound weights."""
    layers = [layer for layer in found.layers.values() if layer.dialect.reciprocal]
    looked_at = evenly_spaced(layers, READ)
    if looked_at and all(inverted(layer) for layer in looked_at):
        found.layers.update({layer.name: replace(layer, reciprocal=True) for layer in layers})


def find_numbers(found: Findings, everything: bool) -> None:
    """Scales of all layers and codes of many are looked at; what they show is the last word."""
    sound = [layer for name, layer in found.layers.items() if name not in found.refused]
    doubtful = {}
    for layer in sound:
        problem, doubtful[layer.name] = scale_problem(layer, everything)
        if problem:
            found.refused[layer.name] = problem
    sound = [layer for layer in sound if layer.name not in found.refused]
    for layer in sound if everything else chosen(sound, doubtful):
        problem = code_problem(layer, everything)
        if problem:
            found.refused[layer.name] = problem
    small = sorted((v for v in sound if v.name not in found.refused), key=lambda v: v.stored[0] * v.stored[1])
    for layer in small[:READ]:
        if problem := relabelled(layer):
            found.refused[layer.name] = problem


def chosen(layers: list[Layer], doubtful: dict[str, bool]) -> list[Layer]:
    """The layers whose codes are sampled: some scaled ones, those with odd scales, and nearly all unscaled ones."""
    scaled = [v for v in layers if not v.plain]
    odd = [v for v in scaled if doubtful[v.name]]
    plain = [v for v in layers if v.plain]
    picked = {
        v.name: v for v in (*evenly_spaced(scaled, LAYERS), *evenly_spaced(odd, LAYERS), *evenly_spaced(plain, CASTS))
    }
    return list(picked.values())
