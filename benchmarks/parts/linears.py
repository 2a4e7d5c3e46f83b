"""One Linear, by every peer, for the shapes of real models; and a whole transformer block of each model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..peers import BASELINE, KITCHEN, OURS_AUTO, OURS_UPCAST, PEERS, Built, Call, Peer
from ..results import Measurement, Part, row
from ..shapes import Model, distinct
from ..timing import graphed, held, measure, peak_memory

COMMAND = "python -m benchmarks --only linears,blocks"
IN_BLOCKS = (BASELINE, OURS_AUTO, KITCHEN, "torchao per-row", OURS_UPCAST, "plain upcast")
# whole, by torch.compile, which takes long
COMPILED_BLOCKS = (OURS_AUTO, "torchao per-row")
GRAPH = " in a CUDA graph"


@dataclass(frozen=True)
class Case:
    """What is computed: its name, the group of the table, and the output in float32."""

    name: str
    group: str
    truth: Tensor


@dataclass
class Bench:
    """Where and how long: device; budget: seconds for one figure; until: when to stop, by time.monotonic.

    rows by whether they ran in a graph; missing: peer -> why; left: how many figures there was no time for.
    """

    device: torch.device
    budget: float
    until: float
    rows: dict[bool, list[Measurement]] = field(default_factory=lambda: {False: [], True: []})
    missing: dict[str, str] = field(default_factory=dict)
    left: int = 0

    @property
    def over(self) -> bool:
        """Whether there is no time left."""
        return time.monotonic() > self.until

    def parts(self, name: str, title: str) -> Iterator[Part]:
        notes = (f"{self.left} figures were not measured: there was no time left",) if self.left else ()
        part = partial(Part, command=COMMAND, baseline=BASELINE, missing=self.missing, notes=notes)
        yield part(name, title, rows=tuple(self.rows[False]))
        if self.device.type == "cuda":
            yield part(f"{name}-graph", title + GRAPH, rows=tuple(self.rows[True]))

    def add(self, case: Case, peer: str, run: Callable[[], Tensor], more: tuple[str, int]) -> None:
        """Time run, eager and in a graph where there are any; its output beside the truth.

        more: the row's note, and the memory held before run was built.
        """
        note, before = more
        memory = peak_memory(run, self.device, before)
        facts = {"group": case.group, "db": decibels(run(), case.truth), "memory": memory, "note": note}
        self.rows[False].append(row(case.name, peer, measure(run, self.device, self.budget), **facts))
        if self.device.type != "cuda":
            return
        try:
            self.rows[True].append(row(case.name, peer, measure(graphed(run), self.device, self.budget), **facts))
        except RuntimeError as problem:
            self.missing.setdefault(f"{peer}{GRAPH}", str(problem).splitlines()[0][:140])

    def add_compiled(self, case: Case, peer: str, run: Callable[[], Tensor], more: tuple[str, int]) -> None:
        """The same as one graph of torch.compile; whatever that throws is its answer."""
        name = f"{peer}, compiled"
        torch.compiler.reset()
        try:
            compiled = torch.compile(run, dynamic=False)
            compiled()
            self.add(case, name, compiled, more)
        except Exception as problem:
            lines = str(problem).strip().splitlines() or [""]
            self.missing.setdefault(name, f"{type(problem).__name__}: {lines[0][:140]}")


def decibels(y: Tensor, truth: Tensor) -> float | None:
    """Signal to error, None where there is no error at all."""
    error = float((y.float() - truth).norm())
    return 20 * float(torch.log10(truth.norm() / error)) if error else None


def random(*shape: int, device: torch.device, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, device=device) * scale).bfloat16()


##### Single Linears


def linears(models: tuple[Model, ...], tokens: tuple[int, ...], bench: Bench) -> Iterator[Part]:
    """Every distinct shape by every peer: the first two numbers of tokens for each shape, then the others in turn."""
    shapes = distinct(models)
    first = [(count, shape) for shape in shapes for count in tokens[:2]]
    for count, (outputs, inputs) in (*first, *((count, shape) for count in tokens[2:] for shape in shapes)):
        if bench.over:
            bench.left += len(PEERS)
            continue
        weight = random(outputs, inputs, device=bench.device, scale=inputs**-0.5)
        one_shape(weight, random(count, inputs, device=bench.device), bench)
        yield from bench.parts("linears", "One Linear")
    yield from bench.parts("linears", "One Linear")


def one_shape(weight: Tensor, x: Tensor, bench: Bench) -> None:
    torch.compiler.reset()
    group = f"{x.shape[0]} token{'s' * (x.shape[0] > 1)}"
    case = Case(f"{weight.shape[0]} x {weight.shape[1]}", group, F.linear(x.float(), weight.float()))
    for peer in PEERS:
        if bench.over:
            bench.left += 1
            continue
        before = held(bench.device)
        built, reason = peer.built(weight, x)
        if built is None:
            if peer.only in (None, x.shape[0]):
                bench.missing.setdefault(peer.name, reason)
            continue
        bench.add(case, peer.name, partial(built.call, x), (built.note, before))


##### Whole blocks


def blocks(models: tuple[Model, ...], tokens: int, bench: Bench) -> Iterator[Part]:
    title = f"A transformer block, {tokens} tokens"
    for model in models:
        if bench.over:
            bench.left += len(IN_BLOCKS)
            continue
        one_block(model, random(1, tokens, model.hidden, device=bench.device), bench)
        yield from bench.parts("blocks", title)
    yield from bench.parts("blocks", title)


def one_block(model: Model, x: Tensor, bench: Bench) -> None:
    weights = block_weights(model, bench.device)
    exact = {name: partial(F.linear, weight=weight.float()) for name, weight in weights.items()}
    case = Case(model.name, "", block(x.float(), exact, model))
    del exact
    for peer in sorted((peer for peer in PEERS if peer.name in IN_BLOCKS), key=lambda peer: IN_BLOCKS.index(peer.name)):
        before = held(bench.device)
        built, reason = built_block(peer, weights, x)
        if reason:
            bench.missing.setdefault(peer.name, reason)
            continue
        calls = {name: one.call for name, one in built.items()}
        run, more = partial(block, x, calls, model), (built["qkv"].note, before)
        bench.add(case, peer.name, run, more)
        if bench.device.type == "cuda" and peer.name in COMPILED_BLOCKS and not bench.over:
            bench.add_compiled(case, peer.name, run, more)


def built_block(peer: Peer, weights: dict[str, Tensor], x: Tensor) -> tuple[dict[str, Built], str]:
    found = {}
    for name, weight in weights.items():
        built, reason = peer.built(weight, random(x.shape[1], weight.shape[1], device=x.device))
        if built is None:
            return {}, reason
        found[name] = built
    return found, ""


def block_weights(model: Model, device: torch.device) -> dict[str, Tensor]:
    h, up = model.hidden, model.inner * (2 if model.gated else 1)
    shapes = {"qkv": (3 * h, h), "proj": (h, h), "up": (up, h), "down": (h, model.inner)}
    return {name: random(*shape, device=device, scale=shape[1] ** -0.5) for name, shape in shapes.items()}


def block(x: Tensor, linears: Mapping[str, Call], model: Model) -> Tensor:
    """Attention and MLP with their norms and residuals: ``[1, tokens, hidden]``."""
    q, k, v = heads(linears["qkv"](normed(x)[0]), model.head)
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, model.hidden)
    x = x + linears["proj"](attended)
    wide = linears["up"](normed(x)[0])
    if model.gated:
        first, second = wide.chunk(2, -1)
        return x + linears["down"](F.silu(first) * second)
    return x + linears["down"](F.gelu(wide, approximate="tanh"))


def normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def heads(qkv: Tensor, width: int) -> tuple[Tensor, ...]:
    """``[tokens, 3 * hidden]`` to q, k and v ``[1, heads, tokens, width]``."""
    return tuple(part.view(1, part.shape[0], -1, width).transpose(1, 2) for part in qkv.chunk(3, -1))
