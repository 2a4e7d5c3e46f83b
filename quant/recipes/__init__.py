"""Which layers become what: families, policies, methods, settings, and what they will need."""

from __future__ import annotations

from .auto import pick
from .methods import METHODS
from .policy import Policy

__all__ = ["METHODS", "Policy", "pick"]
