"""A checkpoint of any dialect written in another format or precision, in pieces, on all cores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from ..calibration.plan import Plan
from ..checkpoint.keys import ROLES, SUFFIXES, split
from ..checkpoint.metadata import quantization_config
from ..checkpoint.read import Checkpoint, read_checkpoint
from ..checkpoint.sampling import evenly_spaced
from ..checkpoint.survey import survey
from ..errors import Refused, one_of
from ..files.reader import read_safetensors
from ..files.sets import MARK
from ..files.sidecars import read_scales, read_sidecars
from ..files.stored import Source, Stored
from ..files.writer import Output, writing
from ..recipes.ignored import ignored_by
from ..recipes.policy import Policy
from ..text import few
from ..weights.formats import FORMATS
from ..weights.job import search_for
from .calibrating import carried_out, encoding
from .ownership import check_ownership
from .parts import Scopes, find_scopes
from .quantizing import Encode
from .request import Request
from .result import Conversion, TensorResult
from .shards import target_of
from .tasks import Cast, Pass, Task, Values, format_of
from .workers import run_all

# what a file can be converted to without quantizing it
HIGH_PRECISION: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
QUANTIZABLE = ("F64", "F32", "F16", "BF16")
# header keys that describe what the result is not
DROPPED_KEYS = ("tensor_names", "weight_qmax", "comfy_config", "scaled_fp8", MARK)
SAMPLED = 64  # layers that are read back


# roles of companions that change what their weight means
MEANING = {role.name for role in ROLES} - {"weight", "bias", "marker"}


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
    ckpt = read_checkpoint(src, options.check)
    check_accounted(ckpt)
    tasks, lines = planned(ckpt, request)
    target = target_of(Path(dst), tasks, options.shard_size, plain_metadata(ckpt, tasks), not options.named)
    check_ownership(ckpt.source, Path(dst), target, options.named)
    with writing(target.layouts, target.places) as output:
        run(tasks, output, options, ckpt.source.total_bytes)
        checked = read_back(tasks, output, options, Path(dst))
    return Conversion(
        source=ckpt.source.name,
        files=tuple(str(path) for path in target.paths),
        verdict=ckpt.verdict.sentence(),
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
    return TensorResult(task.name, before(ckpt, task), task.after, told(task), not isinstance(task, Cast), gain)


def told(task: Task) -> str:
    """A task's reason, and how many values were too small for what it writes."""
    lost = sum(task.vanished) if isinstance(task, Cast) else 0
    return f"{task.reason}; {lost} values were too small for {task.after} and are 0 now" if lost else task.reason


def check_format(request: Request) -> None:
    if request.format is not None:
        one_of("format", request.format, (*FORMATS, *HIGH_PRECISION))
    search_for(request.effort)


def run(tasks: list[Task], output: Output, options: Options, total: int) -> None:
    with options.bar(total) as bar:
        run_all(tasks, lambda task, step: task.write(output, step), lambda t: t.cost, bar.update, options.threads)


def before(ckpt: Checkpoint, task: Task) -> str:
    return task.values.before if isinstance(task, Cast | Encode) else format_of(ckpt, task.layer)  # type: ignore[attr-defined]


##### What becomes of each tensor


def planned(ckpt: Checkpoint, request: Request) -> tuple[list[Task], tuple[str, ...]]:
    """The work, in the order of the source, and a line for each part of the checkpoint."""
    if request.format in HIGH_PRECISION:
        dtype = HIGH_PRECISION[request.format or ""]
        layers: list[Task] = [Cast(values_of(ckpt, name), dtype, "dequantized") for name in ckpt]
        rest = [plain(ckpt, name, dtype) for name in ckpt.tensors]
        return layers + rest, (f"every floating tensor: {request.format}",)
    if request.calibration:
        request.calibration.check(name.removesuffix(".weight") for name in (*ckpt, *ckpt.tensors))
    if request.plan:
        return by_plan(ckpt, request.plan, request)
    request = replace(request, ignored=(*request.ignored, *ignored_by(quantization_config(ckpt.source))))
    scopes = find_scopes([*map(ckpt.weight_key, ckpt), *ckpt.tensors], request)
    tasks = [quantized(ckpt, name, scopes, request) for name in ckpt]
    fixed = with_companions(ckpt.tensors)
    tasks += [beside(ckpt, n) if n in fixed else other(ckpt, n, scopes, request) for n in ckpt.tensors]
    return tasks, tuple(scope.line() for scope in scopes.found.values())


def check_accounted(ckpt: Checkpoint) -> None:
    """Refused where a tensor of the source would be neither in a layer of the result nor in it as it is."""
    if ckpt.unaccounted:
        raise Refused(
            f"{ckpt.source.name}: {few(ckpt.unaccounted, 3)} would be lost: another tensor goes by that name."
        )


def with_companions(names: Iterable[str]) -> set[str]:
    """Weights beside which tensors lie that say what they mean, so that they cannot become others."""
    parts = (split(name) for name in names)
    return {f"{module}.weight" if module else "weight" for module, suffix in parts if says_more(suffix)}


def says_more(suffix: str) -> bool:
    """Whether a tensor of this suffix changes what ``.weight`` beside it means, or is another weight."""
    role = SUFFIXES.get(suffix)
    return role in MEANING or (role == "weight" and suffix != ".weight")


def values_of(ckpt: Checkpoint, layer: str) -> Values:
    return Values(ckpt, ckpt.weight_key(layer), layer)


def plain(ckpt: Checkpoint, name: str, dtype: torch.dtype) -> Cast:
    floating = ckpt.tensors.info(name).dtype in FLOATING
    return Cast(Values(ckpt, name), dtype if floating else None, "cast" if floating else "not floating")


def quantized(ckpt: Checkpoint, layer: str, scopes: Scopes, request: Request) -> Task:
    """A layer that is quantized already: left alone, unless that is asked for."""
    key, spec = ckpt.weight_key(layer), ckpt.spec(layer)
    if request.requantize:
        decision = scopes.of(key).decide(layer, spec.full_shape)
        policy = scopes.of(key).policy
        if decision.quantize and policy:
            return encoded(values_of(ckpt, layer), policy, f"requantized: {decision.reason}", request)
        return Cast(values_of(ckpt, layer), torch.bfloat16, decision.reason)
    if not key.endswith("weight"):
        return Cast(values_of(ckpt, layer), torch.bfloat16, "a parameter without a layer: dequantized")
    already = format_of(ckpt, layer)
    return Pass(ckpt, layer, f"already {already}: left as it is")


def beside(ckpt: Checkpoint, name: str) -> Cast:
    return Cast(Values(ckpt, name), None, "kept: tensors beside it say more of its meaning than is known here")


def other(ckpt: Checkpoint, name: str, scopes: Scopes, request: Request) -> Task:
    values = Values(ckpt, name)
    if not name.endswith("weight") or values.info.dtype not in QUANTIZABLE or len(values.info.shape) < 2:
        return Cast(values, None, "")
    scope = scopes.of(name)
    decision = scope.decide(name.removesuffix(".weight"), values.info.shape)
    if decision.quantize and scope.policy:
        return encoded(values, scope.policy, decision.reason, request)
    return Cast(values, None, decision.reason)


def encoded(values: Values, policy: Policy, reason: str, request: Request) -> Encode:
    return encoding(values, policy, reason, request.effort, request.calibration)


def by_plan(ckpt: Checkpoint, plan: Plan, request: Request) -> tuple[list[Task], tuple[str, ...]]:
    """What a plan says, for the layers that are not quantized yet."""
    encode = partial(encoded, request=request)
    tasks: list[Task] = [Pass(ckpt, name, "quantized already: left as it is") for name in ckpt]
    tasks += carried_out(ckpt, plan, request.component or "transformer", encode)
    return tasks, tuple(plan.totals())


##### Before the result takes its place


def read_back(tasks: list[Task], output: Output, options: Options, dst: Path) -> int:
    """Compare what was written with the source, all or a sample of it; Refused where it is not the same."""
    stored: dict[str, Stored] = {}
    for slot in output.slots:
        if slot.layout.places:
            stored |= read_safetensors(slot.path).tensors
    result = Checkpoint(survey(with_neighbours(stored, dst)))
    if not result.verdict.accepted:
        reason = result.verdict.reasons[0]
        raise Refused(f"{dst}: nothing was left there: a reader would refuse it ({reason}); keep such layers.")
    lost = [task.name for task in tasks if not isinstance(task, Cast) and layer_of(task) not in result]
    if lost:
        raise Refused(f"{dst}: {few(lost, 3)} would not be read as quantized again; keep them. Nothing was left there.")
    everything = options.check == "all"
    chosen = tasks if everything else sampled(tasks)

    def look(task: Task, step: object) -> None:
        if found := task.problem(result, everything):
            raise Refused(f"{dst}: {task.name} was read back with {found}; nothing was left there, start again.")

    run_all(chosen, look, lambda task: task.cost * (2 if isinstance(task, Pass) else 1), len_of, options.threads)
    return len(chosen)


def layer_of(task: Task) -> str:
    return task.name.removesuffix("weight").removesuffix(".")


def with_neighbours(stored: dict[str, Stored], dst: Path) -> Source:
    """What was written as a reader will find it, beside the files that lie there."""
    scales = read_scales(dst, stored)
    return Source({**stored, **scales}, sidecars=read_sidecars(dst), name=str(dst))


def len_of(count: int) -> None:
    return None


def sampled(tasks: list[Task]) -> list[Task]:
    """Many of those that are cheap to check, a few of those that are decoded whole."""
    cheap: list[Task] = [t for t in tasks if isinstance(t, Cast | Encode) and not t.values.whole]
    whole = sorted((t for t in tasks if t not in cheap), key=lambda t: t.cost)
    return evenly_spaced(cheap, SAMPLED) + evenly_spaced(whole, 4)


##### Metadata, and files


def plain_metadata(ckpt: Checkpoint, tasks: Iterable[Task]) -> dict[str, str]:
    """The source's metadata without what describes its quantization."""
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
