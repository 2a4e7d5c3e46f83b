"""The attack's own judgement: what a changed file still says is allowed, and a reader that strays from it is caught."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scaled_fp8.quant.weights.weight import QuantizedWeight
from torch import Tensor

from benchmarks.attack import reading
from benchmarks.attack.file import Entry, File, f32, turned_over, u8

Q, FC = "blocks.0.attn.to_q", "blocks.0.mlp.fc1"


@dataclass(frozen=True)
class Case:
    """A changed model that can be read.

    names: of the changes; unseen: no reader can tell it from a sound one; layer: the one that reads as something else.
    """

    dialect: str
    change: Callable[[File], object]
    names: tuple[str, ...] = ("marked",)
    unseen: bool = False
    layer: str = Q


def marked(**said: object) -> Callable[[File], object]:
    return lambda file: file.tensors.update({f"{Q}.comfy_quant": u8(json.dumps(said).encode())})


def times(file: File, key: str, factor: float) -> None:
    file.tensors[key] = f32(file.tensors[key].values() * np.float32(factor))


def turned(file: File, *layers: str) -> None:
    for layer in layers:
        file.tensors[f"{layer}.weight"] = turned_over(file.tensors[f"{layer}.weight"])


def reciprocal_alone(file: File) -> None:
    del file.tensors[f"{Q}.scale"]
    times(file, f"{Q}.scale_reciprocal", 3)


def blocks_turned(file: File) -> None:
    turned(file, Q, FC)
    times(file, f"{FC}.weight_scale_inv", 5)


def untyped_scales(file: File) -> None:
    entry = file.tensors[f"{Q}.weight_scale"]
    file.tensors[f"{Q}.weight_scale"] = Entry("U8", entry.shape, entry.data)
    times(file, f"{Q}.weight_scale_2", 0.9)


def whole_numbers(file: File) -> None:
    entry = file.tensors[f"{Q}.float8_data"]
    codes = (entry.values() * (127 / 448)).round().astype(np.int8)
    file.tensors[f"{Q}.float8_data"] = Entry("I8", entry.shape, codes.tobytes())
    marked(format="int8_tensorwise")(file)


def codes_renamed(file: File) -> None:
    file.tensors[f"{Q}.weight._data"] = file.tensors.pop(f"{Q}.weight")
    times(file, f"{Q}.weight_scale_inv", 3)


def scale_replaced(file: File) -> None:
    """Another tool's scale, with another value, in the place of the layer's own."""
    file.tensors[f"{Q}.scale_weight"] = f32(file.tensors.pop(f"{Q}.weight_scale").values() * np.float32(3))


def exchanged(file: File) -> None:
    """The sides in the header of a layer whose bias is gone."""
    entry = file.tensors[f"{Q}.weight"]
    file.tensors[f"{Q}.weight"] = Entry(entry.dtype, entry.shape[::-1], entry.data)
    del file.tensors[f"{Q}.bias"]


def exchanged_among_turned(file: File) -> None:
    """The sides in the header of a layer, where another layer's codes are turned: both biases say [in, out]."""
    entry = file.tensors[f"{Q}.weight"]
    file.tensors[f"{Q}.weight"] = Entry(entry.dtype, entry.shape[::-1], entry.data)
    turned(file, FC)


def without_biases(file: File) -> None:
    exchanged(file)
    del file.tensors[f"{FC}.bias"]


CASES = {
    "rotated": Case("musubi", marked(format="float8_e4m3fn", convrot=True)),
    "rotated by 16": Case("ltx", marked(format="fp8", convrot=True, convrot_groupsize=16)),
    "reciprocal alone": Case("reciprocal", reciprocal_alone, ("dropped", "scales_mild"), unseen=True),
    "blocks turned": Case("blocks", blocks_turned, ("transposed", "scales_mild"), unseen=True, layer=FC),
    "untyped block scales": Case("nvfp4", untyped_scales, ("width_changed", "codes_flipped"), unseen=True),
    "whole numbers": Case("reciprocal", whole_numbers, ("dtype_relabelled", "marked")),
    "codes renamed": Case("blocks", codes_renamed, ("dropped", "scales_mild"), unseen=True),
    "scale replaced": Case("ltx", scale_replaced, ("dropped", "doubled")),
    "sides exchanged": Case("ltx", exchanged, ("reshaped", "dropped")),
    "sides exchanged among turned": Case("flat rows", exchanged_among_turned, ("reshaped", "transposed")),
    "sides exchanged under markers": Case("marked", exchanged, ("reshaped", "dropped")),
}
# what a faulty reader would make of a weight
FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "turned": lambda weight: weight.T,
    "halved": lambda weight: weight / 2,
    "rows exchanged": lambda weight: weight.flip(0),
    "columns exchanged": lambda weight: weight.flip(1),
    "one row": lambda weight: torch.cat([weight[:1] * 9, weight[1:]]),
    "pairs exchanged": lambda weight: weight.view(len(weight), -1, 2).flip(2).flatten(1),
    "NaN": lambda weight: weight * float("nan"),
}


def judged(case: Case, folder: Path) -> tuple[str, str]:
    chosen = next(specimen for specimen in reading.SPECIMENS if specimen.dialect.name == case.dialect)
    file = chosen.file.copy()
    case.change(file)
    path = folder / "model.safetensors"
    path.write_bytes(file.raw())
    if chosen.dialect.config:
        (folder / "config.json").write_text(json.dumps(chosen.dialect.config))
    return reading.outcome(reading.Try(chosen, file, path, list(case.names), case.unseen))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_the_file_still_says_is_no_alarm(case: Case, tmp_path: Path) -> None:
    assert judged(case, tmp_path) == ("read", "")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_reader_that_strays_from_it_is_caught(
    case: Case, fault: Callable[[Tensor], Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = QuantizedWeight.dequantize
    monkeypatch.setattr(QuantizedWeight, "dequantize", lambda *args, **more: fault(sound(*args, **more)).contiguous())
    assert f"{case.layer} is read with error" in judged(case, tmp_path)[1]


@pytest.mark.parametrize("fault", FAULTS)
def test_only_the_sides_of_weights_without_biases_and_markers_go_unseen(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, sound = replace(CASES["sides exchanged"], change=without_biases), QuantizedWeight.dequantize
    monkeypatch.setattr(QuantizedWeight, "dequantize", lambda *args: FAULTS[fault](sound(*args)).contiguous())
    assert (f"{Q} is read with error" in judged(case, tmp_path)[1]) == (fault != "turned")
