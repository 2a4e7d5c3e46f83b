"""Checkpoints at URLs, through fsspec: object stores, shared folders; fetched whole, sent whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import NoRoom, Refused, first_line
from .header import Header, Malformed, parse
from .sets import INDEX, MARK, is_name, stem_of
from .sidecars import SCALES, SIDECARS

# not what a run takes for a stale temporary of another
PART = ".scaled-fp8-{}.part"
LARGEST = 1 << 26  # bytes of an index; those of the largest models have some 100,000 names
Place = tuple[Any, str]  # a file system of fsspec, and a path there


def is_url(address: str) -> bool:
    return "://" in address


def beside(folder: str, name: str) -> str:
    """The address of a file in a folder, which may be a URL."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(Path(folder) / name)


def name_of(address: str) -> str:
    return PurePosixPath(address).name if is_url(address) else Path(address).name


def folder_of(address: str) -> str:
    return address.removesuffix("/").rpartition("/")[0] if is_url(address) else str(Path(address).parent)


@contextmanager
def reaching(address: str) -> Iterator[Place]:
    """The file system of an address and its path there; what a library raises about it becomes a sentence."""
    try:
        yield place_of(address)
    except (Refused, MemoryError):
        raise
    # each store raises errors of its own library
    except Exception as problem:
        advice = "install that" if isinstance(problem, ImportError) else "give another address, or mend the access"
        raise Refused(f"{address}: cannot be reached: {first_line(problem)}; {advice}.") from None


def place_of(address: str) -> Place:
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    # in a path "::" is two colons, in a URL it is another store
    return url_to_fs(address) if is_url(address) else (LocalFileSystem(), os.path.abspath(address))


##### What is there


def listed(url: str) -> list[str]:
    """The files of a folder or glob, or the one file that a URL names."""
    with reaching(url) as (system, path):
        if any(c in path for c in "*?["):
            found = system.glob(path)
        else:
            found = system.ls(path, detail=False) if system.isdir(path) else [path]
        return sorted(system.unstrip_protocol(one) for one in found)


def is_folder(url: str) -> bool:
    with reaching(url) as (system, path):
        return bool(system.isdir(path))


def stamp(address: str) -> list[int | str] | None:
    """What differs once a file was written anew: size, and time or hash of the store; None where none is."""
    with reaching(address) as (system, path):
        # listings may be of a while ago
        system.invalidate_cache()
        if not system.isfile(path):
            return None
        known = system.info(path)
        keys = ("mtime", "ETag", "etag", "md5", "LastModified", "last_modified", "created")
        changed = next((str(known[key]) for key in keys if known.get(key)), "")
        return [int(known.get("size") or 0), changed]


def header_at(address: str) -> Header:
    with reaching(address) as (system, path), system.open(path, "rb") as file:
        try:
            return parse(file, system.size(path))
        except Malformed as problem:
            raise Refused(f"{address}: {problem}; it is damaged, fetch it again.") from None


def read_object(address: str) -> dict[str, Any]:
    """JSON that was written by write_object, or an index; empty where there is none that can be read."""
    with reaching(address) as (system, path):
        value: Any = None
        with suppress(FileNotFoundError, ValueError, RecursionError):
            # a pipe would wait for ever, and what is larger than any index fill the memory
            sound = system.isfile(path) and system.size(path) <= LARGEST
            value = json.loads(system.cat_file(path)) if sound else None
    return value if isinstance(value, dict) else {}


def write_object(address: str, value: dict[str, Any]) -> None:
    """JSON that takes the place of what is there in one move."""
    with reaching(address) as (system, path):
        named = f"{path.rpartition('/')[0]}/{part_name()}"
        system.pipe_file(named, json.dumps(value, indent=1).encode())
        system.mv(named, path)


def shards_at(index: str) -> list[str]:
    """The addresses of the shards that an index names beside it."""
    where = None
    with suppress(Refused):  # for the conversion to say
        where = read_object(index).get("weight_map")
    names = set(filter(is_name, where.values())) if isinstance(where, dict) else set()
    return [beside(folder_of(index), name) for name in sorted(names)]


##### Fetched and sent


def fetched(url: str, folder: Path) -> Path:
    """A copy of a checkpoint with all that belongs to it in an empty folder; the path of its file or index."""
    main = folder / name_of(url)
    others = shards_at(url) if url.endswith(INDEX) else []
    others += [beside(folder_of(url), name) for name in companions(main)]
    with reaching(url) as (system, path):
        sources = {path: main} | {
            there: folder / name_of(there) for _, there in map(place_of, others) if system.isfile(there)
        }
        check_room(url, sum(map(system.size, sources)), folder)
        for there, here in sources.items():
            system.get_file(there, str(here))
    return main


def companions(main: Path) -> tuple[str, ...]:
    return (*SIDECARS, SCALES, f"{main.stem}_qmap.json", f"{main.stem}_map.json", f"{main.stem}_map.pt")


def check_room(url: str, size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise NoRoom(f"{url}: its copy needs {size} bytes and {free} are free in {folder.parent}; set TMPDIR to more.")


def send(files: Iterable[Path], folder: str) -> None:
    """Move files into a folder at a URL, in order: each is there under another name before it gets its own."""
    with reaching(folder) as (system, path):
        system.makedirs(path, exist_ok=True)
        for file in files:
            named = f"{path.rstrip('/')}/{part_name()}"
            try:
                system.put_file(str(file), named)
                if system.size(named) != file.stat().st_size:
                    raise OSError("less arrived than was sent")
                system.mv(named, f"{path.rstrip('/')}/{file.name}")
            finally:
                if system.exists(named):
                    system.rm_file(named)
            file.unlink()


def sweep(folder: str) -> None:
    """Remove what killed runs had not finished sending; for who has the folder alone."""
    with reaching(folder) as (system, path):
        for left in system.glob(f"{escape(path.rstrip('/'))}/{PART.format('*')}"):
            system.rm_file(left)


def check_target(url: str, named: bool) -> None:
    """Refused where a model is at a URL that was not written here and that nobody named."""
    if named or stamp(url) is None:
        return
    if header_at(url).metadata.get(MARK) != stem_of(Path(name_of(url))):
        raise Refused(f"{url}: another model is there that was not named; remove it, or give another folder.")


def part_name() -> str:
    return PART.format(secrets.token_hex(8))
