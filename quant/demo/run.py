"""The whole story on an embedded model: an FP8 file without marker, a reader that drops its scales, and this pack."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..checkpoint.read import Checkpoint, read_checkpoint
from ..errors import Refused, first_line
from ..nn.patch import patch_linears
from ..text import text_table
from ..threads import single_threaded
from ..weights.encode import quantize
from ..weights.formats import float8_e4m3fn
from ..weights.granularity import PerTensor
from .model import CLASSES, SIDE, DigitsTransformer, sample
from .picture import Panel, draw

ORIGINAL = Path(__file__).parent / "digits.safetensors"
PREFIX = "model.diffusion_model."
SEED, EACH = 22, 2


@dataclass(frozen=True)
class Error:
    """How far something is from its bf16 original. relative: of the norms; sqnr: signal to noise in dB."""

    name: str
    relative: float
    sqnr: float


@dataclass(frozen=True)
class Demo:
    """What the demonstration made and measured; images are errors of the samples, layers of the weights."""

    picture: Path
    checkpoint: Path
    verdict: dict[str, object]
    images: tuple[Error, ...]
    layers: tuple[Error, ...]
    kernels: dict[str, int]
    restored: bool
    seconds: float


def main(out_dir: Path | str = "scaled-fp8-demo", as_json: bool = False) -> int:
    """Run it, print verdict and errors, leave the picture and both files in out_dir; 0 when the pack draws digits."""
    demo, tables = run(Path(out_dir))
    sys.stdout.write(json.dumps(asdict(demo), default=str) + "\n" if as_json else tables + summary(demo))
    return 0 if demo.restored and demo.images[1].relative < 0.1 < demo.images[0].relative else 1


@torch.no_grad()
@single_threaded()
def run(out_dir: Path) -> tuple[Demo, str]:
    """The demonstration and its two tables as text."""
    start = time.perf_counter()
    folder(out_dir)
    original = load_model(load_file(ORIGINAL))
    true, maxima = observed(original)
    path = out_dir / "digits-ltx-fp8.safetensors"
    save_file(ltx_tensors(original, maxima), path)

    ckpt = read_checkpoint(path)
    drawn = draw_both(path, ckpt)
    images = (error("scales dropped", drawn.naive, true), error("Scaled FP8", drawn.ours, true))
    layers = weight_errors(ckpt, original)
    demo = Demo(
        picture=draw(out_dir / "demo.png", panels(drawn.naive, drawn.ours, true, images)),
        checkpoint=path,
        verdict=ckpt.verdict.to_json(),
        images=images,
        layers=layers,
        kernels=drawn.kernels,
        restored=drawn.restored,
        seconds=time.perf_counter() - start,
    )
    return demo, f"{ckpt.verdict.table()}\n\n{error_table(layers)}\n\n"


@dataclass(frozen=True)
class Drawn:
    """What one file draws without and with its scales. restored: whether it draws the former again afterwards."""

    naive: Tensor
    ours: Tensor
    kernels: dict[str, int]
    restored: bool


def draw_both(path: Path, ckpt: Checkpoint) -> Drawn:
    model = naive_model(path)
    naive = digits(model)
    handle = patch_linears(model, ckpt)
    ours, kernels = digits(model), handle.report().kernels
    handle.restore()
    return Drawn(naive, ours, kernels, torch.equal(digits(model), naive))


def folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise Refused(f"{path}: the folder cannot be made: {first_line(problem)}; name another with --out.") from None


##### The three models


def load_model(tensors: dict[str, Tensor]) -> DigitsTransformer:
    """The digits' model in bf16; scale keys that it does not know are dropped, as most readers do."""
    with torch.device("meta"):  # where no random weights are drawn, only to be replaced
        model = DigitsTransformer().eval()
    known = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    missing = model.load_state_dict(known, strict=False, assign=True).missing_keys
    assert not missing, missing
    return model


def naive_model(path: Path) -> DigitsTransformer:
    """What a reader that does not know the dialect gets: every code taken for a weight."""
    return load_model({name.removeprefix(PREFIX): tensor for name, tensor in load_file(path).items()})


def digits(model: nn.Module) -> Tensor:
    """EACH images of every digit from one seed: ``[EACH * 10, 8, 8]`` in [-1, 1]."""
    asked = torch.arange(CLASSES).repeat(EACH)
    noise = torch.randn(len(asked), SIDE, SIDE, generator=torch.Generator().manual_seed(SEED))
    return sample(model, noise, asked).clamp(-1, 1)


##### The file


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """What producers quantize: the Linears of the transformer blocks."""
    named = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return {name: module for name, module in named if name.startswith("transformer_blocks.")}


def observed(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """The digits that the model draws, and the largest magnitude that entered each block's Linear meanwhile."""
    maxima: dict[str, Tensor] = {}

    def watch(name: str, inputs: tuple[Tensor, ...]) -> None:
        largest = inputs[0].abs().amax().float()
        maxima[name] = torch.maximum(maxima.get(name, largest), largest)

    hooks = [
        linear.register_forward_pre_hook(lambda _, inputs, name=name: watch(name, inputs))
        for name, linear in block_linears(model).items()
    ]
    images = digits(model)
    for hook in hooks:
        hook.remove()
    return images, maxima


def ltx_tensors(model: nn.Module, maxima: dict[str, Tensor]) -> dict[str, Tensor]:
    """The digits' model as Lightricks stores LTX: e4m3 weight, weight_scale, calibrated input_scale, no marker."""
    tensors = {PREFIX + name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, linear in block_linears(model).items():
        weight = quantize(linear.weight, float8_e4m3fn, PerTensor())
        tensors[f"{PREFIX}{name}.weight"] = weight.codes
        tensors[f"{PREFIX}{name}.weight_scale"] = weight.scale
        tensors[f"{PREFIX}{name}.input_scale"] = maxima[name] / float8_e4m3fn.maximum
    return tensors


##### Errors


def error(name: str, got: Tensor, true: Tensor) -> Error:
    got, true = got.float(), true.float()
    relative = (got - true).norm() / true.norm()
    return Error(name, float(relative), float(-20 * relative.log10()))


def weight_errors(ckpt: Checkpoint, original: nn.Module) -> tuple[Error, ...]:
    """Each weight that the pack read, against the bf16 original."""
    linears = block_linears(original)
    names = {name: name.removeprefix(PREFIX) for name in ckpt}
    return tuple(error(short, ckpt[name].dequantize(), linears[short].weight) for name, short in names.items())


def error_table(errors: Iterable[Error]) -> str:
    lines = [[e.name, f"{e.relative:.4f}", f"{e.sqnr:.1f}"] for e in errors]
    return text_table(("weight", "relative error", "SQNR dB"), lines)


##### What people see


def panels(naive: Tensor, ours: Tensor, true: Tensor, images: tuple[Error, ...]) -> tuple[Panel, ...]:
    texts = [f"relative error {e.relative:.3g}, SQNR {e.sqnr:.1f} dB" for e in images]
    return (
        Panel("FP8 file, scales dropped", texts[0], naive),
        Panel("FP8 file, Scaled FP8", texts[1], ours),
        Panel("bf16 original", "the same seed and noise", true),
    )


def summary(demo: Demo) -> str:
    lines = [f"{e.name:14}  images: relative error {e.relative:.4f}, SQNR {e.sqnr:.1f} dB" for e in demo.images]
    kernels = ", ".join(f"{layers} layers on {kernel}" for kernel, layers in demo.kernels.items())
    after = "bit-identical" if demo.restored else "NOT what it was"
    lines += [f"kernels: {kernels}; after restore() the model is {after}"]
    lines += [f"picture: {demo.picture}", f"file:    {demo.checkpoint}", f"{demo.seconds:.1f} s"]
    return "\n".join(lines) + "\n"
