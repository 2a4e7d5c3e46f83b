"""Which layers become what: families, policies, methods, settings, requests, and the memory that it will need."""

from __future__ import annotations

from .auto import pick
from .methods import METHODS
from .policy import Policy

__all__ = ["METHODS", "Policy", "pick"]
