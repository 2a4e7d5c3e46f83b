"""Files that appear whole and together in their place, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from ..errors import Refused, first_line

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TEMPORARY = ".scaled-fp8-{}.tmp"


@contextmanager
def replacing(paths: list[Path]) -> Iterator[list[BinaryIO]]:
    """Files to write into that take the paths' places when the block ends well, and are gone when it does not."""
    temporaries = [path.parent / temporary(path) for path in paths]
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(create(named)) for named in temporaries]
            yield files
            for file, named in zip(files, temporaries, strict=True):
                os.fsync(file.fileno())
                if not named.exists():
                    name_it(file, named)
            if not fcntl:
                stack.close()
            # locked until it has its place: another run takes it for no stale one
            publish(dict(zip(temporaries, paths, strict=True)))
    except BaseException:
        for named in temporaries:
            with suppress(OSError):
                named.unlink(missing_ok=True)
        raise


def temporary(path: Path) -> str:
    return TEMPORARY.format(f"{os.getpid()}-{sha256(path.name.encode()).hexdigest()[:12]}")


def publish(targets: Mapping[Path, Path]) -> None:
    """Move each temporary to its place. Of several files the last names the others: it goes first and comes last."""
    *_, last = targets.values()
    placed: list[Path] = []
    try:
        if len(targets) > 1:
            last.unlink(missing_ok=True)
            flush_folder(last.parent)
        for named, path in targets.items():
            os.replace(named, path)
            placed.append(path)
    except BaseException:
        for path in placed:
            path.unlink(missing_ok=True)
        raise
    for folder in {path.parent for path in targets.values()}:
        flush_folder(folder)


def create(named: Path) -> BinaryIO:
    """A nameless file in named's folder, which even a kill takes along; where there is none, a locked named one."""
    with suppress(OSError, AttributeError):
        if Path("/proc/self/fd").exists():
            descriptor = os.open(named.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
            return locked(open(descriptor, "w+b", buffering=0))  # type: ignore[arg-type]
    return locked(open(named, "x+b", buffering=0))  # type: ignore[arg-type]


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


def remove_stale(folder: Path) -> None:
    """Remove temporaries of processes that died: nobody holds their lock."""
    for path in folder.glob(TEMPORARY.format("*")):
        with suppress(OSError):
            if not is_locked(path):
                path.unlink()


def is_locked(path: Path) -> bool:
    if not fcntl:
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def flush_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where folders can be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_targets(sizes: Mapping[Path, int]) -> None:
    """Refused where a file of that many bytes cannot be put at each path."""
    for path in sizes:
        if not path.parent.is_dir():
            raise Refused(f"{path}: the folder {path.parent} does not exist; make it first.")
        if path.exists() and not path.is_file():
            raise Refused(f"{path}: is not a regular file and cannot be replaced; give the name of a file.")
    path, size = next(iter(sizes)), sum(sizes.values())
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise Refused(f"{path}: {size} bytes are needed and {free} are free there; nothing was written.")


def failure(path: Path, problem: OSError) -> str:
    if problem.errno in FULL:
        return f"{path}: the disk is full; nothing was left there, make room and start again."
    return f"{path}: cannot be written: {first_line(problem)}; nothing was left there."
