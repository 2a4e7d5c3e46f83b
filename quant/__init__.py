"""The engine: reads, quantizes and runs scaled weights. Needs torch and safetensors, never ComfyUI."""

from __future__ import annotations

from importlib import import_module

# module -> what of it is public; imported when first asked for, so that the command line answers without torch
PUBLIC: dict[str, tuple[str, ...]] = {
    "checkpoint": ("Checkpoint", "inspect_checkpoint", "read_checkpoint"),
    "dialects": ("DIALECTS",),
    "component": ("Stats", "quantize_component"),
    "encode": ("Search", "quantize"),
    "estimate": ("Estimate", "estimate_memory"),
    "families": ("FAMILIES", "Family"),
    "formats": ("FORMATS", "Format"),
    "fuse": ("fuse_rows",),
    "granularity": ("GRANULARITIES", "PerBlock", "PerGroup", "PerRow", "PerTensor"),
    "hurtful": ("get_quant_compile_warnings",),
    "methods": ("METHODS", "Method", "method_named"),
    "patch": ("Handle", "patch_linears", "restore_linears"),
    "policy": ("Decision", "Policy", "decide", "recognise"),
    "refusal": ("Refused",),
    "settings": ("Setting", "Settings", "find_settings", "read_settings"),
    "source": ("Source", "StateDictSource", "open_source"),
    "verdict": ("Verdict",),
    "weight": ("QuantizedWeight",),
}
HOMES = {name: module for module, names in PUBLIC.items() for name in names}

__all__ = [*HOMES]


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(globals() | HOMES)
