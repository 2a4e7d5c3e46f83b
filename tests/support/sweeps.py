"""Sweeps through ComfyUI's own models, each in several dialects: which are asked for, and what is wrong with a case."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

WISH = os.environ.get("SCALED_FP8_FAMILIES", "")
# bf16 rounds a weight by at most 2^-9 of itself
WEIGHT = 0.004


@dataclass(frozen=True)
class Bound:
    """How far what a model makes of rounded weights may be off, relative. output: what that is."""

    output: str
    limit: float

    def wrong(self, case: dict) -> str:
        """What is wrong with a case, "" for nothing; a NaN is."""
        if "refused" in case:
            return case["refused"]
        if not case["weights"] <= WEIGHT:
            return f"{case['where']} is off by {case['weights']:.3g}"
        if not case.get("error", 0) <= self.limit:
            return f"the {self.output} is off by {case['error']:.3g}"
        known = case.get("settings", True)
        return "; ".join(case["log"] if known else (*case["log"], "core knows it as another kind of model"))

    def summary(self, figures: dict[str, dict[str, dict]]) -> str:
        cases = [case for found in figures.values() for case in found.values()]
        ways, right = {way for found in figures.values() for way in found}, sum(not self.wrong(case) for case in cases)
        return f"{len(figures)} in {len(ways)} ways: {right} of {len(cases)} right"


def asked(known: Iterable[str], usual: tuple[str, ...]) -> tuple[str, ...]:
    """The models of SCALED_FP8_FAMILIES: "all", or some of the known names with commas; the usual ones without."""
    every = tuple(known)
    return every if WISH == "all" else tuple(name for name in every if name in WISH.split(",")) or usual
