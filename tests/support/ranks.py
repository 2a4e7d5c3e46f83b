"""A function on several processes with gloo, and what each of them returned."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(function: Callable[[], Any], count: int, folder: Path) -> list[Any]:
    """What function returns on each of count ranks of a gloo group, in their order; it must be importable by name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(one_rank, (function, count, port, folder), nprocs=count)
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def one_rank(rank: int, function: Callable[[], Any], count: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=count)
    torch.save(function(), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
