"""A checkpoint of any dialect: its Verdict and, when it is accepted, its weights, decoded one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import Refused
from ..files.header import TensorInfo, info_of
from ..files.open import open_source
from ..files.stored import Source
from ..weights.weight import QuantizedWeight
from .findings import Findings
from .layer import Layer
from .survey import survey as survey_source
from .verdict import Verdict


def inspect_checkpoint(path: str | os.PathLike[str] | Source, check: str = "sample") -> Verdict:
    """The verdict on a checkpoint, accepted or not; check "all" looks at every code. Refused if it is unreadable."""
    return survey(path, check).verdict


def read_checkpoint(path: str | os.PathLike[str] | Source, check: str = "sample") -> Checkpoint:
    """An accepted checkpoint; Refused, in one sentence, for any other."""
    found = survey(path, check)
    if not found.verdict.accepted:
        raise Refused(found.verdict.sentence())
    return found


class Checkpoint(Mapping[str, QuantizedWeight]):
    """Module name -> QuantizedWeight, decoded anew each time it is asked for and kept nowhere.

    verdict: what was decided and why; source: the file; tensors: every other tensor, lazily; names keep the
    file's own prefix, without ".weight".
    """

    def __init__(self, found: Findings) -> None:
        self.source, self.verdict = found.source, found.verdict
        self.layers = {name: layer for name, layer in found.layers.items() if name not in found.refused}
        self.tensors = OtherTensors(found)

    def __getitem__(self, name: str) -> QuantizedWeight:
        return self.layers[name].decode()

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __contains__(self, name: object) -> bool:
        return name in self.layers

    def spec(self, name: str) -> Layer:
        """Static facts of a layer, without loading it: format, granularity, shape, full_shape, dialect."""
        return self.layers[name]

    def weight_key(self, name: str) -> str:
        """The key that the weight has in a model without quantization."""
        key = self.layers[name].module.key("weight")
        return name if key == name else f"{name}.weight" if name else "weight"


class OtherTensors(Mapping[str, Tensor]):
    """The tensors that are no part of a quantized weight, by the names a model has for them; lazy."""

    def __init__(self, found: Findings) -> None:
        self.source = found.source
        self.keys_of = {key.removesuffix(":_data"): key for key in found.source if key not in found.consumed}
        self.bias_scales = found.bias_scales

    def info(self, name: str) -> TensorInfo:
        """Its dtype and shape, without reading it."""
        info = replace(self.source[self.keys_of[name]], name=name)
        return info_of(name, torch.float32, info.shape) if name in self.bias_scales else info

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.source.tensor(self.keys_of[name])
        if name in self.bias_scales:
            return tensor.float() * self.source.tensor(self.bias_scales[name]).float()
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_of)

    def __len__(self) -> int:
        return len(self.keys_of)

    def __contains__(self, name: object) -> bool:
        return name in self.keys_of


def survey(path: str | os.PathLike[str] | Source, check: str) -> Checkpoint:
    """The checkpoint with its verdict, accepted or not; of a refused one only the accepted layers can be read."""
    if check not in ("sample", "all"):
        raise Refused(f"check={check!r} is unknown; choose sample or all.")
    return Checkpoint(survey_source(open_source(path), everything=check == "all"))
