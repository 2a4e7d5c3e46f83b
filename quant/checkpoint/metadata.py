"""What a file says about itself beside its tensors: markers, header metadata, sidecars."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from ..names import without_model

if TYPE_CHECKING:
    from ..files.stored import Source

LARGEST_MARKER = 1 << 16  # bytes of JSON; real ones are below 200


@dataclass(frozen=True)
class Clues:
    """markers: module -> what `.comfy_quant` or `_quantization_metadata` says of it, nested params unfolded;
    legacy: prefixes that hold a `scaled_fp8` tensor; method: quantization method of the config, lower case;
    config: that config; header: the file's own metadata."""

    markers: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    legacy: tuple[str, ...] = ()
    method: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    header: Mapping[str, str] = field(default_factory=dict)

    def marker(self, module: str) -> dict[str, Any] | None:
        """The marker of a module, None where it has none."""
        return self.markers.get(module, self.markers.get(without_model(module)))

    def in_legacy_scope(self, module: str) -> bool:
        return any(module.startswith(prefix) for prefix in self.legacy)


def read_clues(source: Source) -> Clues:
    """All that the file and its sidecars say; Refused for a marker that is not JSON."""
    header = dict(source.metadata)
    config = quantization_config(source)
    method = str(config.get("quant_method") or config.get("quant_algo") or "").lower()
    legacy = tuple(k.removesuffix("scaled_fp8") for k in source if k == "scaled_fp8" or k.endswith(".scaled_fp8"))
    markers = {**header_markers(header), **tensor_markers(source)}
    return Clues(markers, legacy, method, config, header)


def header_markers(header: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    layers = parsed(header.get("_quantization_metadata"), "_quantization_metadata").get("layers") or {}
    markers = {str(k): unfolded(v) for k, v in layers.items()} if isinstance(layers, dict) else {}
    # metadata may have been written under another prefix than the file's
    return {without_model(name): conf for name, conf in markers.items()} | markers


def tensor_markers(source: Source) -> dict[str, dict[str, Any]]:
    keys = [k for k in source if k.endswith(".comfy_quant")]
    return {k.removesuffix(".comfy_quant"): unfolded(parsed(marker_text(source, k), k)) for k in keys}


def marker_text(source: Source, key: str) -> bytes:
    info = source[key]
    if info.dtype not in ("U8", "I8") or info.nbytes > LARGEST_MARKER:
        raise Refused(
            f"{key}: should be JSON in a U8 tensor but is {info.dtype} {list(info.shape)}; get the file again."
        )
    return source.tensor(key).numpy().tobytes()


def unfolded(conf: Any) -> dict[str, Any]:
    """A marker with its nested params (convert_to_quant before 1.0) lifted to the top."""
    conf = conf if isinstance(conf, dict) else {}
    params = conf.get("params")
    return {**(params if isinstance(params, dict) else {}), **conf}


def quantization_config(source: Source) -> dict[str, Any]:
    """The quantization config of config.json, of a file of its own, or of the header; ``{}`` for none."""
    for name, content in source.sidecars.items():
        found = content.get("quantization_config") or content.get("quantization")
        if isinstance(found, dict):
            return {"quant_method": "modelopt", **found} if name.startswith("hf_quant") else found
        if name == "quantization_config.json":
            return content
    return parsed(source.metadata.get("quantization_config"), "quantization_config")


def parsed(text: str | bytes | None, where: str) -> dict[str, Any]:
    """A JSON object; ``{}`` for none; Refused when it is not one."""
    if not text:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused(f"{where}: is not valid JSON; the file is damaged, get it again.") from None
    return value if isinstance(value, dict) else {}
