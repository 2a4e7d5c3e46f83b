"""A checkpoint as named tensors, whatever it is stored in; infos from headers, data one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..errors import Refused
from .header import TensorInfo

STORES = (".safetensors", ".sft")  # what safetensors files are called


class Stored(Protocol):
    """A tensor that can be read. origin: name of what holds it, for messages; path: of the file, None in memory."""

    @property
    def info(self) -> TensorInfo: ...
    @property
    def origin(self) -> str: ...
    @property
    def path(self) -> Path | None: ...
    def read(self, start: int, stop: int) -> Tensor: ...


class Source(Mapping[str, TensorInfo]):
    """Tensor name -> TensorInfo of one checkpoint; the data is read when asked for.

    path: what was opened, None for tensors in memory; name: for messages; metadata: of the headers, merged;
    sidecars: file name -> parsed JSON of what lies beside; beside: the paths of all that was looked into besides.
    """

    def __init__(
        self,
        stored: Mapping[str, Stored],
        metadata: Mapping[str, str] | None = None,
        sidecars: Mapping[str, dict[str, Any]] | None = None,
        path: Path | None = None,
        name: str = "model",
        beside: Iterable[Path] = (),
    ) -> None:
        self.stored, self.path, self.name, self.beside = dict(stored), path, name, frozenset(beside)
        self.metadata, self.sidecars = dict(metadata or {}), dict(sidecars or {})

    def __getitem__(self, name: str) -> TensorInfo:
        return self.stored[name].info

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def total_bytes(self) -> int:
        """Of all tensors' data."""
        return sum(stored.info.nbytes for stored in self.stored.values())

    @property
    def files(self) -> set[Path]:
        """Every file that belongs to the checkpoint: tensors, index, configurations, scales."""
        on_disk = {stored.path for stored in self.stored.values() if stored.path is not None}
        return on_disk | self.beside | ({self.path} if self.path else set())

    def origin(self, name: str) -> str:
        """The name of the file that a tensor came from."""
        return self.stored[name].origin

    def tensor(self, name: str) -> Tensor:
        """One tensor in memory of its own (a loaded one: as it is). Refused where torch has no such dtype."""
        info = self.stored[name].info
        return self.stored[name].read(0, info.numel).reshape(info.shape)

    def exchange(self, stored: Mapping[str, Stored]) -> None:
        """Read these tensors from where they lie now; Refused, and nothing exchanged, where they are others."""
        for name, other in stored.items():
            if name not in self or self[name] != other.info:
                raise Refused(f"{self.name}: {name!r} is another tensor now; the file was changed, start again.")
        self.stored |= stored

    def piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor; nothing else is read."""
        if not 0 <= start <= stop <= self.stored[name].info.numel:
            raise IndexError(f"{name}: elements {start} to {stop} of {self.stored[name].info.numel}")
        return self.stored[name].read(start, stop)


@dataclass(frozen=True)
class Contents:
    """What one file holds."""

    tensors: Mapping[str, Stored]
    metadata: dict[str, str] = field(default_factory=dict)
