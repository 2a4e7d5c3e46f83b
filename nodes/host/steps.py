"""Steps of a sampling whose activations are not rounded: the same weights, dequantized, for the first and last few."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ...quant.errors import Refused
from ...quant.kernels.forward import high_precision

KEY = "scaled_fp8_steps"
PART = re.compile(r"(first|last) (\d{1,3})", re.IGNORECASE)


@dataclass(frozen=True)
class Steps:
    """How many of the first and of the last steps are meant."""

    first: int = 0
    last: int = 0

    def __str__(self) -> str:
        parts = (f"{kind} {count}" for kind, count in (("first", self.first), ("last", self.last)) if count)
        return ", ".join(parts)

    def holds(self, sigmas: Tensor, sigma: Tensor) -> bool:
        """Whether the step that begins at sigma is one of them; sigmas: of all steps, and the last one's end."""
        count = len(sigmas) - 1
        # a sampler may evaluate between two steps: that belongs to the earlier one
        at = int((sigmas[:-1].to(sigma) >= sigma.max() * (1 - 1e-5)).sum()) - 1
        return at < self.first or at >= count - self.last


def steps_of(text: str) -> Steps:
    """ "first 2, last 1" as steps; Refused for what is not understood."""
    found: dict[str, int] = {}
    for part in filter(None, (" ".join(part.split()) for part in text.split(","))):
        match = PART.fullmatch(part)
        if not match or match[1].lower() in found:
            raise Refused(f'high_precision_steps {text!r} is not understood; say for example "first 2, last 1".')
        found[match[1].lower()] = int(match[2])
    return Steps(**found)


def with_precise_steps(model: ModelPatcher, steps: Steps) -> ModelPatcher:
    """The clone given, with these steps in high precision; no steps leave none of an earlier node."""
    model.remove_wrappers_with_key(WrappersMP.CALC_COND_BATCH, KEY)
    if steps == Steps():
        return model

    # around all that a step computes, on however many devices and threads
    def step(
        executor: WrapperExecutor, base: Any, conds: Any, x: Tensor, sigma: Tensor, options: dict[str, Any]
    ) -> Any:
        sigmas = options.get("transformer_options", {}).get("sample_sigmas")
        with high_precision(sigmas is not None and steps.holds(sigmas, sigma)):
            return executor(base, conds, x, sigma, options)

    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, step)
    return model
