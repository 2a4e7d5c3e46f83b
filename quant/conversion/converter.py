"""A checkpoint of any dialect written in another format or precision, in pieces, on all cores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..checkpoint.read import Checkpoint, read_checkpoint
from ..checkpoint.sampling import evenly_spaced
from ..errors import Refused
from ..files.sets import MARK
from ..files.stored import Source
from ..files.writer import Output, writing
from .decisions import check_accounted, check_format, planned
from .ownership import check_name, check_ownership
from .provenance import card_of
from .quantizing import Encode
from .readback import check_layers
from .request import Request
from .result import Conversion, TensorResult
from .shards import target_of
from .tasks import Cast, Pass, Task, format_of
from .workers import run_all

# header keys that describe what the result is not
DROPPED_KEYS = ("tensor_names", "weight_qmax", "comfy_config", "scaled_fp8", MARK)
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
    start = time.perf_counter()
    request = Request(request) if isinstance(request, str) else request
    check_format(request)
    check_name(Path(dst))
    ckpt = read_checkpoint(src, options.check)
    check_accounted(ckpt)
    tasks, lines = planned(ckpt, request)
    target = target_of(Path(dst), tasks, options.shard_size, metadata_of(ckpt, tasks, request), not options.named)
    check_ownership(ckpt.source, Path(dst), target, options.named)
    with writing(target.layouts, target.places) as output:
        run(tasks, output, options, ckpt.source.total_bytes)
        checked = read_back(tasks, output, options, Path(dst))
    return Conversion(
        source=ckpt.source.name,
        files=tuple(str(path) for path in target.paths),
        verdict=ckpt.verdict.told(),
        parts=lines,
        rows=rows_of(ckpt, tasks),
        bytes_before=ckpt.source.total_bytes,
        bytes_after=sum(layout.size for layout in target.layouts.values()),
        checked=checked,
        seconds=time.perf_counter() - start,
    )


def rows_of(ckpt: Checkpoint, tasks: Iterable[Task]) -> tuple[TensorResult, ...]:
    """What became of each tensor, once it is written."""
    return tuple(row_of(ckpt, task) for task in tasks)


def row_of(ckpt: Checkpoint, task: Task) -> TensorResult:
    gain = task.gains[0] if isinstance(task, Encode) and task.gains else None
    return TensorResult(task.name, before(ckpt, task), task.after, remark(task), not isinstance(task, Cast), gain)


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


##### Metadata, and files


def metadata_of(ckpt: Checkpoint, tasks: Sequence[Task], request: Request) -> dict[str, str]:
    """What the result's header holds beside its tensors: what the source's says, and how it was made."""
    return plain_metadata(ckpt, tasks) | card_of(ckpt, tasks, request)


def plain_metadata(ckpt: Checkpoint, tasks: Iterable[Task]) -> dict[str, str]:
    """The source's metadata that goes into the result: all but what describes its quantization."""
    infos = {info.name for task in tasks for info in task.infos}
    names = infos | {name.removesuffix(".weight") for name in infos}
    return {
        key: value
        for key, value in ckpt.source.metadata.items()
        if "quant" not in key.lower() and key not in DROPPED_KEYS and key not in names and not has_type(value)
    }


def has_type(value: str) -> bool:
    """Whether this is torchao's description of a tensor."""
    return value.startswith("{") and '"_type"' in value
