"""One job at a time in a folder at a URL, where nothing can be locked: a file that each job renews while it runs.

A job writes its own claim before it looks for others, so that of two that start at once at least one sees the other.
Ages are by the store's clock alone: those of two machines may differ.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from threading import Event, Thread
from time import monotonic
from typing import Any

from ..errors import Refused
from .remote import beside, place_of, reaching, read_object

CLAIM = ".scaled-fp8-job-{}.lock"
BEAT = 20.0  # seconds between two renewals
DEAD = 180.0  # seconds without one, after which a job is taken to be killed
HOST = 255  # letters of a machine's name
Check = Callable[[], None]


@contextmanager
def claimed(folder: str) -> Iterator[Check]:
    """Refused where another job has the folder; one that was killed has it for DEAD seconds more.

    What is given raises Refused once this job, stopped for so long, has lost the folder to another.
    """
    claim = Claim(folder)
    try:
        claim.renew()
        claim.refuse_others()
        with claim.renewed():
            yield claim.check
    finally:
        claim.end()


class Claim:
    """This job's file in a folder. last: when it was renewed, by this machine's clock."""

    def __init__(self, folder: str) -> None:
        self.folder, self.path, self.last = folder, beside(folder, CLAIM.format(secrets.token_hex(8))), monotonic()

    def renew(self) -> None:
        before = monotonic()
        with reaching(self.path) as (system, path):
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            # not under another name first, which who has the folder would sweep away; how old it is is all that counts
            system.pipe_file(path, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
        self.last = before

    def refuse_others(self) -> None:
        ages = {path: age_of(path, self.path) for path in claims_in(self.folder)}
        if self.path not in ages:
            raise Refused(f"{self.folder}: another job has taken it meanwhile; wait for it, or name another folder.")
        for path, age in ages.items():
            if path != self.path and (age is None or age <= DEAD):
                raise Refused(f"{self.folder}: {described(path, age)}")
        for path in ages.keys() - {self.path}:
            remove(path)

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renewed from a thread of its own until the block ends."""
        over = Event()
        thread = Thread(target=self.keep, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def keep(self, over: Event) -> None:
        while not over.wait(BEAT):
            # a store that does not answer now may do so the next time; check says when it has been too long
            with suppress(Refused):
                if self.path in claims_in(self.folder):
                    self.renew()

    def check(self) -> None:
        """Refused where another job may have the folder by now."""
        if monotonic() - self.last > DEAD / 2 or self.path not in claims_in(self.folder):
            raise Refused(
                f"{self.folder}: this job could not say for {monotonic() - self.last:.0f} s that it still runs, "
                "and another may have taken its place; start it again."
            )

    def end(self) -> None:
        with suppress(Refused):
            remove(self.path)


def claims_in(folder: str) -> list[str]:
    with reaching(folder) as (system, path):
        # listings may be of a while ago
        system.invalidate_cache()
        found = system.glob(f"{escape(path.rstrip('/'))}/{CLAIM.format('*')}")
        return [beside(folder, str(one).rpartition("/")[2]) for one in found]


def age_of(path: str, own: str) -> float | None:
    """Seconds between the last renewals of a claim and of this job's own; None where the store does not say."""
    with suppress(NotImplementedError, FileNotFoundError, TypeError):
        return (changed(own) - changed(path)).total_seconds()
    return None


def changed(path: str) -> Any:
    """When a file was written, by the clock of its store."""
    system, there = place_of(path)
    system.invalidate_cache()
    return system.modified(there)


def described(path: str, age: float | None) -> str:
    """Who else has a folder, and when it will be free."""
    host = str(read_object(path).get("host", "an unknown machine"))[:HOST]
    if age is None:
        return f"another job writes there, on {host}, or was killed; wait for it, or remove {path}."
    return (
        f"another job writes there, on {host}; wait for it, or name another folder; "
        f"if it was killed, the folder is free in {max(0.0, DEAD - age):.0f} s."
    )


def remove(path: str) -> None:
    with reaching(path) as (system, there), suppress(FileNotFoundError):
        system.rm_file(there)
