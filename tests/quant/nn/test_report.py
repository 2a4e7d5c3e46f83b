"""A report says which layers run on dequantized weights by their kernel's family, and by what really ran."""

from __future__ import annotations

import pytest
import torch
from scaled_fp8 import quant
from scaled_fp8.quant.kernels.plan import choose
from scaled_fp8.quant.kernels.registry import KERNELS
from scaled_fp8.quant.nn.report import Report, Row, report_choices

CORE = Row(layer="c", kernel="ComfyUI core mxfp8", reason="core has a kernel for this format", slow=False)


def chosen(compute: str):
    format = quant.FORMATS["float8_e4m3fn"]
    return choose(format, quant.PerRow(), (64, 64), "cpu", torch.float32, compute)


def test_layers_on_cores_kernels_are_not_counted_as_slow():
    report = Report((CORE,))
    assert report.reasons == {}
    assert "not in FP8" not in report.table()


@pytest.mark.parametrize("compute", ("scaled_mm", "upcast"))
def test_slow_is_what_dequantizes(compute):
    choice = chosen(compute)
    (row,) = report_choices({"layer": choice}).rows
    assert row.slow == (compute == "upcast") == (not choice.kernel.on_codes)
    assert report_choices({"layer": choice}).reasons == ({choice.reason: 1} if row.slow else {})


def test_what_ran_instead_of_the_planned_kernel_is_the_reason():
    choice = chosen("scaled_mm")
    choice.count(choice.kernel.name)
    for _ in range(2):
        choice.count("full precision with LoRA")
    report = report_choices({"layer": choice})
    assert report.rows[0].slow and report.rows[0].calls == 3
    assert report.reasons == {"full precision with LoRA": 1}


def test_slow_layers_come_first():
    report = report_choices({"fast": chosen("scaled_mm"), "slow": chosen("upcast")})
    assert [row.layer for row in report.rows] == ["slow", "fast"]
    assert [layer["slow"] for layer in report.to_json()["layers"]] == [True, False]


def test_every_kernel_belongs_to_one_side():
    on_codes = {kernel.name for kernel in KERNELS if kernel.on_codes}
    assert on_codes == {kernel.name for kernel in KERNELS if kernel.name.startswith("scaled_mm")}


def test_a_note_is_told_after_the_totals():
    report = Report((CORE,), ("for all of them",))
    assert report.totals()[-1] == "for all of them" and report.to_json()["notes"] == ["for all of them"]
