"""The engine: reads, quantizes and runs scaled weights. Needs torch and safetensors, never ComfyUI."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint.dialects import DIALECTS as DIALECTS
    from .checkpoint.read import Checkpoint as Checkpoint
    from .checkpoint.read import inspect_checkpoint as inspect_checkpoint
    from .checkpoint.read import read_checkpoint as read_checkpoint
    from .checkpoint.verdict import Verdict as Verdict
    from .conversion.converter import Options as Options
    from .conversion.converter import convert as convert
    from .conversion.request import Request as Request
    from .conversion.result import Conversion as Conversion
    from .errors import Refused as Refused
    from .files.memory import StateDictSource as StateDictSource
    from .files.open import open_source as open_source
    from .files.stored import Source as Source
    from .kernels.diagnosis import Diagnosis as Diagnosis
    from .kernels.diagnosis import doctor as doctor
    from .nn.component import is_fp8_compatible_layer as is_fp8_compatible_layer
    from .nn.component import quantize_component as quantize_component
    from .nn.component import quantize_vae as quantize_vae
    from .nn.patch import Handle as Handle
    from .nn.patch import patch_linears as patch_linears
    from .nn.patch import restore_linears as restore_linears
    from .nn.stats import Stats as Stats
    from .quality.checkpoints import compare_weights as compare_weights
    from .quality.comparison import Comparison as Comparison
    from .quality.comparison import compare as compare
    from .quality.page import write_json as write_json
    from .quality.page import write_page as write_page
    from .quality.pictures import Pair as Pair
    from .quality.pictures import pairs_of as pairs_of
    from .quality.quality import METRICS as METRICS
    from .quality.quality import LayerError as LayerError
    from .quality.quality import Quality as Quality
    from .quality.quality import Side as Side
    from .recipes.auto import check_fp8_support as check_fp8_support
    from .recipes.auto import get_recommended_method as get_recommended_method
    from .recipes.compile_warnings import get_quant_compile_warnings as get_quant_compile_warnings
    from .recipes.families import FAMILIES as FAMILIES
    from .recipes.families import Family as Family
    from .recipes.memory import Estimate as Estimate
    from .recipes.memory import estimate_memory as estimate_memory
    from .recipes.methods import METHODS as METHODS
    from .recipes.methods import VALID_METHODS as VALID_METHODS
    from .recipes.methods import Method as Method
    from .recipes.methods import method_named as method_named
    from .recipes.policy import Decision as Decision
    from .recipes.policy import Policy as Policy
    from .recipes.policy import decide as decide
    from .recipes.policy import recognise as recognise
    from .recipes.settings import Setting as Setting
    from .recipes.settings import Settings as Settings
    from .recipes.settings import find_settings as find_settings
    from .recipes.settings import read_settings as read_settings
    from .weights.encode import quantize as quantize
    from .weights.formats import FORMATS as FORMATS
    from .weights.formats import Format as Format
    from .weights.fuse import fuse_rows as fuse_rows
    from .weights.fuse import rows_of as rows_of
    from .weights.granularity import GRANULARITIES as GRANULARITIES
    from .weights.granularity import PerBlock as PerBlock
    from .weights.granularity import PerGroup as PerGroup
    from .weights.granularity import PerRow as PerRow
    from .weights.granularity import PerTensor as PerTensor
    from .weights.job import Search as Search
    from .weights.weight import QuantizedWeight as QuantizedWeight

# module -> what of it is public; imported when first asked for, so that the command line answers without torch
PUBLIC: dict[str, tuple[str, ...]] = {
    "checkpoint.dialects": ("DIALECTS",),
    "checkpoint.read": ("Checkpoint", "inspect_checkpoint", "read_checkpoint"),
    "checkpoint.verdict": ("Verdict",),
    "conversion.converter": ("Options", "convert"),
    "conversion.request": ("Request",),
    "conversion.result": ("Conversion",),
    "errors": ("Refused",),
    "files.memory": ("StateDictSource",),
    "files.open": ("open_source",),
    "files.stored": ("Source",),
    "kernels.diagnosis": ("Diagnosis", "doctor"),
    "nn.component": ("is_fp8_compatible_layer", "quantize_component", "quantize_vae"),
    "nn.patch": ("Handle", "patch_linears", "restore_linears"),
    "nn.stats": ("Stats",),
    "quality.checkpoints": ("compare_weights",),
    "quality.comparison": ("Comparison", "compare"),
    "quality.page": ("write_json", "write_page"),
    "quality.pictures": ("Pair", "pairs_of"),
    "quality.quality": ("METRICS", "LayerError", "Quality", "Side"),
    "recipes.auto": ("check_fp8_support", "get_recommended_method"),
    "recipes.compile_warnings": ("get_quant_compile_warnings",),
    "recipes.families": ("FAMILIES", "Family"),
    "recipes.memory": ("Estimate", "estimate_memory"),
    "recipes.methods": ("METHODS", "VALID_METHODS", "Method", "method_named"),
    "recipes.policy": ("Decision", "Policy", "decide", "recognise"),
    "recipes.settings": ("Setting", "Settings", "find_settings", "read_settings"),
    "weights.encode": ("quantize",),
    "weights.job": ("Search",),
    "weights.formats": ("FORMATS", "Format"),
    "weights.fuse": ("fuse_rows", "rows_of"),
    "weights.granularity": ("GRANULARITIES", "PerBlock", "PerGroup", "PerRow", "PerTensor"),
    "weights.weight": ("QuantizedWeight",),
}
HOMES = {name: module for module, names in PUBLIC.items() for name in names}

__all__ = [*HOMES]


if not TYPE_CHECKING:  # a type checker is to miss what is not above

    def __getattr__(name: str) -> object:
        if name not in HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(globals() | HOMES)
