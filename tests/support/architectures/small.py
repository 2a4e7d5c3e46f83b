"""One small build: its sizes, and what its forward is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Small:
    """unet: sizes, as ComfyUI's detection names them; x, context, more: shapes of what the forward is given.

    A list of shapes is for several parts; "ones:1,2", "zeros:1,2" and "fones:1,2" are constants, "grid:4" the voxels of
    a cube. t: timestep; metadata: of the file; extras: empty tensors of the file that say how a model was trained;
    options: transformer options; conditioning: what core makes the rest of; also: inputs of further passes.
    """

    unet: dict[str, Any]
    x: Any = (1, 16, 8, 8)
    context: Any = (1, 8, 64)
    more: dict[str, Any] = field(default_factory=dict)
    t: float = 0.6
    metadata: dict[str, str] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    conditioning: dict[str, Any] = field(default_factory=dict)
    also: tuple[dict[str, Any], ...] = ()
