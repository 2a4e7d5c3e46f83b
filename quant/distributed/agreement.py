"""Whether all processes of a mesh read the same checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import Refused

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def digest_of(facts: Iterable[object]) -> str:
    """A short name for what a process has: the same for the same facts in the same order."""
    return hashlib.sha256("\n".join(map(repr, facts)).encode()).hexdigest()


def check_same(name: str, digest: str, mesh: DeviceMesh) -> None:
    """Refused, on every process, where one has another digest than the first; all of the mesh have to call this.

    name: of the checkpoint, as this process calls it.
    """
    import torch.distributed as dist

    digests: list[str] = [""] * mesh.size()
    dist.all_gather_object(digests, digest, mesh.get_group())
    others = [str(rank) for rank, its in enumerate(digests) if its != digests[0]]
    if others:
        raise Refused(
            f"{name}: rank {', '.join(others)} of {len(digests)} has another file than rank 0; "
            "give all of them the same checkpoint."
        )
