"""A checkpoint of any dialect: its Verdict and, when it is accepted, its weights, decoded one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..distributed.agreement import check_same, digest_of
from ..distributed.parts import Share
from ..errors import Refused, one_of
from ..files.header import TensorInfo, info_of
from ..files.open import open_source
from ..files.stored import Source
from ..weights.weight import QuantizedWeight
from .findings import Findings
from .layer import Layer
from .sampling import evenly_spaced
from .survey import Fits
from .survey import survey as survey_source
from .verdict import Verdict

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


# tensors of which the first elements are compared between ranks, and how many
LOOKED_AT, FIRST = 32, 64


def inspect_checkpoint(path: str | os.PathLike[str] | Source, check: str = "sample") -> Verdict:
    """The verdict on a checkpoint, accepted or not; check "all" looks at every code. Refused if it is unreadable.

    >>> verdict = quant.inspect_checkpoint(path)
    >>> verdict.accepted, len(verdict.layers)
    (True, 0)
    """
    return survey(path, check).verdict


def read_checkpoint(
    path: str | os.PathLike[str] | Source,
    check: str = "sample",
    mesh: DeviceMesh | None = None,
    fits: Fits | None = None,
) -> Checkpoint:
    """An accepted checkpoint; Refused, in one sentence, for any other.

    mesh: of one dimension; each of its ranks then reads its own rows of every weight (see Checkpoint.part), no others.
    All of them have to call this, with the same checkpoint.
    fits: whether tensors of these names and shapes are those of a known model: which side of a weight is out, where
    neither markers nor biases say so.

    >>> checkpoint = quant.read_checkpoint(path)
    >>> list(checkpoint), list(checkpoint.tensors)
    ([], ['blocks.0.q.weight'])
    """
    found = survey(path, check, fits)
    found.share = Share.of(mesh) if mesh is not None else None
    if mesh is not None:
        check_same(found.source.name, digest_of(facts(found.source)), mesh)
    if not found.verdict.accepted:
        raise Refused(found.verdict.sentence())
    return found


def facts(source: Source) -> Iterator[object]:
    """What tells one checkpoint from another: every name and shape, and the first bytes of some tensors."""
    names = sorted(source)
    yield from (source[name] for name in names)
    for name in evenly_spaced(names, LOOKED_AT):
        if source[name].torch_dtype is not None:
            head = source.piece(name, 0, min(FIRST, source[name].numel))
            yield bytes(head.contiguous().view(torch.uint8).tolist())


class Checkpoint(Mapping[str, QuantizedWeight]):
    """Module name -> QuantizedWeight, decoded anew each time it is asked for and kept nowhere.

    verdict: what was decided and why; source: the file; tensors: every other tensor, lazily; unaccounted: keys of
    the file that are in neither, which must not be; names keep the file's own prefix, without ".weight".
    """

    def __init__(self, found: Findings) -> None:
        self.source, self.verdict = found.source, found.verdict
        self.layers = {name: layer for name, layer in found.layers.items() if name not in found.refused}
        self.tensors = OtherTensors(found)
        self.share: Share | None = None
        self.unaccounted = sorted(found.source.keys() - found.consumed - set(self.tensors.keys_of.values()))

    def __getitem__(self, name: str) -> QuantizedWeight:
        return self.layers[name].decode() if self.share is None else self.part(name, 0)

    def part(self, name: str, dim: int) -> QuantizedWeight:
        """This process's rows (dim 0) or columns (1) of a weight ``[out, in]``, all that it reads of the codes."""
        layer, share = self.layers[name], self.share or Share(0, 1)
        try:
            return layer.part(dim, *share.span(layer.shape[dim]))
        except Refused as problem:
            raise Refused(f"{name}: {problem}") from None

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
        return self.layers[name].weight_key

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor of the model without quantization, from the header alone."""
        others = {name: tuple(self.tensors.info(name).shape) for name in self.tensors}
        return others | {layer.weight_key: layer.full_shape for layer in self.layers.values()}


class OtherTensors(Mapping[str, Tensor]):
    """The tensors that are no part of a quantized weight, by the names a model has for them; lazy."""

    def __init__(self, found: Findings) -> None:
        self.source = found.source
        self.keys_of = {key.removesuffix(":_data"): key for key in found.source if key not in found.consumed}
        self.biases = found.biases

    def info(self, name: str) -> TensorInfo:
        """Its dtype and shape, without reading it."""
        info = replace(self.source[self.keys_of[name]], name=name)
        return info_of(name, torch.float32, info.shape) if name in self.biases else info

    def __getitem__(self, name: str) -> Tensor:
        return self.biases[name]() if name in self.biases else self.source.tensor(self.keys_of[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_of)

    def __len__(self) -> int:
        return len(self.keys_of)

    def __contains__(self, name: object) -> bool:
        return name in self.keys_of


def survey(path: str | os.PathLike[str] | Source, check: str, fits: Fits | None = None) -> Checkpoint:
    """The checkpoint with its verdict, accepted or not; of a refused one only the accepted layers can be read."""
    one_of("check", check, ("sample", "all"))
    return Checkpoint(survey_source(open_source(path), check == "all", fits))
