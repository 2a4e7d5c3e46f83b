"""A patch leaves nothing behind: after restore every tensor, class and attribute is what it was."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch
from products import E4M3, activation, product, quantized, sqnr
from scaled_fp8 import quant
from scaled_fp8.quant.nn import patch
from scaled_fp8.quant.nn.linear import ScaledLinear
from torch import nn


class Doubled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.up = nn.Linear(32, 48)
        self.down = Doubled(48, 32, bias=False)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 32)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(32, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def linears(module: nn.Module) -> dict[str, nn.Linear]:
    return {name: m for name, m in module.named_modules() if isinstance(m, nn.Linear)}


def checkpoint(module: nn.Module, granularity=None, prefix="", seed=0) -> dict[str, quant.QuantizedWeight]:
    noise = torch.Generator().manual_seed(seed)
    return {
        prefix + name: quantized(torch.randn(m.weight.shape, generator=noise) / 6, E4M3, granularity or quant.PerRow())
        for name, m in linears(module).items()
    }


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


def traces(module: nn.Module) -> list:
    """All by which a module could differ: classes, attributes, parameters by identity and bits."""
    return [
        (name, type(m), sorted(vars(m)), [(k, id(p)) for k, p in m._parameters.items()], list(m._forward_hooks))
        for name, m in module.named_modules(remove_duplicate=False)
    ]


def bits(module: nn.Module) -> dict[str, bytes]:
    return {name: t.detach().clone().view(torch.uint8).numpy().tobytes() for name, t in module.state_dict().items()}


def reference(module: nn.Module, weights: dict[str, quant.QuantizedWeight]) -> nn.Module:
    """A copy with the dequantized weights in place."""
    other = copy.deepcopy(module)
    for name, linear in linears(other).items():
        linear.weight = nn.Parameter(weights[name].dequantize(linear.weight.dtype))
    return other


@pytest.mark.parametrize("granularity", (*quant.GRANULARITIES.values(), quant.PerBlock(16, 16)), ids=str)
@pytest.mark.parametrize("compute", ("auto", "upcast"))
def test_a_patched_model_computes_with_the_checkpoint(model, compute, granularity):
    weights, x = checkpoint(model, granularity), activation(1.0, 2, 7, 32)
    want = reference(model, weights)(x)
    with quant.patch_linears(model, weights, compute=compute):
        assert sqnr(model(x), want) >= 25
    assert sqnr(model(x), want) < 10


def test_restore_leaves_nothing(model):
    model.blocks[0].up.register_forward_hook(lambda *_: None)
    before, tensors, out = traces(model), bits(model), model(torch.ones(32))
    handle = quant.patch_linears(model, checkpoint(model))
    assert traces(model) != before
    model(torch.ones(32))
    for _ in range(2):
        handle.restore()
        assert (traces(model), bits(model)) == (before, tensors)
        assert torch.equal(model(torch.ones(32)), out)
    assert model.head.weight is model.embed.weight


@pytest.mark.parametrize("order", ((0, 1), (1, 0)), ids=str)
def test_two_patches_the_last_wins_and_nothing_stacks(model, order):
    before, tensors, x = traces(model), bits(model), activation(1.0, 5, 32)
    first, last = (checkpoint(model, seed=seed) for seed in (1, 2))
    handles = [quant.patch_linears(model, weights) for weights in (first, last)]
    assert sqnr(model(x), reference_of(model, last, x)) >= 25
    handles[order[0]].restore()
    if order[0] == 0:
        assert sqnr(model(x), reference_of(model, last, x)) >= 25
    else:
        assert (traces(model), bits(model)) == (before, tensors)
    handles[order[1]].restore()
    assert (traces(model), bits(model)) == (before, tensors)


def reference_of(model, weights, x):
    plain = copy.deepcopy(model)
    quant.restore_linears(plain)
    return reference(plain, weights)(x)


def test_a_second_patch_of_some_layers_takes_only_those(model):
    before, tensors = traces(model), bits(model)
    whole = quant.patch_linears(model, checkpoint(model, seed=1))
    part = quant.patch_linears(model, checkpoint(model, seed=2), compute="upcast", layers="up")
    assert [row.kernel for row in part.report().rows] == ["upcast by bits", "upcast by bits"]
    whole.restore()
    assert [type(b.up).__name__ for b in model.blocks] == ["ScaledLinear"] * 2
    assert [type(b.down) for b in model.blocks] == [Doubled] * 2
    part.restore()
    assert (traces(model), bits(model)) == (before, tensors)


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("patched_before", (False, True), ids=("fresh", "patched before"))
def test_an_exception_midway_patches_nothing(model, at, patched_before, monkeypatch):
    if patched_before:
        quant.patch_linears(model, checkpoint(model, seed=1))
    before, out = traces(model), model(torch.ones(32))
    real, calls = patch.put, []

    def failing(*state):
        calls.append(state)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        real(*state)

    monkeypatch.setattr(patch, "put", failing)
    with pytest.raises(KeyboardInterrupt):
        quant.patch_linears(model, checkpoint(model, seed=2))
    assert traces(model) == before
    assert torch.equal(model(torch.ones(32)), out)


PREFIXES = (
    "", "model.diffusion_model.", "diffusion_model.", "model.", "net.", "transformer.", "module.", "unet.", "dit.",
    "_orig_mod.",
)  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_names_match_but_for_a_known_prefix(model, prefix):
    handle = quant.patch_linears(model, checkpoint(model, prefix=prefix))
    assert len(handle.report().rows) == 5
    handle.restore()
    wrapped = nn.ModuleDict({"module": model})
    assert len(quant.patch_linears(wrapped, checkpoint(model)).report().rows) == 5


def wrong(model, **changes):
    weights = checkpoint(model)
    weights.update(changes)
    return weights


def small() -> quant.QuantizedWeight:
    return quantized(torch.ones(8, 8), E4M3, quant.PerTensor())


REFUSED = {
    "unknown name": (lambda m: wrong(m, **{"blocks.7.up": small()}), {}, "1 of 6 weights match no Linear.*blocks.7.up"),
    "not a Linear": (lambda m: wrong(m, **{"embed": small()}), {}, "match no Linear.*embed"),
    "foreign prefix": (lambda m: checkpoint(m, prefix="pipe."), {}, "5 of 5 weights match no Linear"),
    "two for one": (lambda m: wrong(m, **{"model.head": small()}), {}, "is for the same Linear as"),
    "shape": (lambda m: wrong(m, head=small()), {}, r"head: is \[10, 32\] in the module, \[8, 8\] in the checkpoint"),
    "no such layer": (checkpoint, {"layers": "attention"}, "matches none of the checkpoint's 5"),
    "bad expression": (checkpoint, {"layers": "("}, "not a regular expression"),
    "compute": (checkpoint, {"compute": "int4"}, "'int4' is unknown"),
    "activation": (checkpoint, {"activation_scale": "none"}, "'none' is unknown"),
    "no kernel": (lambda m: checkpoint(m, quant.PerBlock()), {"compute": "scaled_mm"}, "fits none of 5 layers"),
}


@pytest.mark.parametrize(("weights", "options", "sentence"), REFUSED.values(), ids=REFUSED)
def test_refused_whole_or_not_at_all(model, weights, options, sentence):
    before, tensors = traces(model), bits(model)
    with pytest.raises(quant.Refused, match=sentence):
        quant.patch_linears(model, weights(model), **options)
    assert (traces(model), bits(model)) == (before, tensors)


def test_layers_choose(model):
    handle = quant.patch_linears(model, checkpoint(model), layers=r"^blocks\.1\.")
    assert {row.layer for row in handle.report().rows} == {"blocks.1.up", "blocks.1.down"}


def parametrized(linear):
    nn.utils.parametrizations.weight_norm(linear)


def own_forward(linear):
    linear.forward = lambda x: x


UNFIT = {
    "meta": (lambda linear: linear.to("meta"), "no weight yet"),
    "lazy": (lambda linear: setattr(linear, "weight", nn.UninitializedParameter()), "no weight yet"),
    "parametrized": (parametrized, "computes its weight from others"),
    "weight norm": (nn.utils.weight_norm, "computes its weight from others"),
    "own forward": (own_forward, "forward set on the instance"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("change", "sentence"), UNFIT.values(), ids=UNFIT)
def test_a_linear_that_cannot_take_a_weight_is_refused(model, change, sentence):
    weights = checkpoint(model)
    change(model.blocks[1].up)
    before = traces(model)
    with pytest.raises(quant.Refused, match=f"blocks.1.up: .*{sentence}"):
        quant.patch_linears(model, weights)
    assert traces(model) == before


def test_hooks_see_every_call(model):
    seen = []
    model.blocks[0].up.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    quant.patch_linears(model, checkpoint(model))
    model(torch.ones(3, 32))
    assert seen == [(3, 48)]


def test_a_tied_weight_is_patched_where_named(model):
    embedded = model.embed(torch.tensor([1, 2]))
    with quant.patch_linears(model, checkpoint(model), layers="head"):
        assert torch.equal(model.embed(torch.tensor([1, 2])), embedded)
        assert model.head.weight is not model.embed.weight


def test_a_module_used_twice_is_patched_once(model):
    model.blocks.append(model.blocks[0])
    handle = quant.patch_linears(model, checkpoint(model))
    model(torch.ones(3, 32))
    assert {row.layer: row.calls for row in handle.report().rows}["blocks.0.up"] == 2
    handle.restore()
    assert type(model.blocks[2].up) is nn.Linear


def test_the_checkpoint_is_not_written_to(model):
    weights = checkpoint(model)
    before = {name: (w.codes.view(torch.uint8).clone(), w.scale.clone()) for name, w in weights.items()}
    with quant.patch_linears(model, weights):
        model.half()
        model(torch.ones(3, 32, dtype=torch.float16))
    for name, (codes, scale) in before.items():
        assert torch.equal(weights[name].codes.view(torch.uint8), codes)
        assert torch.equal(weights[name].scale, scale)


def test_a_raw_float8_weight_never_reads_as_float8():
    holder = nn.ModuleDict({"a": nn.Linear(32, 16, bias=False, dtype=torch.bfloat16)})
    holder["a"].weight = nn.Parameter(holder["a"].weight.detach().to(E4M3.dtype), requires_grad=False)
    raw = holder["a"].weight
    with quant.patch_linears(holder, checkpoint(holder)):
        assert holder["a"].weight.dtype == torch.bfloat16
    assert holder["a"].weight is raw and raw.dtype == E4M3.dtype


def test_report_tells_kernels_reasons_and_calls(model):
    weights = checkpoint(model)
    weights["head"] = quantized(torch.randn(10, 32), E4M3, quant.PerBlock(16, 16))
    handle = quant.patch_linears(model, weights, compute="scaled_mm")
    model(torch.ones(3, 32))
    report = handle.report()
    told = json.loads(json.dumps(report.to_json()))
    assert report.rows[0].layer == "head"
    assert report.rows[0].kernel == "upcast by bits"
    assert [row["calls"] for row in told["layers"]] == [1] * 5
    assert told["kernels"]["upcast by bits"] == 1
    assert sum(told["kernels"].values()) == 5
    assert "needs blocks of 128 x 128, not block" in next(iter(told["reasons"]))
    assert all(name in report.table() for name in weights)


def test_the_report_has_the_kernel_that_ran(model):
    handle = quant.patch_linears(model, checkpoint(model), layers="head")
    model.bfloat16()
    model.head(torch.ones(3, 32, dtype=torch.bfloat16))
    (row,) = handle.report().rows
    assert row.ran == {row.kernel: 1}


def test_meta_after_patching_does_not_lose_the_original(model):
    before = model.blocks[0].up.weight.detach().clone()
    handle = quant.patch_linears(model, checkpoint(model), layers="blocks.0.up")
    model.to("meta")
    handle.restore()
    assert torch.equal(model.blocks[0].up.weight, before)


# float32 -> float64 and back loses nothing, so that the last comparison is one of bits
MOVES = (torch.float64, torch.float32)
STEPS = 1000


class Walk:
    """Random patches, restores, moves, copies and calls of one model."""

    def __init__(self, model: Model):
        self.random, self.model, self.handles = random.Random(0), model, []
        self.weights = [checkpoint(model, g, seed=i) for i, g in enumerate((quant.PerRow(), quant.PerTensor()))]

    def patch(self) -> None:
        options = {
            "compute": self.random.choice(("auto", "upcast")),
            "layers": self.random.choice((".*", "up", "head")),
        }
        self.handles.append(quant.patch_linears(self.model, self.random.choice(self.weights), **options))

    def restore(self) -> None:
        if self.handles:
            self.handles.pop(self.random.randrange(len(self.handles))).restore()

    def refuse(self) -> None:
        with pytest.raises(quant.Refused, match="^head: "):
            quant.patch_linears(self.model, {**self.weights[0], "head": small()})

    def move(self) -> None:
        self.model.to(self.random.choice(MOVES))

    def clone(self) -> None:
        """A copy is patched and restored on its own; sometimes it goes on as the model."""
        other = copy.deepcopy(self.model)
        before = self.call()
        quant.patch_linears(other, self.weights[0], layers="down")
        quant.restore_linears(other)
        assert torch.equal(self.call(), before)
        assert not [m for m in other.modules() if isinstance(m, ScaledLinear)]

    def call(self) -> torch.Tensor:
        with torch.no_grad():
            return self.model(torch.ones(2, 32, dtype=self.model.blocks[0].norm.weight.dtype))


@pytest.fixture
def one_thread():
    """Thousands of tiny products: threads would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_a_thousand_random_steps_leave_every_bit(model):
    before, tensors = traces(model), bits(model)
    walk = Walk(model)
    steps = [walk.patch, walk.patch, walk.restore, walk.restore, walk.move, walk.call, walk.refuse, walk.clone]
    for _ in range(STEPS):
        walk.random.choice(steps)()
    for handle in walk.handles:
        handle.restore()
    model.float()
    assert (traces(model), bits(model)) == (before, tensors)


def test_patched_reads_as_before_for_those_outside(model):
    names, shapes = list(model.state_dict()), [(p.shape, p.dtype) for p in model.parameters()]
    quant.patch_linears(model, checkpoint(model), layers="blocks")
    assert [(p.shape, p.dtype) for p in model.parameters()] == shapes
    assert set(names) <= set(model.state_dict())
    x = activation(1.0, 4, 32)
    assert sqnr(model.blocks[0].up(x), product(x, model.blocks[0].up.quantized(), model.blocks[0].up.bias)) >= 28
