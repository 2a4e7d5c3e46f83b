"""Files that are written under no name, or a locked one that says so, until they take their place."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".scaled-fp8-{}.tmp"
NO_SURPRISE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def temporary() -> str:
    return TEMPORARY.format(f"{os.getpid()}-{secrets.token_hex(6)}")


def create(named: Path, mode: int | None = None) -> BinaryIO:
    """A nameless file in named's folder, which even a kill takes along; where there is none, a locked named one."""
    file = nameless(named.parent) or locked_as(named)
    if mode is not None and hasattr(os, "fchmod"):
        with suppress(OSError):
            os.fchmod(file.fileno(), mode)
    return file


def nameless(folder: Path) -> BinaryIO | None:
    with suppress(OSError, AttributeError):
        if Path("/proc/self/fd").exists():
            descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
            return locked(open(descriptor, "w+b", buffering=0))  # type: ignore[arg-type]
    return None


def locked_as(named: Path) -> BinaryIO:
    while True:
        file = opened(named, "x+b")
        # before it was locked, another run may have taken it for a stale one
        if named.exists():
            return file
        file.close()


def opened(path: Path, mode: str) -> BinaryIO:
    return locked(open(path, mode, buffering=0))  # type: ignore[arg-type]


def locked(file: BinaryIO) -> BinaryIO:
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def name_it(file: BinaryIO, named: Path) -> None:
    """Give a nameless file its name."""
    folder = os.open(named.parent, os.O_RDONLY)
    try:
        # only with a folder of its own does os.link follow the link in /proc, as it says it does
        os.link(f"/proc/self/fd/{file.fileno()}", named, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


@contextmanager
def removed_in_the_end(paths: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    finally:
        remove(paths)


def remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)
