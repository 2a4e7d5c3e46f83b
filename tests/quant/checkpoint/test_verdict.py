"""The verdict as a value: what it prints and serialises."""

from __future__ import annotations

import json

import pytest
from scaled_fp8.quant.checkpoint.verdict import LayerVerdict, Verdict

SCALED = LayerVerdict("blocks.0.q", (64, 32), "float8_e4m3fn", "per-row", (64, 1), "scaled", "optimum-quanto")
LOST = LayerVerdict("blocks.1.q", (64, 32), "float8_e4m3fn", None, None, "refused", "its scale is missing")
ACCEPTED = Verdict("a.safetensors", True, "optimum-quanto", ("A note.",), (SCALED,), {"scaled": 1})
REFUSED = Verdict(
    "b.safetensors", False, "plain cast", ("blocks.1.q: lost.", "A note."), (SCALED, LOST), {"refused": 1}
)
VERDICTS = {"accepted": ACCEPTED, "refused": REFUSED}


@pytest.mark.parametrize("name", VERDICTS)
def test_json_has_the_fixed_keys_and_plain_data(name):
    verdict = VERDICTS[name]
    found = json.loads(json.dumps(verdict.to_json()))
    assert found == verdict.to_json()
    assert list(found) == ["accepted", "dialect", "reasons", "layers", "totals"]
    layer = found["layers"][0]
    assert layer["shape"] == [64, 32] and layer["scale_shape"] == [64, 1] and layer["decision"] == "scaled"


@pytest.mark.parametrize("name", VERDICTS)
def test_table_has_a_line_for_each_layer_and_says_everything_once(name):
    verdict = VERDICTS[name]
    lines = verdict.table().splitlines()
    assert lines[0].split() == ["layer", "shape", "format", "granularity", "decision", "reason"]
    assert [line.split()[0] for line in lines[1 : 1 + len(verdict.layers)]] == [v.name for v in verdict.layers]
    for reason in verdict.reasons:
        assert verdict.table().count(reason) == 1


def test_sentence_of_a_refusal_is_its_first_reason():
    assert REFUSED.sentence() == "b.safetensors: blocks.1.q: lost."


def test_sentence_of_an_accepted_file_counts_decisions():
    assert ACCEPTED.sentence() == "a.safetensors: optimum-quanto: 1 scaled."
