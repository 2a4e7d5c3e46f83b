"""One module of a checkpoint: the keys that belong together, and what they are to its weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from .keys import BESIDE, SUFFIXES
from .metadata import Clues

if TYPE_CHECKING:
    from ..files.header import TensorInfo
    from ..files.stored import Source

FLOAT8 = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
BYTES = frozenset({"U8", "I8"})
CODES = FLOAT8 | BYTES
POWERS = frozenset({"U8", "F8_E8M0"})  # dtypes of power-of-two scales


@dataclass(frozen=True)
class Module:
    """A weight with its companions, as the header shows them. keys: suffix -> key in the file."""

    name: str
    keys: Mapping[str, str]
    source: Source
    clues: Clues

    @cached_property
    def roles(self) -> dict[str, list[str]]:
        """Role -> suffixes that play it; the placeholder `weight` beside flux-fp8-api's `float8_data` plays none."""
        roles: dict[str, list[str]] = {}
        for suffix in self.keys:
            roles.setdefault(self.role(suffix), []).append(suffix)
        return roles

    def role(self, suffix: str) -> str:
        if suffix == ".weight" and ".float8_data" in self.keys and self.source[self.keys[suffix]].numel == 1:
            return "placeholder"
        if suffix in BESIDE and BESIDE[suffix][0] in self.keys:
            return BESIDE[suffix][1]
        return "scale" if suffix in ("=", ".scale") else SUFFIXES[suffix]

    def key(self, role: str) -> str | None:
        suffixes = self.roles.get(role)
        return self.keys[suffixes[0]] if suffixes else None

    def info(self, role: str) -> TensorInfo | None:
        key = self.key(role)
        return None if key is None else self.source[key]

    def has(self, *suffixes: str) -> bool:
        return any(s in self.keys for s in suffixes)

    def dtype(self, role: str = "weight") -> str:
        info = self.info(role)
        return "" if info is None else info.dtype

    def shape(self, role: str = "weight") -> tuple[int, ...]:
        info = self.info(role)
        return () if info is None else tuple(info.shape)

    @cached_property
    def marker(self) -> dict[str, Any]:
        """What its marker says, ``{}`` where it has none."""
        return self.clues.marker(self.name) or {}

    @property
    def marked(self) -> bool:
        return self.clues.marker(self.name) is not None

    @property
    def format(self) -> str:
        """The format its marker names, "" where it names none."""
        return str(self.marker.get("format", "")).lower()

    @property
    def micro(self) -> bool:
        """Block scales of 32 along in, by their dtype and number: MXFP8 whoever wrote it."""
        shape = self.shape()
        per_row = -(-shape[1] // 32) if len(shape) == 2 else 0
        return self.dtype("scale") in POWERS and per_row > 0 and prod(self.shape("scale")) >= shape[0] * per_row > 1

    def scale_from(self, *files: str) -> bool:
        """Whether the scale came out of a sidecar whose name ends so."""
        key = self.key("scale")
        return key is not None and str(self.source.origin(key)).endswith(files)
