"""A function on several processes with gloo, and what each of them returned."""

from __future__ import annotations

import faulthandler
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(function: Callable[[], Any], count: int, folder: Path) -> list[Any]:
    """What function returns on each of count ranks of a gloo group, in their order; it must be importable by name.

    A rank that a signal ends did not fail an assertion: native code aborted. All ranks run once more then, and a
    warning says where each of them stood.
    """
    try:
        return attempt(function, count, folder / "first")
    except mp.ProcessExitedException as error:
        warnings.warn(f"{error}; once more. {last_words(folder / 'first')}", RuntimeWarning, stacklevel=2)
    return attempt(function, count, folder / "second")


def attempt(function: Callable[[], Any], count: int, folder: Path) -> list[Any]:
    folder.mkdir()
    mp.spawn(one_rank, (function, count, folder), nprocs=count)
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def one_rank(rank: int, function: Callable[[], Any], count: int, folder: Path) -> None:
    with (folder / f"{rank}.stderr").open("w") as words:
        os.dup2(words.fileno(), 2)
    faulthandler.enable()
    torch.set_num_threads(1)
    # they meet in a file: a port that was free may be taken by the time that a rank listens on it
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    torch.save(function(), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def last_words(folder: Path) -> str:
    return "\n".join(f"{path.stem}: {path.read_text()[-2000:]}" for path in sorted(folder.glob("*.stderr")))
