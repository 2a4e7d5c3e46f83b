"""What precision costs a picture: ``python -m benchmarks.precision [--images 40] [--budgets 7,6,5]``.

On the demo's model, a really trained diffusion transformer with LTX's layer names that needs no ComfyUI: the Linears of
its blocks rounded each way, images against bf16's; calibrated on one seed, measured on another. Weights only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load_file
from scaled_fp8.quant.calibration.candidates import USUAL, candidate, formats_of
from scaled_fp8.quant.calibration.moments import Moments
from scaled_fp8.quant.calibration.planner import Model, Wish, plan_model
from scaled_fp8.quant.calibration.rounding import calibrated
from scaled_fp8.quant.calibration.store import Record, sample_of
from scaled_fp8.quant.calibration.watching import Watch
from scaled_fp8.quant.demo.model import CLASSES, SIDE, sample
from scaled_fp8.quant.demo.run import ORIGINAL, block_linears, load_model
from scaled_fp8.quant.recipes.policy import Policy
from scaled_fp8.quant.text import text_table
from scaled_fp8.quant.weights.encode import quantize
from scaled_fp8.quant.weights.formats import FORMATS
from scaled_fp8.quant.weights.job import Search
from torch import Tensor, nn

SEEN, JUDGED = 100, 7  # seeds
STEPS = 16
UNIFORM = (*USUAL, "int4_convrot", "mxfp8")
COLUMNS = ("weights", "to nearest", "scales searched", "calibrated")
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Bench:
    """A model in float32, and how many images are drawn of it."""

    model: nn.Module
    images: int

    @property
    def linears(self) -> dict[str, nn.Linear]:
        return block_linears(self.model)

    def draw(self, seed: int) -> Tensor:
        asked = torch.arange(self.images) % CLASSES
        noise = torch.randn(self.images, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        return sample(self.model, noise, asked, STEPS)

    def error(self, weights: Weights, seed: int = JUDGED) -> float:
        """Relative error of the images with these weights."""
        want = self.draw(seed)
        with self.having(weights):
            return float((self.draw(seed) - want).norm() / want.norm())

    @contextmanager
    def having(self, weights: Weights) -> Iterator[None]:
        before = {name: self.linears[name].weight.data for name in weights}
        try:
            for name, weight in weights.items():
                self.linears[name].weight.data = weight
            yield
        finally:
            for name, weight in before.items():
                self.linears[name].weight.data = weight

    def records(self) -> dict[str, Record]:
        """Moments, and the factor of each layer from one disturbed run."""
        watch = Watch({name: linear.in_features for name, linear in self.linears.items()})
        with watch.listening(self.linears):
            self.draw(SEEN)
        return {name: self.record(name, moments) for name, moments in watch.moments.items()}

    def record(self, name: str, moments: Moments) -> Record:
        weight = self.linears[name].weight.data
        disturbed = quantize(weight, FORMATS["nvfp4"]).dequantize()
        local = (moments.energy(disturbed - weight) / moments.energy(weight)) ** 0.5
        factor = self.error({name: disturbed}, SEEN) / local
        return Record((weight.shape[0], weight.shape[1]), sample_of(weight), moments, factor)


def uniform(bench: Bench, records: Mapping[str, Record]) -> Iterator[list[str]]:
    for name in UNIFORM:
        format = FORMATS[name]
        granularity = format.granularities[0]

        def fed(layer: str, weight: Tensor, format=format, granularity=granularity) -> Tensor:
            return calibrated(weight, format, granularity, records[layer].moments).weight.dequantize()

        ways: tuple[Callable[[str, Tensor], Tensor], ...] = (
            lambda layer, weight, format=format: quantize(weight, format).dequantize(),
            lambda layer, weight, format=format: quantize(weight, format, search=Search()).dequantize(),
            fed,
        )
        weights = {layer: linear.weight.data for layer, linear in bench.linears.items()}
        errors = [bench.error({layer: way(layer, weight) for layer, weight in weights.items()}) for way in ways]
        yield [name, *(f"{error:.4f}" for error in errors)]


def budgets(bench: Bench, records: Mapping[str, Record], bits: list[str]) -> Iterator[list[str]]:
    """Predicted beside measured, with the factors measured and with the priors."""
    policies = [Policy(format, format.granularities[0]) for format in formats_of(USUAL)]
    for factors in ("measured", "priors"):
        kept = {} if factors == "measured" else {"factor": None}
        known = {name: replace(record, **kept) for name, record in records.items()}
        layers = [
            candidate(name, linear.weight.data.bfloat16(), policies, known[name])
            for name, linear in bench.linears.items()
        ]
        for budget in bits:
            plan = plan_model(Model("the demo's model", tuple(layers), 0), Wish(f"{budget} bits"))
            weights = {}
            for row in plan.rows:
                if row.format in FORMATS:
                    weight, format = bench.linears[row.layer].weight.data, FORMATS[row.format]
                    found = calibrated(weight, format, format.granularities[0], records[row.layer].moments)
                    weights[row.layer] = found.weight.dequantize()
            chosen = ", ".join(f"{count} {name}" for name, count in plan.formats.items())
            yield [factors, budget, f"{plan.bits:.2f}", f"{plan.error:.4f}", f"{bench.error(weights):.4f}", chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--budgets", default="10,8,7,6.5,6,5.5,5", help="bits a weight, by commas")
    arguments = parser.parse_args()
    with torch.no_grad():
        bench = Bench(load_model(load_file(ORIGINAL)).float(), arguments.images)
        records = bench.records()
        sys.stdout.write(text_table(COLUMNS, list(uniform(bench, records))) + "\n\n")
        found = list(budgets(bench, records, arguments.budgets.split(",")))
    columns = ("factors", "budget", "bits", "predicted", "measured", "layers")
    sys.stdout.write(text_table(columns, found) + "\n")


if __name__ == "__main__":
    main()
