# ruff: noqa: E501
"""Regular expressions that a workflow may carry: searched as re searches them, and never for long."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from scaled_fp8.quant import FORMATS, Refused, patch_linears, patterns
from scaled_fp8.quant.recipes.policy import Policy

NAMES = [
    "", "a", "blocks.0.attn.q", "blocks.12.attn.to_out.0", "double_blocks.3.img_mlp.0", "final_layer.linear", "x_y-z",
    "transformer_blocks.0.ff.net.2", "BLOCKS.7.Attn.V", "a.b.c.d", "img_in", "é.ß", "time_in.in_layer", "aaa", "12.34",
]  # fmt: skip
# what people write
HONEST = [
    "", ".*", ".", "attn", r"blocks\.\d+\.attn", r"^blocks\.(0|1|12)\.", r"\.(q|k|v)$", r"(?i)attn", "[^.]+$", "^$",
    r"blocks\.[0-9]{1,2}\.", r"(img|txt)_in", r"\bq\b", r"\Bn", r"a{2,}", r"a{0}x?", r"(?:a|b)+?", "[a-c.]*d", r"\w+-\w",
    r"(?P<n>x)_y", r"[^a-z]", r"(?i)[^A-Z.]", r"\Aa\Z", r"(a|b|)*c", r"((a*)*)*$", "ff.net.2|linear", r"\D\S\W", "[]x]",
]  # fmt: skip
HOSTILE = [
    r"^(\w+\.?)+!$", r"(a+)+$", r"(.*)*x!", r"(\w*)*\.!", r"(a|a)*b!", r"((a+)+)+!", ".*.*.*.*.*.*.*.*.*!", r"(.?){500}!",
    "(((.{20}){20}){10})!", "(x+x+)+y!", "a?" * 200 + "a" * 200, r"([\w.]+)+[^\w.]!",
]  # fmt: skip
BROKEN = [
    "(", "[", "*", "a{99999999999999999999}", "(" * 3000 + ")" * 3000, "(" * 490 + ")" * 490, r"(?<=x)y(?<!z)", r"(a)\1", "(?!a)b",
    "x" * 10**6, "((a{500}){500}){500}", "\\", "(?P<n>a)(?P=n)", "(?L)a", r"\N{BOGUS}", "a**", "(?>a+)b" if sys.version_info >= (3, 11) else "(",
]  # fmt: skip


@pytest.mark.parametrize("pattern", HONEST)
def test_it_finds_what_re_finds(pattern: str) -> None:
    found = patterns.compiled(pattern, "keep")
    for name in NAMES[: -4 if "\\" in pattern else None]:
        assert bool(found.search(name)) == bool(re.search(pattern, name)), name


@pytest.mark.parametrize("pattern", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_one_is_searched_or_refused_soon(pattern: str) -> None:
    texts = ["a" * 400, "blocks.0." * 50, "x" * 500 + "!", "." * 300, "_.a" * 100]
    try:
        found = patterns.compiled(pattern, "keep")
        for text in texts * 40:
            found.search(text)
    except Refused as refusal:
        assert "keep" in str(refusal) and len(str(refusal)) < 300


@pytest.fixture
def recursing() -> Iterator[Callable[[int], None]]:
    """Sets how deep Python recurses at least, as torch's compiler does."""
    before = sys.getrecursionlimit()
    yield lambda limit: sys.setrecursionlimit(max(limit, before))
    sys.setrecursionlimit(before)


def looked_at(pattern: str, text: str) -> int:
    """How many states of a pattern a search goes through."""
    found = patterns.compiled(pattern, "keep")
    found.search(text)
    return patterns.PATIENCE - found.left


@pytest.mark.parametrize("pattern", [r"^(\w+\.?)+!$", r"(a+)+$", r"(a|a)*b!", ".*.*.*.*.*!", r"((a*)*)*!"])
def test_work_grows_with_the_text_alone(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "KEPT", 0)  # every step anew
    short, long = (looked_at(pattern, "a" * count) for count in (200, 400))
    assert 0 < short < 200 * 60 and long < 2.2 * short


@pytest.mark.parametrize("pattern", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("limit", [1000, 4000])
def test_what_is_none_is_refused_in_a_sentence(pattern: str, limit: int, recursing: Callable[[int], None]) -> None:
    recursing(limit)
    with pytest.raises(Refused) as refusal:
        patterns.compiled(pattern, "keep")
    assert str(refusal.value).startswith("keep '") and len(str(refusal.value)) < 400 and "\n" not in str(refusal.value)


def test_everywhere_a_user_s_pattern_is_taken() -> None:
    e4m3 = FORMATS["float8_e4m3fn"]
    for pattern in ("a{99999999999999999999}", "(" * 3000 + ")" * 3000, r"(?!a)b"):
        with pytest.raises(Refused, match="^keep"):
            Policy(e4m3, e4m3.granularities[0], keep=pattern)
        with pytest.raises(Refused, match="^layers"):
            patch_linears(torch.nn.Linear(16, 16), {}, layers=pattern)
    policy = Policy(e4m3, e4m3.granularities[0], keep=r"^(\w+\.?)+!$")
    assert policy.decide("blocks." * 60 + "q", (64, 64)).quantize


def expression(rng: random.Random, depth: int = 0) -> str:
    kind = rng.randrange(8 if depth < 4 else 4)
    inner = lambda: expression(rng, depth + 1)  # noqa: E731
    # fmt: off
    return [
        lambda: rng.choice("ab."), lambda: rng.choice(["[ab]", "[^a]", r"\w", r"\d", "."]), lambda: rng.choice(["^", "$", r"\b", r"\B"]),
        lambda: rng.choice("ab") * rng.randrange(3), lambda: f"({inner()}|{inner()})",
        lambda: f"(?:{inner()}){rng.choice(['*', '+', '?', '{2}', '{1,3}', '{,2}', '{2,}', '*?'])}",
        lambda: inner() + inner(), lambda: f"(?i:{inner()})",
    ][kind]()  # fmt: skip


def test_random_expressions_find_what_re_finds() -> None:
    rng, count = random.Random(5), 0
    texts = ["", "a", "b", "ab", "ba.", "aab", "A.b", "1", "abab", ".", "aB_"]
    while count < 1500:
        pattern = expression(rng)
        try:
            expected = [bool(re.search(pattern, text)) for text in texts]
        except re.error:
            continue
        count += 1
        found = patterns.compiled(pattern, "keep")
        assert [bool(found.search(text)) for text in texts] == expected, pattern
