"""compiled.c as a library of this process: built once where gcc is at hand, in a folder that nobody else may write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from ctypes import CDLL
from functools import cache
from hashlib import sha256
from pathlib import Path
from stat import S_ISVTX
from tempfile import TemporaryDirectory

import torch

from ..errors import first_line
from .moment import in_forward
from .proof_cache import cache_file, installed

SOURCE = Path(__file__).with_name("compiled.c")
FLAGS = ("-std=gnu11", "-O3", "-fopenmp", "-shared", "-fPIC")
# what torch found that the processor has -> what gcc may use of it: a library outlives the machine that it was built on
FEATURES = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
}
LONGEST = 60  # seconds
OTHERS_WRITE = 0o022


def compiler_refuses() -> str | None:
    """Why there is no library, as a clause, or None. Builds it, but not in the middle of a forward."""
    if in_forward() and not library.cache_info().currsize:
        return "is built while a model loads, not in a forward"
    found = library()
    return found if isinstance(found, str) else None


@cache
def library() -> CDLL | str:
    """compiled.c as a library, or why there is none."""
    if sys.platform != "linux":
        return f"is built on Linux alone, not on {sys.platform}"
    compiler = shutil.which("gcc")
    if compiler is None:
        return "needs gcc, which is not installed"
    folder = cache_file()
    if folder and private(folder.parent):
        return loaded(compiler, folder.parent)
    with TemporaryDirectory() as fresh:
        return loaded(compiler, Path(fresh))


def private(folder: Path) -> bool:
    """Whether nobody else can write into the folder of compiled kernels, or exchange it; made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        return sealed(folder) and all(sealed(parent, S_ISVTX) for parent in folder.parents)
    except OSError:
        return False


def sealed(path: Path, unless: int = 0) -> bool:
    """Whether this user or the system owns path and others may not write there; unless: what makes that harmless."""
    status = path.stat()
    return status.st_uid in (0, os.getuid()) and (not status.st_mode & OTHERS_WRITE or bool(status.st_mode & unless))


def loaded(compiler: str, folder: Path) -> CDLL | str:
    """The library from folder, built where it is not there yet."""
    path = folder / f"{name_of(features())}.so"
    try:
        if not (path.exists() and sealed(path)):
            build(compiler, path)
        return CDLL(str(path))
    except subprocess.CalledProcessError as problem:
        return f"cannot be built: {(problem.stderr.strip().splitlines() or ['gcc failed'])[0][:160]}"
    except (OSError, subprocess.SubprocessError) as problem:
        with suppress(OSError):
            path.unlink()
        return f"cannot be built: {first_line(problem)}"


def build(compiler: str, path: Path) -> None:
    """Compile the kernels, under another name first, so that nobody loads half of them."""
    with TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, *FLAGS, *features(), str(SOURCE), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=LONGEST)
        made.chmod(0o700)  # whatever this process gives to others, no code
        os.replace(made, path)


def features() -> tuple[str, ...]:
    return FEATURES.get(torch.backends.cpu.get_cpu_capability(), ())


def name_of(features: tuple[str, ...]) -> str:
    """Another one for another source, compiler or processor."""
    told = " ".join((installed("gcc"), *FLAGS, *features))
    return f"compiled-{sha256(SOURCE.read_bytes() + told.encode()).hexdigest()[:16]}"
