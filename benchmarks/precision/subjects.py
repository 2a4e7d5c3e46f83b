"""The models that precision is measured on: what they are, how they draw, what their layers are fed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scaled_fp8.quant import read_checkpoint
from scaled_fp8.quant.calibration.disturbance import LATE, Shares, fed, image_error
from scaled_fp8.quant.calibration.moments import Moments
from scaled_fp8.quant.calibration.store import Facts, Record, sample_of, save_calibration
from scaled_fp8.quant.calibration.watching import Watch
from scaled_fp8.quant.demo.model import CLASSES, SIDE, sample
from scaled_fp8.quant.demo.run import ORIGINAL, block_linears, load_model
from torch import Tensor, nn

from ..comfyui import ROOT, make_base, run

# seeds: of what is calibrated on, of the sampling behind it, of layers one by one, of what is measured
SEEN, UNSEEN, SENSED, JUDGED = 100, 150, 200, 7
DATA = ROOT / "tests" / "data"
LONGEST = 7200.0
DIGITS = "0123456789012345"
CONDITIONINGS = 2  # the demo draws with guidance: each image twice in a batch

IN_COMFYUI = "in ComfyUI on the CPU, latents of 16 images of 4 steps, calibrated on 48 others"


@dataclass
class Digits:
    """The FLUX.2 of the tests in a real ComfyUI, by core's KSampler on the CPU."""

    folder: Path
    name: str = "digits-flux2"
    about: str = f"the tests' FLUX.2 {IN_COMFYUI}"
    conditioning: str = "digits-conditioning"
    latent: tuple[int, ...] = (128, 4, 4)
    file: Path = field(init=False)

    def __post_init__(self) -> None:
        base = self.folder / "base"
        if not base.exists():
            make_base(base)
        self.models = base / "models" / "diffusion_models"
        self.file = self.models / f"{self.name}-bf16.safetensors"
        shutil.copy(DATA / self.file.name, self.file)

    def watch(self, path: Path, layers: list[str]) -> None:
        """Calibrate on other noise than is judged by."""
        more = {"work": "watch", "out": str(path), "layers": layers, "digits": 3 * DIGITS}
        self.ask("watch", self.request(SEEN) | more)

    def errors(self, files: Iterable[Path], seed: int = JUDGED) -> dict[str, float]:
        """File name -> relative error of its images; what an earlier run found is not measured again."""
        work = f"errors-{seed}"
        known = self.known(work)
        if left := [path for path in files if path.name not in known]:
            for path in left:
                self.dequantize(path)
            known |= self.ask(work, self.request(seed) | {"work": "errors", "files": [path.name for path in left]})
            (self.folder / f"{work}.found").write_text(json.dumps(known))
        return known

    def dequantize(self, path: Path) -> None:
        """A file as plain numbers where ComfyUI finds it: its own INT8 and INT4 layers round the activations too."""
        tensors = load_file(self.file)
        tensors |= {f"{layer}.weight": weight for layer, weight in weights_of(path).items()}
        save_file(tensors, self.models / path.name, metadata(self.file))

    def saved(self, ways: Mapping[str, Mapping[str, str]], calibration: Path) -> dict[str, dict[str, float]]:
        """Inputs of Quantize Model by name -> the file's bytes, its images' error, and how far core's are from them.

        As ComfyUI computes them, activations too. Core runs in a process that never loads this pack.
        """
        known = self.models.parent / "scaled_fp8"
        known.mkdir(exist_ok=True)
        shutil.copy(calibration, known)
        asked = self.request(JUDGED) | {"folder": str(self.folder), "calibration": calibration.stem, "ways": ways}
        written = self.ask("saved", asked | {"work": "save"})
        off = self.ask("loaded", asked | {"work": "load", "files": list(written), "pack": False})
        return {Path(name).stem: {**told, "off": off[name]} for name, told in written.items()}

    def known(self, work: str) -> dict[str, float]:
        """What was found before, by a whole run or by one that was cut short."""
        files = [self.folder / f"{work}.{ending}" for ending in ("found", "answer")]
        return {name: error for file in files if file.exists() for name, error in json.loads(file.read_text()).items()}

    def request(self, seed: int) -> dict:
        return {
            "base": str(self.models.parents[1]), "device": "cpu", "threads": 1, "file": self.file.name, "seed": seed,
            "steps": 4, "digits": DIGITS, "latent": list(self.latent),
            "conditioning": str(DATA / f"{self.conditioning}.safetensors"),
            "latents": str(self.folder / f"latents-{seed}.safetensors"),
        }  # fmt: skip

    def ask(self, name: str, asked: dict) -> dict:
        request, answer = (self.folder / f"{name}.{ending}" for ending in ("request", "answer"))
        request.write_text(json.dumps(asked))
        run("precision.inside", str(request), str(answer), folder=self.models.parents[1], longest=LONGEST)
        return json.loads(answer.read_text())


@dataclass
class Wan(Digits):
    """Cross attention, a convolution before it: a model of another kind, that training/train_wan.py made."""

    name: str = "digits-wan"
    about: str = f"a Wan of the same digits {IN_COMFYUI}"
    conditioning: str = "digits-wan-conditioning"
    latent: tuple[int, ...] = (16, 1, 8, 8)


@dataclass
class Demo:
    """The demo's transformer with LTX's layer names, in plain torch: 40 images with guidance."""

    folder: Path
    steps: int = 16
    images: int = 40
    name: str = "demo"
    about: str = "the demo's diffusion transformer (quant/demo), plain torch in float32, 40 images of 16 steps"
    file: Path = ORIGINAL

    def __post_init__(self) -> None:
        self.model = load_model(load_file(self.file)).float()
        self.linears = block_linears(self.model)

    def watch(self, path: Path, layers: list[str]) -> None:
        modules = {name: self.linears[name] for name in layers}
        watch = Watch({name: linear.in_features for name, linear in modules.items()})
        with watch.listening(modules, CONDITIONINGS):
            self.draw(SEEN)
        rounded = {name: fed(linear.weight.data, watch.moments[name], name) for name, linear in modules.items()}
        shares = Shares(rounded.__getitem__, layers, layers, int(LATE * self.steps))
        want = self.draw(UNSEEN)
        factors = shares.factors(image_error(self.draw(UNSEEN, shares), want))
        records = {name: record(self.linears[name], moments, factors[name]) for name, moments in watch.moments.items()}
        save_calibration(path, records, Facts(self.steps, 1))

    def errors(self, files: Iterable[Path], seed: int = JUDGED) -> dict[str, float]:
        want = self.draw(seed)
        return {path.name: self.error(weights_of(path), want, seed) for path in files}

    def saved(self, ways: Mapping[str, Mapping[str, str]], calibration: Path) -> dict[str, dict[str, float]]:
        """Nothing: ComfyUI does not know this model."""
        return {}

    def error(self, weights: Mapping[str, Tensor], want: Tensor, seed: int) -> float:
        before = {name: self.linears[name].weight.data for name in weights}
        for name, weight in weights.items():
            self.linears[name].weight.data = weight
        got = self.draw(seed)
        for name, weight in before.items():
            self.linears[name].weight.data = weight
        return float((got - want).norm() / want.norm())

    def draw(self, seed: int, shares: Shares | None = None) -> Tensor:
        """Images; shares: of a run with disturbed layers."""
        noise = torch.randn(self.images, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
        return sample(
            Disturbed(self, shares) if shares else self.model, noise, torch.arange(self.images) % CLASSES, self.steps
        )


class Disturbed(nn.Module):
    """The demo's model in a run that tells its layers' shares."""

    def __init__(self, subject: Demo, shares: Shares) -> None:
        super().__init__()
        self.subject, self.shares = subject, shares

    def forward(self, *asked: Tensor) -> Tensor:
        return self.shares.call(lambda: self.subject.model(*asked), self.subject.linears)


def record(linear: nn.Linear, moments: Moments, factor: float) -> Record:
    return Record((linear.out_features, linear.in_features), sample_of(linear.weight), moments, factor)


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as opened:
        return opened.metadata() or {}


def weights_of(path: Path) -> dict[str, Tensor]:
    """The quantized weights of a file, dequantized to float32."""
    checkpoint = read_checkpoint(path)
    return {name: checkpoint[name].dequantize().float() for name in checkpoint}


Subject = Digits | Demo
