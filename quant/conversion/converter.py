"""A checkpoint of any dialect written in another format or precision, in pieces, on all cores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from ..checkpoint.read import Checkpoint, read_checkpoint
from ..checkpoint.sampling import evenly_spaced
from ..errors import Refused
from ..files.stored import Source
from ..files.targets import Target
from ..files.writer import Layout, Output, writing
from .decisions import check_accounted, check_format, planned
from .ownership import check_name, check_ownership
from .provenance import metadata_of
from .quantizing import Encode
from .readback import check_layers
from .request import Request
from .result import Conversion, TensorResult
from .shards import target_of
from .tasks import Cast, Pass, Task
from .values import format_of
from .workers import run_all

SAMPLED = 64  # layers that are read back


class Bar(Protocol):
    """What shows progress: told of bytes as they are done."""

    def update(self, n: int) -> object: ...


class Silent:
    def update(self, n: int) -> None:
        return None


@dataclass(frozen=True)
class Options:
    """How to convert. threads: None for all cores; check: "sample" or "all" is read back; shard_size: bytes.

    named: whether dst is the user's own choice, so that another model there is meant to be replaced.
    """

    threads: int | None = None
    check: str = "sample"
    shard_size: int | None = None
    named: bool = True
    bar: Callable[[int], AbstractContextManager[Bar]] = lambda total: nullcontext(Silent())


def convert(
    src: str | os.PathLike[str] | Source,
    dst: str | os.PathLike[str],
    request: Request | str,
    options: Options = Options(),
) -> Conversion:
    """Write src to dst in a format of FORMATS, as ComfyUI reads it, or in float32, float16 or bfloat16.

    dst appears whole, once it was read back, or not at all. Refused if src is, if dst is a file of src, or where a
    value does not fit.

    >>> converted = quant.convert(path, folder / "fp8.safetensors", "float8_e4m3fn")
    >>> list(quant.read_checkpoint(folder / "fp8.safetensors"))
    ['blocks.0.q']
    """
    start, dst = time.perf_counter(), Path(dst)
    found = plan(src, dst, Request(request) if isinstance(request, str) else request, options)
    source, target = found.ckpt.source, found.target
    check_ownership(source, dst, target, options.named)
    with writing(target.layouts, target.places) as output:
        run(found.tasks, output, options, source.total_bytes)
        checked = read_back(found.tasks, output, options, dst)
    return Conversion(
        source=source.name,
        files=tuple(str(path) for path in target.paths),
        verdict=found.ckpt.verdict.told(),
        parts=found.parts,
        rows=rows_of(found.ckpt, found.tasks),
        bytes_before=source.total_bytes,
        bytes_after=sum(layout.size for layout in target.layouts.values()),
        checked=checked,
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True)
class ConversionPlan:
    """What becomes of a checkpoint, told from its headers: tasks in the order of the source, and a line a part."""

    ckpt: Checkpoint
    tasks: list[Task]
    parts: tuple[str, ...]
    target: Target

    @property
    def layouts(self) -> list[Layout]:
        """Of the files that hold tensors: shards without their index."""
        return [layout for layout in self.target.layouts.values() if layout.places]

    @cached_property
    def shards(self) -> list[list[Task]]:
        """The tasks that write each of these."""
        return [[task for task in self.tasks if task.infos[0].name in layout.places] for layout in self.layouts]


def plan(src: str | os.PathLike[str] | Source, dst: Path, request: Request, options: Options) -> ConversionPlan:
    """What a conversion has to write, and where; nothing is written yet."""
    check_format(request)
    check_name(dst)
    ckpt = read_checkpoint(src, options.check)
    check_accounted(ckpt)
    tasks, parts = planned(ckpt, request)
    target = target_of(dst, tasks, options.shard_size, metadata_of(ckpt, tasks, request), not options.named)
    return ConversionPlan(ckpt, tasks, parts, target)


def rows_of(ckpt: Checkpoint, tasks: Iterable[Task]) -> tuple[TensorResult, ...]:
    """What became of each tensor, once it is written."""
    return tuple(row_of(ckpt, task) for task in tasks)


def row_of(ckpt: Checkpoint, task: Task) -> TensorResult:
    gain = task.gains[0] if isinstance(task, Encode) and task.gains else None
    return TensorResult(
        name=task.name,
        before=before(ckpt, task),
        after=task.after,
        reason=remark(task),
        quantized=not isinstance(task, Cast),
        gain=gain,
    )


def remark(task: Task) -> str:
    """A task's reason, and how many values were too small for what it writes."""
    lost = sum(task.vanished) if isinstance(task, Cast) else 0
    return f"{task.reason}; {lost} values were too small for {task.after} and are 0 now" if lost else task.reason


def run(tasks: list[Task], output: Output, options: Options, total: int) -> None:
    with options.bar(total) as bar:
        run_all(tasks, lambda task, step: task.write(output, step), lambda t: t.cost, bar.update, options.threads)


def before(ckpt: Checkpoint, task: Task) -> str:
    return task.values.before if isinstance(task, Cast | Encode) else format_of(ckpt, task.layer)  # type: ignore[attr-defined]


##### Before the result takes its place


def read_back(tasks: list[Task], output: Output, options: Options, dst: Path) -> int:
    """Compare what was written with the source, all or a sample of it; Refused where it is not the same."""
    result = check_layers(output, dst, [layer_of(task) for task in tasks if not isinstance(task, Cast)])
    everything = options.check == "all"
    chosen = tasks if everything else sampled(tasks)

    def look(task: Task, step: object) -> None:
        if found := task.problem(result, everything):
            raise Refused(f"{dst}: {task.name} was read back with {found}; nothing was left there, start again.")

    run_all(chosen, look, lambda task: task.cost * (2 if isinstance(task, Pass) else 1), len_of, options.threads)
    return len(chosen)


def layer_of(task: Task) -> str:
    return task.name.removesuffix("weight").removesuffix(".")


def len_of(count: int) -> None:
    return None


def sampled(tasks: list[Task]) -> list[Task]:
    """Many of those that are cheap to check, a few of those that are decoded whole."""
    cheap: list[Task] = [t for t in tasks if isinstance(t, Cast | Encode) and not t.values.whole]
    whole = sorted((t for t in tasks if t not in cheap), key=lambda t: t.cost)
    return evenly_spaced(cheap, SAMPLED) + evenly_spaced(whole, 4)
