"""The one exception of this package that is meant for people, and other exceptions in few words.

Every sentence opens with its place: a path or a layer and a colon, or an argument and its value. Then what is wrong
there, and after a semicolon what to do. What is raised deeper, where the place is not known, is a clause for it.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from .text import printable

T = TypeVar("T")
# what to do about a file that contradicts itself
AGAIN = "get the file again, or from its producer"


class Refused(Exception):
    """A file, layer or request that cannot be handled right, as one sentence: what, where, got, do.

    file: the place of the sentence, which does not say it then; by_name: the sentence for those who are not to know in
    which folder the file lies.
    """

    def __init__(self, sentence: object = "", file: Path | None = None) -> None:
        clause = str(sentence)
        super().__init__(one_line(f"{file}: {clause}" if file else clause))
        self.by_name = one_line(f"{file.name}: {clause}" if file else clause)


def one_line(text: str) -> str:
    # names from a file may hold line breaks, and what a terminal obeys
    return printable(" ".join(text.splitlines()))


class NoRoom(Refused):
    """A disk that is too full, which another machine's may not be."""


def one_of(what: str, value: T, known: Iterable[T]) -> T:
    """The value of an argument or key, once it is one of those that are known; Refused, with all of them, if not."""
    choices = tuple(known)
    if value not in choices:
        raise Refused(f"{what} {reprlib.repr(value)} is unknown; choose one of {', '.join(map(str, choices))}.")
    return value


def first_line(problem: BaseException) -> str:
    """What a library's exception says, in a clause."""
    text = getattr(problem, "strerror", None) or str(problem).strip() or type(problem).__name__
    return text.splitlines()[0][:160].rstrip(".")


def named(problem: BaseException) -> str:
    """The same with the exception's type, for what a device throws."""
    kind, lines = type(problem).__name__, str(problem).strip().splitlines()
    return f"{kind}: {lines[0][:120]}" if lines else kind
