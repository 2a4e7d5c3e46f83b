"""Ways to quantize as users name them: a format, its granularities and how activations are computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import Refused, one_of
from ..weights.formats import FORMATS, Format
from ..weights.granularity import GRANULARITIES, Granularity, PerGroup
from .families import Family
from .policy import Policy, check_component

# Granularities that a user chooses between; formats that scale by group have no choice.
CHOICES = tuple(name for name in GRANULARITIES if name != PerGroup.name)


@dataclass(frozen=True)
class Method:
    """One way to quantize. compute: for patch_linears ("auto" takes the device's best kernel, "upcast" dequantizes).

    format: name in FORMATS, None for a method that quantizes nothing or picks another one; torchao: name of its config.
    """

    name: str
    title: str
    format_name: str | None
    compute: str = "auto"
    torchao: str | None = None

    @property
    def format(self) -> Format:
        if self.format_name is None:
            raise Refused(f"method {self.name!r} has no format of its own; pick one for a device first.")
        return FORMATS[self.format_name]

    def granularity(self, name: str | None = None) -> Granularity:
        """The format's granularity of that name; formats that scale by group always do."""
        grouped = isinstance(self.format.granularities[0], PerGroup)
        if name not in (None, *GRANULARITIES):
            one_of("granularity", name, CHOICES)
        return self.format.granularity(None if grouped else name)

    def policy(
        self, component: str, granularity: str | None, keep: str, family: Family | None, ignored: Iterable[str] = ()
    ) -> Policy:
        """Which layers of a component it quantizes; Refused where the component cannot stand its format."""
        check_component(component, self.format)
        return Policy(self.format, self.granularity(granularity), component, family, keep, tuple(ignored))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("none", "leave the model as it is", None),
        Method("auto", "what this device runs best", None),
        Method("fp8-dynamic", "FP8 weights, activations scaled per token, FP8 GEMM", "float8_e4m3fn",
               torchao="Float8DynamicActivationFloat8WeightConfig"),
        Method("fp8-weight-only", "FP8 weights, dequantized to compute: half the memory, no faster", "float8_e4m3fn",
               "upcast", "Float8WeightOnlyConfig"),
        Method("int8", "INT8 weights: three times as exact as FP8", "int8", torchao="Int8WeightOnlyConfig"),
        Method("int8-convrot", "INT8 weights, rotated against outliers", "int8_convrot"),
        Method("int4", "INT4 weights with a codebook, INT8 GEMM in ComfyUI: three tenths of the memory", "int4",
               torchao="Int4WeightOnlyConfig"),
        Method("mxfp8", "FP8 weights scaled by groups of 32, for Blackwell", "mxfp8"),
        Method("nvfp4", "4-bit floats scaled by groups of 16, for Blackwell", "nvfp4"),
    )
}  # fmt: skip
# Names of other tools. Every method here leaves what a model family's rules keep: fp8-filtered is no other method.
ALIASES = {"fp8": "fp8-dynamic", "fp8-filtered": "fp8-dynamic", "8bit": "int8", "4bit": "int4"}
VALID_METHODS = (*METHODS, *ALIASES)
# the format of each layer is planned, so that this is no row of the table
BUDGET = Method("budget", "the least error for a budget: each layer's format is planned", None)


def method_named(name: str) -> Method:
    """The method of that name or alias."""
    return METHODS[ALIASES.get(one_of("method", name, VALID_METHODS), name)]
