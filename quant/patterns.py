"""Regular expressions that others wrote, searched in time that grows with the text alone: a workflow may carry any."""

from __future__ import annotations

import re
import warnings
from typing import Protocol

from .errors import Refused, first_line

try:
    import re2
except ImportError:
    re2 = None

LONGEST = 1000  # characters of a pattern


class Pattern(Protocol):
    """What can be searched for in a name; the answer is true or false, of whatever type."""

    def search(self, text: str) -> object: ...


def compiled(pattern: str, what: str) -> Pattern:
    """A pattern by google-re2 where that is installed, else as an automaton; Refused for what neither can bound.

    what: whose pattern it is, as refusals begin.
    """
    shown = f"{what} {pattern[:80]!r}"
    if len(pattern) > LONGEST:
        raise Refused(f"{shown} has {len(pattern)} characters; {LONGEST} are the most.")
    try:
        return by_re2(pattern, shown) if re2 else automaton(pattern, shown)
    except (RecursionError, MemoryError):
        raise Refused(f"{shown} is nested too deeply; write it with fewer parentheses.") from None
    except (ValueError, OverflowError, re.error) as problem:
        raise Refused(f"{shown} is not a regular expression: {first_line(problem)}.") from None


def by_re2(pattern: str, shown: str) -> Pattern:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as problem:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
        # Python's own reads it: it looks around, or refers back
        told = problem.args[0].decode(errors="replace") if isinstance(problem.args[0], bytes) else str(problem)
        raise Refused(f"{shown} cannot be searched in bounded time: {told}.") from None


def automaton(pattern: str, shown: str) -> Pattern:
    from .automaton import Automaton

    return Automaton(pattern, shown)
