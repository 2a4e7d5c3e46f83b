"""The one exception of this package that is meant for people."""

from __future__ import annotations


class Refused(Exception):
    """A file, layer or request that cannot be handled right, as one sentence: what, where, got, do."""
