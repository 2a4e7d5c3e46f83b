"""Tables and lists as people read them."""

from __future__ import annotations

import pytest
from scaled_fp8.quant.text import few, text_table


@pytest.mark.parametrize("most, expected", [(6, "0, 1, 2, 3, 4, 5 and 3 more"), (9, "0, 1, 2, 3, 4, 5, 6, 7, 8")])
def test_long_lists_of_names_are_cut(most, expected):
    assert few([str(i) for i in range(9)], most) == expected


def test_columns_are_as_wide_as_their_widest_cell():
    lines = text_table(("layer", "bits"), [["a", "8"], ["longest", ""]]).splitlines()
    assert lines == ["layer   bits", "a       8", "longest"]


def test_a_line_of_another_length_is_a_mistake():
    with pytest.raises(ValueError):
        text_table(("a", "b"), [["1"]])
