"""The one exception of this package that is meant for people."""

from __future__ import annotations


class Refused(Exception):
    """A file, layer or request that cannot be handled right, as one sentence: what, where, got, do."""

    def __init__(self, sentence: object = "") -> None:
        # names from a file may hold line breaks
        super().__init__(" ".join(str(sentence).splitlines()))
