"""Layers of a conversion that are rounded with error feedback, and those that a plan decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from zlib import crc32

import torch
from torch import Tensor

from ..calibration.candidates import KEEP
from ..calibration.plan import Plan, PlanRow
from ..calibration.rounding import calibrated, takes_input_scale, without_data
from ..calibration.store import Calibration
from ..checkpoint.read import Checkpoint
from ..errors import Refused
from ..files.writer import Output
from ..names import without_prefixes
from ..recipes.policy import Policy
from ..text import few
from ..weights.formats import FORMATS
from ..weights.job import search_for
from ..weights.native import native_tensors
from ..weights.weight import QuantizedWeight
from .quantizing import Encode
from .tasks import Cast, Step, Task
from .values import Values

HELD = 24  # bytes for each weight while it is rounded: the values, what is left of them, scales and codes


@dataclass(frozen=True)
class Whole(Encode):
    """Values rounded whole, with error feedback. sums: of what was written, for reading it back."""

    sums: dict[str, int] = field(default_factory=dict, compare=False)

    @property
    def cost(self) -> int:
        return self.values.info.numel * HELD

    def rounded(self, weight: Tensor) -> QuantizedWeight:
        """Weight ``[out, in]`` by itself."""
        self.try_search(weight)
        return without_data(weight, self.format, self.granularity, self.name, self.search)

    def write(self, output: Output, step: Step) -> None:
        tensors = native_tensors(self.rounded(self.values.tensor().reshape(self.values.matrix)), self.prefix)
        for info in self.infos:
            output.put(info.name, tensors[info.name].reshape(info.shape))
            self.sums[info.name] = sum_of(tensors[info.name])
        step(self.values.read_bytes)

    def problem(self, result: Checkpoint, everything: bool) -> str:
        """By the sums: codes with error feedback are not the nearest."""
        wrong = [name for name, wanted in self.sums.items() if sum_of(result.source.tensor(name)) != wanted]
        return f"other bytes in {few(wrong, 3)} than were written" if wrong else ""


@dataclass(frozen=True)
class Calibrate(Whole):
    """Values rounded with what is known of their inputs."""

    calibration: Calibration = field(kw_only=True)

    @cached_property
    def shell(self) -> QuantizedWeight:
        static = torch.empty((), device="meta") if takes_input_scale(self.format) else None
        return replace(super().shell, input_scale=static)

    def rounded(self, weight: Tensor) -> QuantizedWeight:
        layer = self.name.removesuffix(".weight")
        record = self.calibration.of(layer, weight)
        assert record is not None, layer
        return calibrated(weight, self.format, self.granularity, record.moments, layer).weight


def sum_of(tensor: Tensor) -> int:
    return crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def encoding(values: Values, policy: Policy, reason: str, effort: str, calibration: Calibration | None) -> Encode:
    """How a layer is quantized: with what is known of its inputs, where that is something."""
    if calibration is not None and values.name.removesuffix(".weight") in calibration:
        return Calibrate(values, policy, f"{reason}, calibrated", effort, calibration=calibration)
    whole = policy.format.feeds_itself and search_for(effort) is not None
    return (Whole if whole else Encode)(values, policy, reason, effort)


##### By a plan


def carried_out(
    ckpt: Checkpoint, plan: Plan, component: str, encode: Callable[[Values, Policy, str], Task]
) -> list[Task]:
    """A conversion by a plan: the task of each tensor; Refused where the plan is of another model."""
    known = {without_prefixes(name.removesuffix(".weight")) for name in ckpt.tensors}
    if lost := [row.layer for row in plan.rows if row.layer not in known]:
        raise Refused(f"The plan names layers that {ckpt.source.name} has not: {few(lost, 3)}; plan for this model.")
    rows = {name: plan.row(name.removesuffix(".weight")) for name in ckpt.tensors}
    return [decided(Values(ckpt, name), row, component, encode) for name, row in rows.items()]


def decided(values: Values, row: PlanRow | None, component: str, encode: Callable[[Values, Policy, str], Task]) -> Task:
    """A tensor's task by its row of the plan; left as it is where it has none."""
    if row is None or not values.name.endswith("weight"):
        return Cast(values, None, "")
    if row.format == KEEP:
        return Cast(values, None, "planned: as it is")
    format = FORMATS[row.format]
    policy = Policy(format, format.granularity(row.granularity or None), component)
    if problem := policy.unfit(values.info.shape):
        raise Refused(f"The plan asks for {row.format} of {row.layer}, which cannot be: {problem}.")
    return encode(values, policy, f"planned: {row.why}")
