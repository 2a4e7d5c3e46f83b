"""One job at a time in a folder, which may be at a URL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import BinaryIO

from ..errors import Refused, first_line
from .claims import Check, claimed
from .remote import beside, is_url
from .temporaries import NO_SURPRISE, fcntl

LOCK = ".scaled-fp8-job.lock"


def only_job(folder: str) -> AbstractContextManager[Check]:
    """Refused where another job has the folder; a killed one leaves it free, at a URL after claims.DEAD seconds.

    What is given raises Refused where the job has lost the folder, as it may at a URL.
    """
    return locked(folder, beside(folder, LOCK)) if fcntl and not is_url(folder) else claimed(folder)


@contextmanager
def locked(folder: str, path: str) -> Iterator[Check]:
    """A folder on disk that this job alone writes into."""
    file = taken(folder, path)
    try:
        yield lambda: None
    finally:
        # who took it for a stale one may have removed it
        with suppress(FileNotFoundError):
            os.unlink(path)
        file.close()


def taken(folder: str, path: str) -> BinaryIO:
    """The lock file of a folder, held; Refused where another job has it."""
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
