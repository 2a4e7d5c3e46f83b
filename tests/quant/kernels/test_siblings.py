"""Activations are quantized once for the layers that are fed the same, and never again for others or after a change."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from products import activation
from scaled_fp8 import quant
from scaled_fp8.quant.kernels import proof, siblings
from scaled_fp8.quant.kernels.activations import SCHEMES
from torch import Tensor, nn

WIDTH = 64
INT8 = quant.FORMATS["int8"]


class Block(nn.Module):
    """As Wan, LTX and Qwen have it: q, k and v of one tensor, gate and up of another."""

    def __init__(self) -> None:
        super().__init__()
        names = ("q", "k", "v", "o", "gate", "up", "down")
        self.layers = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        own = self.layers
        normed = F.layer_norm(x, (WIDTH,))
        q, k, v = (own[name](normed).unsqueeze(1) for name in ("q", "k", "v"))
        x = x + own["o"](F.scaled_dot_product_attention(q, k, v).squeeze(1))
        normed = F.layer_norm(x, (WIDTH,))
        return x + own["down"](F.silu(own["gate"](normed)) * own["up"](normed))


@pytest.fixture(autouse=True)
def eager(monkeypatch) -> None:
    """Quantized by the schemes themselves, which are counted."""
    monkeypatch.setattr(proof, "QUANTIZERS", proof.QUANTIZERS[-1:])


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """The schemes that were computed, in order."""
    log: list[str] = []

    def counting(name: str, scheme: Callable) -> Callable:
        return lambda *of: log.append(name) or scheme(*of)

    for name, scheme in list(SCHEMES.items()):
        monkeypatch.setitem(SCHEMES, name, counting(name, scheme))
    return log


def patched(model: nn.Module, format: quant.Format = INT8) -> nn.Module:
    torch.manual_seed(0)
    weights = {
        name: quant.quantize(m.weight.data, format) for name, m in model.named_modules() if isinstance(m, nn.Linear)
    }
    quant.patch_linears(model, weights, compute="scaled_mm")
    return model


@pytest.mark.parametrize("format", ("int8", "int8_convrot", "float8_e4m3fn"))
def test_a_block_quantizes_four_times_for_seven_layers(counted, format):
    model, x = patched(Block(), quant.FORMATS[format]), activation(1.0, 3, WIDTH)
    counted.clear()
    with torch.no_grad():
        shared = model(x)
        assert len(counted) == 4
        counted.clear()
        with torch.inference_mode():
            # such tensors have no version by which a change could be seen
            alone = model(x.clone())
    assert len(counted) == 7
    assert torch.equal(shared, alone)


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    model = patched(nn.Sequential(nn.Linear(WIDTH, 32), nn.Linear(WIDTH, 32)))
    return model[0], model[1]


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda x: x.mul_(2),
    "through a view": lambda x: x.view(-1)[3:5].fill_(7),
    "through a detached one": lambda x: x.detach().neg_(),
    "by out=": lambda x: torch.add(x, 1, out=x),
    "in place in inference mode": lambda x: torch.inference_mode()(lambda: x.mul_(3))(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_between_siblings_is_seen(pair, counted, change):
    x = activation(1.0, 3, WIDTH)
    with torch.no_grad():
        pair[0](x)
        change(x)
        got = pair[1](x)
        assert torch.equal(got, pair[1](x.clone()))
    assert len(counted) == 3


def test_other_activations_in_the_same_memory_are_others(pair, counted):
    x = activation(1.0, 6, WIDTH)
    with torch.no_grad():
        for part in (x[:3], x[3:], x[:4], x.view(-1).as_strided((3, WIDTH), (2 * WIDTH, 1))):
            assert torch.equal(pair[0](part), pair[0](part.clone()))
    assert len(counted) == 8


def test_memory_given_to_other_activations_is_theirs(pair):
    with torch.no_grad():
        for size in range(100):
            x = torch.full((3, WIDTH), float(size))
            assert torch.equal(pair[0](x), pair[0](x + 0.0))
            del x


def test_codes_are_freed_with_their_activations(pair):
    x = activation(1.0, 3, WIDTH)
    with torch.no_grad():
        pair[0](x)
    assert siblings.LAST.kept is not None
    kept = x.view(-1)
    del x
    assert siblings.LAST.kept is not None, "a view holds the memory"
    del kept
    assert siblings.LAST.kept is None


def test_activations_freed_by_another_thread_free_their_codes(pair):
    held = [activation(1.0, 3, WIDTH)]
    with torch.no_grad():
        pair[0](held[0])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(held.clear).result()
    assert siblings.LAST.kept is None


def test_threads_share_nothing(pair, counted):
    x = activation(1.0, 3, WIDTH)

    def forward(layer: nn.Module) -> Tensor:
        with torch.no_grad():
            return layer(x)

    want = forward(pair[1])
    counted.clear()
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(forward, pair[1]).result(), want)
    assert len(counted) == 1


def test_static_scales_are_each_layers_own(counted):
    model = nn.Sequential(nn.Linear(WIDTH, 32), nn.Linear(WIDTH, 32))
    weights = {
        str(i): quant.quantize(layer.weight.data, quant.FORMATS["float8_e4m3fn"], quant.PerTensor())
        for i, layer in enumerate(model)
    }
    weights = {name: replace(weight, input_scale=torch.tensor(0.01)) for name, weight in weights.items()}
    quant.patch_linears(model, weights, compute="scaled_mm", activation_scale="static")
    counted.clear()
    with torch.no_grad():
        for layer in model:
            layer(torch.ones(2, WIDTH))
    assert len(counted) == 2 and all(scheme.startswith("float8 static") for scheme in counted)
