"""What budgets people may say."""

from __future__ import annotations

import pytest
from scaled_fp8.quant import Refused
from scaled_fp8.quant.calibration.budget import Budget, budget_of


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("7 bits", "bits", 7), ("6.5bits", "bits", 6.5), ("1 bit", "bits", 1), ("8 GB", "bytes", 8e9),
        ("500mb", "bytes", 5e8), ("2 GiB", "bytes", 2**31), ("error 0.02", "error", 0.02),
        (" error  .5 ", "error", 0.5), ("error 0", "error", 0), ("0 bits", "bits", 0),
    ],
)  # fmt: skip
def test_is_understood(text: str, kind: str, amount: float) -> None:
    assert budget_of(text) == Budget(kind, amount)


@pytest.mark.parametrize("text", ["", "7", "8 TB", "bits 7", "error", "error -1", "nan bits", "error 1e-2x"])
def test_is_refused_with_examples(text: str) -> None:
    with pytest.raises(Refused, match="7 bits"):
        budget_of(text)


def test_says_what_it_understood() -> None:
    assert [str(budget_of(text)) for text in ("7 bits", "8 GB", "error 0.020")] == ["7 bits", "8 GB", "error 0.02"]
