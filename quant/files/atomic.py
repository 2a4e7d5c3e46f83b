"""Files that appear whole and together in their place, or not at all; what they replace is there until then."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import NoRoom, Refused, first_line
from .sets import carry_out
from .temporaries import (
    NO_SURPRISE,
    TEMPORARY,
    create,
    fcntl,
    name_it,
    opened,
    remove,
    removed_in_the_end,
    temporary,
)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_PLAN = 1 << 24  # bytes


class Places:
    """Where files that belong together go, the one that names the others last."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def settle(self, files: Sequence[BinaryIO]) -> None:
        """The last word on the paths: all is written, and no other run places anything in the folder."""

    def plan(self) -> bytes:
        """What is unneeded when all is done, of this run and of what it replaces; see sets.plan_of."""
        return b""

    def replaced(self) -> Iterable[Path]:
        """Files under other names that the result takes the place of: they go once it is there, in this order."""
        return ()


@contextmanager
def replacing(places: Places) -> Iterator[list[BinaryIO]]:
    """Files to write into that take their places when the block ends well, and are gone when it does not."""
    folder, mode = places.paths[-1].parent, mode_of(places.paths[-1])
    temporaries = [folder / temporary() for _ in places.paths]
    with removed_in_the_end(temporaries), ExitStack() as stack:
        files = [stack.enter_context(create(named, mode)) for named in temporaries]
        yield files
        for file in files:
            os.fsync(file.fileno())
        put_in_place(places, files, temporaries, stack)


def adopt(places: Places, written: Sequence[Path], last: bytes) -> None:
    """Have files that were written elsewhere on the disk take their places, and one more that names them."""
    folder = places.paths[-1].parent
    named = folder / temporary()
    with removed_in_the_end([named]), ExitStack() as stack:
        files = [stack.enter_context(opened(path, "r+b")) for path in written]
        files.append(stack.enter_context(create(named, mode_of(places.paths[-1]))))
        files[-1].write(last)
        os.fsync(files[-1].fileno())
        put_in_place(places, files, [*written, named], stack)


def put_in_place(places: Places, files: Sequence[BinaryIO], named: Sequence[Path], held: ExitStack) -> None:
    """Move files, whose names may not be there yet, to their places; held: what has them open."""
    folder = places.paths[-1].parent
    with only_run_in(folder):
        places.settle(files)
        with planned(folder, places.plan()):
            for file, name in zip(files, named, strict=True):
                if not name.exists():
                    name_it(file, name)
            if not fcntl:
                held.close()
            # locked until it has its place: another run takes it for no stale one
            publish(dict(zip(named, places.paths, strict=True)))
            remove(places.replaced())


def mode_of(path: Path) -> int | None:
    """Who may read what is replaced may read what replaces it; None where there is nothing."""
    with suppress(OSError):
        return stat.S_IMODE(path.stat().st_mode)
    return None


def write_whole(path: Path, data: bytes) -> None:
    """One small file, whole or not at all."""
    with replacing(Places([path])) as (file,):
        file.write(data)


@contextmanager
def planned(folder: Path, plan: bytes) -> Iterator[None]:
    """Carry the plan out in the end; whoever finds it after a kill does so."""
    if not plan:
        yield
        return
    named = folder / temporary()
    with removed_in_the_end([named]), create(named) as file:
        file.write(plan)
        os.fsync(file.fileno())
        if not named.exists():
            name_it(file, named)
        flush_folder(folder)
        try:
            yield
        finally:
            carry_out(folder, plan)


def publish(targets: Mapping[Path, Path]) -> None:
    """Move each temporary to its place. Of several files the last names the others: it comes last."""
    for named, path in targets.items():
        os.replace(named, path)
    for folder in {path.parent for path in targets.values()}:
        flush_folder(folder)


##### What killed runs left


def remove_stale(folder: Path) -> None:
    """Remove temporaries of processes that died: nobody holds their lock. A plan among them is carried out.

    A file that is none of ours, a pipe or a link, is not touched.
    """
    for path in folder.glob(TEMPORARY.format("*")):
        with suppress(OSError):
            if stat.S_ISREG(path.lstat().st_mode):
                remove_unlocked(path)


def remove_unlocked(path: Path) -> None:
    """Remove a temporary that nobody holds the lock of."""
    with open(os.open(path, os.O_RDONLY | NO_SURPRISE), "rb") as file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return
        if os.fstat(file.fileno()).st_size <= LONGEST_PLAN:
            with only_run_in(path.parent):
                carry_out(path.parent, file.read())
        if fcntl:
            path.unlink()
    if not fcntl:
        path.unlink()


##### The folder


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """One run at a time places files in a folder, where folders can be locked."""
    if not fcntl:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network's file system may have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
        if os.path.lexists(path) and not path.is_file():
            raise Refused(f"{path}: is not a regular file and cannot be replaced; give the name of a file.")
    path, size = next(iter(sizes)), sum(sizes.values())
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise NoRoom(f"{path}: {size} bytes are needed and {free} are free there; nothing was written.")


def failure(path: Path, problem: OSError) -> Refused:
    if problem.errno in FULL:
        return NoRoom(f"{path}: the disk is full; nothing was left there, make room and start again.")
    return Refused(f"{path}: cannot be written: {first_line(problem)}; nothing was left there.")
