"""The one exception of this package that is meant for people, and other exceptions in few words."""

from __future__ import annotations

from .text import printable


class Refused(Exception):
    """A file, layer or request that cannot be handled right, as one sentence: what, where, got, do."""

    def __init__(self, sentence: object = "") -> None:
        # names from a file may hold line breaks, and what a terminal obeys
        super().__init__(printable(" ".join(str(sentence).splitlines())))


def first_line(problem: BaseException) -> str:
    """What a library's exception says, in a clause."""
    text = getattr(problem, "strerror", None) or str(problem).strip() or type(problem).__name__
    return text.splitlines()[0][:160].rstrip(".")


def named(problem: BaseException) -> str:
    """The same with the exception's type, for what a device throws."""
    kind, lines = type(problem).__name__, str(problem).strip().splitlines()
    return f"{kind}: {lines[0][:120]}" if lines else kind
