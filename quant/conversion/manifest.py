"""What became of each file of a job, kept in the folder of its results: what is done is not done again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import Refused
from ..files.remote import beside, name_of, read_object, shards_at, stamp, write_object
from ..files.sets import INDEX
from ..records import record_of

MANIFEST = "scaled-fp8-manifest.json"
VERSION = 1
LONGEST = 80  # letters of an option in a sentence
STATES = ("done", "refused", "failed")
Stamps = dict[str, "list[int | str] | None"]  # name of a file -> what differs once it is written anew


@dataclass(frozen=True)
class Entry:
    """What became of a file. state: one of STATES; said: what was done, or the sentence; host: where it ran.

    source: stamps of the files that were read; results: of those that were written.
    """

    state: str
    said: str
    host: str = ""
    source: Stamps = field(default_factory=dict)
    results: Stamps = field(default_factory=dict)
    bytes_before: int = 0
    bytes_after: int = 0
    seconds: float = 0.0


class Manifest:
    """Entries by name of the source, in a file beside the results. asked: the options, which are one job's."""

    def __init__(self, folder: str, asked: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, beside(folder, MANIFEST)
        self.asked: dict[str, Any] = json.loads(json.dumps(asked, default=str))
        self.entries = self.read()

    def read(self) -> dict[str, Entry]:
        kept = read_object(self.path)
        if not kept and stamp(self.path) is not None or kept and kept.get("version") != VERSION:
            raise Refused(self.unread())
        if kept and not isinstance(kept.get("asked"), dict):
            raise Refused(self.unread())
        if kept and kept.get("asked") != self.asked:
            raise Refused(
                f"{self.folder}: the job there was started with {difference(kept['asked'], self.asked)}; "
                f"name another folder, or remove {MANIFEST} to convert all anew."
            )
        try:
            return {name: entry_of(fields) for name, fields in kept.get("files", {}).items()}
        except (TypeError, AttributeError, ValueError):
            raise Refused(self.unread()) from None

    def unread(self) -> str:
        return f"{self.path}: is no manifest that can be read; remove it, or name another folder."

    def put(self, name: str, entry: Entry) -> None:
        """Add what became of a file; the manifest on disk is whole at any time."""
        self.entries[name] = entry
        files = {name: asdict(entry) for name, entry in sorted(self.entries.items())}
        write_object(self.path, {"version": VERSION, "asked": self.asked, "files": files})

    def done(self, name: str, source: Stamps) -> Entry | None:
        """The entry of a file that needs no work: it was done from this source, and the result is there as it was."""
        entry = self.entries.get(name)
        if entry is None or entry.state != "done" or entry.source != source or not entry.results:
            return None
        return entry if stamps_in(self.folder, entry.results) == entry.results else None


def entry_of(fields: object) -> Entry:
    """An entry as it is kept; ValueError for anything else."""
    entry = record_of(Entry, fields)
    if entry.state not in STATES:
        raise ValueError(entry.state)
    return entry


def difference(kept: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The first option that two jobs do not share, as one had it and the other has it."""
    key = next(key for key in (*kept, *asked, "options") if kept.get(key) != asked.get(key) or key == "options")
    return f"{key} {str(kept.get(key))[:LONGEST]}, and this one has {str(asked.get(key))[:LONGEST]}"


def stamps_of(address: str) -> Stamps:
    """Of a checkpoint's file, or of its index and its shards, by name."""
    files = (address, *(shards_at(address) if address.endswith(INDEX) else ()))
    return {name_of(path): stamp(path) for path in files}


def stamps_in(folder: str, names: Mapping[str, object]) -> Stamps:
    return {name: stamp(beside(folder, name)) for name in names}


def results_of(files: tuple[str, ...]) -> Stamps:
    """Stamps of what was written, by name."""
    return {name_of(path): stamp(path) for path in files}
