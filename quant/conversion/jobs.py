"""One conversion among many: from where to where, what it needs of a machine, and what became of it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import NoRoom, Refused, named
from ..files.remote import beside, check_target, fetched, folder_of, header_at, is_url, name_of, send, shards_at
from ..files.sets import INDEX
from .converter import Options, convert
from .manifest import Entry, results_of, stamps_of
from .ranges import convert_shard
from .request import Request
from .result import Conversion
from .workers import BUDGET

PROCESS = 1 << 30  # bytes of a Python process with torch, and of what a conversion keeps of a header
DECODED = 12  # bytes a weight while a layer that cannot be read in pieces is decoded


@dataclass(frozen=True)
class Work:
    """What is asked of every file of a job."""

    request: Request
    options: Options = Options()


@dataclass(frozen=True)
class FileJob:
    """A file to convert. src, dst: paths or URLs; size: bytes of its tensors; memory: bytes that it needs.

    staged: the path of one shard of dst, which is then all that is written.
    """

    name: str
    src: str
    dst: str
    size: int = 0
    memory: int = PROCESS + BUDGET
    staged: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of it: an entry for the manifest, and what was done, where it was."""

    entry: Entry
    conversion: Conversion | None = None


def job_of(src: str, dst: str) -> FileJob:
    """With what the headers of the source say; a file that has none is for the conversion to refuse."""
    job = FileJob(name_of(src), src, dst)
    try:
        infos = [info for path in files_of(src) for info, _ in header_at(path).tensors.values()]
    except Refused:
        return job
    largest = max((prod(info.shape) for info in infos), default=0)
    return replace(job, size=sum(info.nbytes for info in infos), memory=PROCESS + max(BUDGET, largest * DECODED))


def files_of(src: str) -> list[str]:
    return shards_at(src) if src.endswith(INDEX) else [src]


##### What a worker does


class Told:
    """A bar for one file, which passes on how many of its bytes are done so far."""

    def __init__(self, tell: Callable[[int], object]) -> None:
        self.tell, self.done = tell, 0

    def update(self, n: int) -> None:
        self.done += n
        self.tell(self.done)


def attempt(job: FileJob, work: Work, tell: Callable[[int], object]) -> Outcome:
    """Convert one file; whatever stops it stops no other. Only a full disk is raised: another machine has another."""
    options = replace(work.options, bar=lambda total: nullcontext(Told(tell)))
    try:
        source = stamps_of(job.src)
        conversion = converted(job, work.request, options)
        return Outcome(entry_of(conversion, source), conversion)
    except NoRoom as problem:
        raise NoRoom(f"{problem} (on {socket.gethostname()})") from None
    except Refused as refusal:
        return Outcome(Entry("refused", str(refusal), socket.gethostname()))
    except Exception as problem:
        return failed(named(problem))


def converted(job: FileJob, request: Request, options: Options) -> Conversion:
    if job.staged:
        return convert_shard(job.src, Path(job.staged), Path(job.dst), request, options)
    return convert_address(job.src, job.dst, request, options)


def failed(said: str) -> Outcome:
    return Outcome(Entry("failed", said, socket.gethostname()))


def entry_of(conversion: Conversion, source: dict[str, list[int | str] | None]) -> Entry:
    """The manifest's entry of a conversion that is done."""
    return Entry(
        state="done",
        said=conversion.summary(),
        host=socket.gethostname(),
        source=source,
        results=results_of(conversion.files),
        bytes_before=conversion.bytes_before,
        bytes_after=conversion.bytes_after,
        seconds=conversion.seconds,
    )


def convert_address(src: str, dst: str, request: Request, options: Options) -> Conversion:
    """As convert does, where src or dst may be a URL: what is there is copied, and what is written there sent."""
    if not (is_url(src) or is_url(dst)):
        return convert(src, dst, request, options)
    with TemporaryDirectory(prefix="scaled-fp8-") as scratch:
        source = fetched(src, made(scratch, "source")) if is_url(src) else Path(src)
        target = made(scratch, "result") / name_of(dst) if is_url(dst) else Path(dst)
        if not is_url(dst):
            return replace(convert(source, target, request, options), source=src)
        if dst == src:
            raise Refused(f"{dst}: is a file of what is converted; give another name, or another folder.")
        check_target(dst, options.named)
        conversion = convert(source, target, request, options)
        send(map(Path, conversion.files), folder_of(dst))
        files = tuple(beside(folder_of(dst), name_of(file)) for file in conversion.files)
        return replace(conversion, source=src, files=files)


def made(scratch: str, name: str) -> Path:
    folder = Path(scratch) / name
    folder.mkdir()
    return folder
