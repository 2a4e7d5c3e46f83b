"""Mutated files, seeded: each is decoded right or refused. Never another exception, a hang, a leftover or silent noise.

What a reader cannot see is allowed, and only that: see mutations.UNSEEN, after which a layer must still be near to
what it was. Everything else, if accepted, must give every layer of the original within its rounding.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
from mutations import (
    SEEN,
    UNSEEN,
    File,
    Mutation,
    bad_scale,
    dropped,
    header_other,
    offset,
    truncated,
)  # fmt: skip
from safetensors.torch import save
from scaled_fp8 import quant
from torch import Tensor
from zoo import ZOO, tiny_model

# the full number is 10000: some minutes of CPU time
CASES = int(os.environ.get("SCALED_FP8_FUZZ", "2000"))
# none with a part that a file may do without (a codebook, a smoothing): that it is gone cannot be seen
BASES = ("ltx", "comfy-marker", "comfy-header", "legacy-0-input", "lightx2v-rows", "ideogram", "deepseek-alone",
         "musubi-groups", "kijai-e5m2", "plain-e4m3", "mxfp8", "nvfp4", "quanto-alone", "torchao-rows",
         "flux-fp8-api", "int8-rows", "int8-blockwise-64", "svdquant", "awq-w4a16", "nunchaku",
         "nunchaku-fp4", "nunchaku-fp4-joined", "nvfp4-lightx2v")  # fmt: skip
# the least inputs and outputs that a dialect's tiles need
SIZES = {"nunchaku": 128, "nunchaku-fp4": 128, "nunchaku-fp4-joined": 128}
EACH = max(1, CASES // len(BASES))


@dataclass(frozen=True)
class Base:
    name: str
    raw: bytes
    model: dict[str, Tensor]

    def layers(self) -> list[str]:
        return ZOO[self.name].quantized(self.model)


def fresh(name: str) -> Base:
    model = tiny_model(SIZES.get(name, 64), 1)
    tensors, header = ZOO[name].recipe.pack(model)
    return Base(name, save({k: v.contiguous() for k, v in tensors.items()}, header or None), model)


def mutated(base: Base, seed: int) -> tuple[bytes, Mutation]:
    rng = random.Random(f"{base.name} {seed}")
    mutation = rng.choice(SEEN + UNSEEN[:1] * 2 + UNSEEN[1:])
    file = File.of(base.raw)
    return mutation(file, rng) or file.raw(), mutation


def found(checkpoint, layer: str):
    keys = [key for key in checkpoint if key == layer or key.endswith(f".{layer}")]
    return checkpoint[keys[0]] if keys else None


def wrong(base: Base, checkpoint, mutation: Mutation) -> list[str]:
    """Layers of an accepted file that are not what they were; for unseen mutations, not even near it."""
    names = []
    for layer in base.layers():
        weight, original = found(checkpoint, layer), base.model[f"{layer}.weight"].float()
        if weight is None:
            names += [] if base.name.startswith("plain") and handed_on(checkpoint, layer, original) else [layer]
        elif not right(base, weight, original, mutation):
            names.append(layer)
    return names


def handed_on(checkpoint, layer: str, original: Tensor) -> bool:
    """Whether a plain cast weight that is no layer any more is gone (nothing else speaks of it) or a sound tensor."""
    tensor = checkpoint.tensors.get(f"{layer}.weight")
    if tensor is None:
        return f"{layer}.weight" not in checkpoint.source
    return bool((tensor.float().flatten() - original.flatten()).norm() <= 0.1 * original.norm())


def right(base: Base, weight, original: Tensor, mutation: Mutation) -> bool:
    if weight.shape != tuple(original.shape):
        return False
    read = weight.dequantize()
    if mutation in UNSEEN:
        return bool(read.isfinite().all()) and (not original.any() or 1 / 64 < read.norm() / original.norm() < 64)
    return bool((read - original).norm() <= ZOO[base.name].tolerance * 1.2 * original.norm())


def outcome(path, base: Base, mutation: Mutation) -> str:
    """What is wrong with how the file was read, or nothing."""
    try:
        checkpoint = quant.read_checkpoint(path)
        names = wrong(base, checkpoint, mutation)
        return f"accepted, wrong: {names}" if names else ""
    except quant.Refused as refused:
        return "" if str(refused) and "\n" not in str(refused) else f"not one line: {refused}"
    except Exception as exception:
        return f"{type(exception).__name__}: {exception}"


def alarmed(*_: object) -> None:
    raise TimeoutError("a file was read for more than 20 s")


@pytest.fixture
def watchdog():
    before = signal.signal(signal.SIGALRM, alarmed)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", BASES)
def test_the_unmutated_file_is_right(name, tmp_path):
    base = fresh(name)
    (tmp_path / "model.safetensors").write_bytes(base.raw)
    assert outcome(tmp_path / "model.safetensors", base, dropped) == ""


@pytest.mark.parametrize("name", BASES)
def test_mutated_files_are_read_right_or_refused(name, tmp_path, watchdog):
    base, path, faults = fresh(name), tmp_path / "model.safetensors", []
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(EACH):
        raw, mutation = mutated(base, seed)
        path.write_bytes(raw)
        signal.alarm(20)
        if fault := outcome(path, base, mutation):
            faults.append(f"{name} {seed} {mutation.__name__}: {fault}")
    assert not faults, f"{len(faults)} of {EACH}:\n" + "\n".join(faults[:40])
    assert os.listdir(tmp_path) == [path.name]
    # files are some 100 KB: a reader that believes a header's sizes would need far more
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000


def test_mutations_reach_both_outcomes(tmp_path):
    """The fuzz means something: most mutated files are refused, and some are not."""
    base, path, refused = fresh("ltx"), tmp_path / "model.safetensors", 0
    for seed in range(60):
        path.write_bytes(mutated(base, seed)[0])
        try:
            quant.read_checkpoint(path)
        except quant.Refused:
            refused += 1
    assert 20 < refused < 60


@pytest.mark.parametrize(
    "mutation", [truncated, header_other, bad_scale, offset], ids=lambda mutation: mutation.__name__
)
def test_the_command_line_refuses_with_one_line_and_exit_code_2(mutation, tmp_path):
    file = File.of(fresh("ltx").raw)
    path = tmp_path / "model.safetensors"
    path.write_bytes(mutation(file, random.Random(3)) or file.raw())
    ran = subprocess.run(
        [sys.executable, "-m", "scaled_fp8.quant.cli", "inspect", str(path)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 2, ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1
    assert "Traceback" not in ran.stderr + ran.stdout
    assert os.listdir(tmp_path) == [path.name]
