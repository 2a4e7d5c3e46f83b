"""What tells one checkpoint from another, without reading all of it."""

from __future__ import annotations

import hashlib
import json

import torch

from ..files.stored import Source

KIND = "sample-sha256"
RUN = 64  # elements of a tensor that are looked at


def fingerprint(source: Source) -> str:
    """A hash of every tensor's name, dtype and shape, and of the elements in its middle.

    The same for one file and for shards, and whatever their metadata says; another for any model whose training went
    on, as that changes every layer. A SHA-256 of the whole would have to read 24 GB once more.
    """
    digest = hashlib.sha256()
    for name in sorted(source):
        info = source[name]
        digest.update(json.dumps([name, info.dtype, list(info.shape)]).encode())
        digest.update(middle(source, name))
    return f"{KIND}:{digest.hexdigest()}"


def middle(source: Source, name: str) -> bytes:
    """What a fingerprint takes of a tensor: the bytes of a few elements; none of what torch cannot hold."""
    info = source[name]
    if info.torch_dtype is None:
        return b""
    start = max(0, info.numel - RUN) // 2
    run = source.piece(name, start, min(info.numel, start + RUN))
    return run.contiguous().view(torch.uint8).numpy().tobytes() if run.numel() else b""
