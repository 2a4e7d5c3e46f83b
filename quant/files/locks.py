"""One job at a time in a folder, which may be at a URL."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import BinaryIO

from ..errors import Refused, first_line
from .atomic import NO_SURPRISE, fcntl
from .remote import beside, is_url, reaching, read_object, stamp, write_object

LOCK = ".scaled-fp8-job.lock"


def only_job(folder: str) -> AbstractContextManager[None]:
    """Refused where another job has the folder; a killed one leaves it free, unless it is at a URL."""
    path = beside(folder, LOCK)
    return locked(folder, path) if fcntl and not is_url(folder) else claimed(folder, path)


@contextmanager
def locked(folder: str, path: str) -> Iterator[None]:
    file = taken(folder, path)
    try:
        yield
    finally:
        # who took it for a stale one may have removed it
        with suppress(FileNotFoundError):
            os.unlink(path)
        file.close()


def taken(folder: str, path: str) -> BinaryIO:
    while True:
        file = opened(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise Refused(f"{folder}: another job writes there; wait for it, or name another folder.") from None
        except OSError:
            return file  # a network's file system without locks
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        # the job that had it has removed it meanwhile
        file.close()


def opened(path: str) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | NO_SURPRISE, 0o666), "r+b", buffering=0)
    except OSError as problem:
        raise Refused(f"{path}: cannot be opened: {first_line(problem)}; name another folder.") from None


@contextmanager
def claimed(folder: str, path: str) -> Iterator[None]:
    """By a file of our own where nothing can be locked: of two that write it at once, the last has it."""
    token = {"job": secrets.token_hex(8)}
    if stamp(path) is None:
        write_object(path, token)
    if read_object(path) != token:
        raise Refused(f"{folder}: another job writes there, or was killed; wait for it, or remove {path}.")
    try:
        yield
    finally:
        with reaching(path) as (system, there):
            system.rm_file(there)
