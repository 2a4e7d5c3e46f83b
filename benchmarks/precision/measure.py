"""What is measured on one subject: files in each format and for each budget, and the errors of their images."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file, save_file
from scaled_fp8.quant import Request, convert
from scaled_fp8.quant.calibration.candidates import KEEP, USUAL, factor_of
from scaled_fp8.quant.calibration.disturbance import DISTURBED_BY, fed, level
from scaled_fp8.quant.calibration.plan import Plan
from scaled_fp8.quant.calibration.planner import Model, PlanRequest, plan_model, weighed
from scaled_fp8.quant.calibration.store import Calibration, Facts, read_calibration, save_calibration
from scaled_fp8.quant.weights.formats import FORMATS

from .subjects import SENSED, Subject, metadata, weights_of

UNIFORM = ("nvfp4", "int4", "int4_convrot", "float8_e4m3fn", "int8", "mxfp8")
SEARCHED = ("nvfp4", "int4", "int4_convrot")
BITS = ("4.7", "5", "5.5", "6", "6.5", "7", "7.5", "8", "10")
TIMES = "times.json"


@dataclass
class Bench:
    """Files of one subject in a folder, made once. Errors are of images, relative to the bf16 model's."""

    subject: Subject
    folder: Path

    def file(self, name: str, make: Callable[[Path], object]) -> Path:
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            make(path)
        return path

    ##### Formats

    def nearest(self, format: str) -> Path:
        return self.file(f"nearest-{format}", self.conversion(Request(format, effort="fast")))

    def searched(self, format: str) -> Path:
        return self.file(f"searched-{format}", self.conversion(Request(format)))

    def fed(self, format: str) -> Path:
        return self.file(f"fed-{format}", self.conversion(Request(format, calibration=self.calibration)))

    def conversion(self, request: Request) -> Callable[[Path], object]:
        def make(path: Path) -> None:
            start = time.process_time()
            convert(self.subject.file, path, request)
            told = self.times | {path.name: time.process_time() - start}
            (self.folder / TIMES).write_text(json.dumps(told))

        return make

    @property
    def times(self) -> dict[str, float]:
        """File -> seconds of processor time that making it took."""
        told = self.folder / TIMES
        return json.loads(told.read_text()) if told.exists() else {}

    ##### What is known of the model

    @cached_property
    def layers(self) -> list[str]:
        return list(weights_of(self.nearest("int8")))

    @property
    def watched(self) -> Path:
        """What the subject's layers are fed."""
        return self.file("calibration", lambda path: self.subject.watch(path, self.layers))

    @cached_property
    def calibration(self) -> Calibration:
        return read_calibration(self.watched)

    @cached_property
    def measured(self) -> Calibration:
        """With what Measure Sensitivity finds, on noise neither calibrated on nor judged by: the factor of each layer
        from one run with that layer disturbed, and the level of each format from one with all layers in it.
        """
        path = self.folder / "sensitivity.safetensors"
        if not path.exists():
            files = {layer: self.disturbed(layer) for layer in self.layers} | {name: self.fed(name) for name in USUAL}
            found = self.subject.errors(files.values(), SENSED)
            lost = {name: found[file.name] for name, file in files.items()}
            factors = {layer: lost[layer] / self.local(layer) for layer in self.layers}
            records = {layer: replace(self.calibration[layer], factor=factors[layer]) for layer in self.layers}
            levels = {format: self.level(format, lost[format], factors) for format in USUAL}
            save_calibration(path, records, Facts(1, 1, levels))
        return read_calibration(path)

    def disturbed(self, layer: str) -> Path:
        return self.file(f"only-{layer}", lambda path: self.assembled(path, {layer: self.fed(DISTURBED_BY.name)}))

    def local(self, layer: str, format: str = DISTURBED_BY.name) -> float:
        """Relative error of the output of a layer in a format."""
        weight = load_file(self.subject.file)[f"{layer}.weight"].float()
        return fed(weight, self.calibration[layer].moments, layer, FORMATS[format])[1]

    def level(self, format: str, lost: float, factors: Mapping[str, float]) -> float:
        return level(lost, (factor * self.local(layer, format) for layer, factor in factors.items()))

    ##### Mixed files

    def assembled(self, path: Path, chosen: Mapping[str, Path]) -> None:
        """A file whose layers are those of other files, byte by byte, and of the original where none is named."""
        tensors, described = load_file(self.subject.file), {}
        for layer, source in chosen.items():
            del tensors[f"{layer}.weight"]
            stored = load_file(source)
            tensors |= {key: tensor for key, tensor in stored.items() if key.startswith(f"{layer}.")}
            described[layer] = json.loads(metadata(source)["_quantization_metadata"])["layers"][layer]
        header = {"format_version": "1.0", "layers": described}
        save_file(tensors, path, metadata(self.subject.file) | {"_quantization_metadata": json.dumps(header)})

    @cached_property
    def model(self) -> Model:
        """What each format would make of each layer, by moments alone."""
        return weighed(self.subject.file, self.request("6"), self.watched)

    def request(self, bits: str) -> PlanRequest:
        return PlanRequest(f"{bits} bits", USUAL)

    def plan(self, bits: str) -> Plan:
        return plan_model(self.model, self.request(bits))

    def planned(self, bits: str) -> Path:
        """What ``convert --plan --calibration`` writes, put together of the uniform files' layers."""
        rows = [row for row in self.plan(bits).rows if row.format != KEEP]
        return self.file(
            f"budget-{bits}", lambda path: self.assembled(path, {row.layer: self.fed(row.format) for row in rows})
        )

    def predicted(self, bits: str, factors: bool) -> float:
        """Error of the image that a plan tells; with the priors' factors or the measured ones."""
        model = self.with_factors if factors else self.model
        by_name = {layer.name: layer for layer in model.candidates}
        return sum(by_name[row.layer].cost(row.format) for row in self.plan(bits).rows) ** 0.5

    @cached_property
    def with_factors(self) -> Model:
        known = self.measured
        layers = [
            replace(layer, factor=factor_of(layer.name, known[layer.name]), levels=known.facts.levels)
            for layer in self.model.candidates
        ]
        return replace(self.model, candidates=tuple(layers))

    ##### Others' ways

    def first_and_last(self) -> tuple[Path, float]:
        """The first and the last block in INT8, the rest in NVFP4, both calibrated; and its bits a weight."""
        blocks = list(dict.fromkeys(block_of(layer) for layer in self.layers))
        outer = {blocks[0], blocks[-1]}
        formats = {layer: "int8" if block_of(layer) in outer else "nvfp4" for layer in self.layers}
        chosen = {layer: self.fed(format) for layer, format in formats.items()}
        size = sum(layer.options[formats[layer.name]].bytes for layer in self.model.candidates)
        return self.file("first-and-last", lambda path: self.assembled(path, chosen)), size * 8 / self.model.weights

    def learned(self, *options: str) -> tuple[Path, float]:
        """convert_to_quant's learned rounding of the same layers, and its seconds of processor time."""
        path = self.folder / f"learned-{'-'.join(options).replace('--', '') or 'fp8'}.safetensors"
        told = path.with_suffix(".seconds")
        if not path.exists():
            others = "^(?!.*(" + "|".join(layer.replace(".", r"\.") for layer in self.layers) + r")\.weight$).*$"
            command = [sys.executable, "-m", "convert_to_quant.convert_to_quant", "-i", str(self.subject.file)]
            command += ["-o", str(path), "--comfy_quant", "--device", "cpu", "--manual_seed", "0", *options]
            start = children()
            subprocess.run([*command, "--exclude-layers", others], check=True, capture_output=True)
            told.write_text(str(children() - start))
            # what ComfyUI reads of a model beside its weights, which is no part of the comparison
            save_file(load_file(path), path, metadata(self.subject.file) | metadata(path))
        return path, float(told.read_text())


def block_of(layer: str) -> str:
    """double_blocks.0.img_attn.qkv -> double_blocks.0"""
    return ".".join(layer.split(".")[:2])


def children() -> float:
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
