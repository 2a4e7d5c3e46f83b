"""Regular expressions that others wrote, searched in time that grows with the text alone: a workflow may carry any."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

from .errors import Refused, first_line

try:  # what re itself parses with
    from re import _constants as ops  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_constants as ops  # type: ignore[no-redef]
    import sre_parse as parser  # type: ignore[no-redef]

LONGEST = 1000  # characters of a pattern
LARGEST = 5000  # states
DEEPEST = 100  # parentheses within each other
PATIENCE = 2_000_000  # states looked at in all searches together: a few seconds
KEPT = 20_000  # steps that are remembered
Test = Callable[[str], bool]
Place = Callable[[str, str], bool]  # of the characters before and after, "" for none

CATEGORIES: dict[Any, Test] = {
    ops.CATEGORY_DIGIT: str.isdecimal,
    ops.CATEGORY_NOT_DIGIT: lambda c: not c.isdecimal(),
    ops.CATEGORY_SPACE: str.isspace,
    ops.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    ops.CATEGORY_WORD: lambda c: is_word(c),
    ops.CATEGORY_NOT_WORD: lambda c: not is_word(c),
}
PLACES: dict[Any, Place] = {
    ops.AT_BEGINNING: lambda before, after: not before,
    ops.AT_BEGINNING_STRING: lambda before, after: not before,
    ops.AT_END: lambda before, after: not after,
    ops.AT_END_STRING: lambda before, after: not after,
    ops.AT_BOUNDARY: lambda before, after: is_word(before) != is_word(after),
    ops.AT_NON_BOUNDARY: lambda before, after: bool(before + after) and is_word(before) == is_word(after),
}
REPEATS = {ops.MAX_REPEAT, ops.MIN_REPEAT}
FLAGS = re.IGNORECASE | re.UNICODE | re.VERBOSE | re.DOTALL


def is_word(c: str) -> bool:
    return c.isalnum() or c == "_"


def any_case(test: Test, flags: int) -> Test:
    return (lambda c: test(c.lower()) or test(c.upper())) if flags & re.IGNORECASE else test


def compiled(pattern: str, what: str) -> Pattern:
    """A pattern as ``re`` reads it, without what cannot be bounded; Refused where it is none.

    what: whose pattern it is, as refusals begin.
    """
    shown = f"{what} {pattern[:80]!r}"
    if len(pattern) > LONGEST:
        raise Refused(f"{shown} has {len(pattern)} characters; {LONGEST} are the most.")
    try:
        if nesting(pattern) > DEEPEST:
            # the same in every process: how deep Python recurses is for others to set
            raise RecursionError
        return Pattern(pattern, shown)
    except (RecursionError, MemoryError):
        raise Refused(f"{shown} is nested too deeply; write it with fewer parentheses.") from None
    except (ValueError, OverflowError, re.error) as problem:
        raise Refused(f"{shown} is not a regular expression: {first_line(problem)}.") from None


def nesting(pattern: str) -> int:
    """How many parentheses are open at once, at most; escaped ones count too."""
    return max(accumulate((c == "(") - (c == ")") for c in pattern), default=0)


class Pattern:
    """Whether a pattern occurs in texts: an automaton whose states are all followed at once (Thompson, 1968).

    A state either tests the next character (tests), holds at a place (places), or stands for others (ways); all
    lead to the state after it. The last state is the match.
    """

    def __init__(self, pattern: str, shown: str) -> None:
        self.shown, self.left = shown, PATIENCE
        self.tests: dict[int, Test] = {}
        self.places: dict[int, Place] = {}
        self.ways: dict[int, tuple[int, ...]] = {}
        self.size = 0
        self.known: dict[tuple[frozenset[int], str, str], frozenset[int] | None] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = parser.parse(pattern)
        self.check_flags(tree.state.flags)
        self.add_all(tree, tree.state.flags)

    def check_flags(self, flags: int) -> None:
        if flags & ~FLAGS:
            raise Refused(f"{self.shown} has flags that are not read here; i, s and x are.")

    ##### Its states, from what re has parsed

    def new(self) -> int:
        self.size += 1
        if self.size > LARGEST:
            raise Refused(f"{self.shown} repeats too much; {LARGEST} single steps are the most.")
        return self.size - 1

    def add_all(self, tree: Iterable[tuple[Any, Any]], flags: int) -> None:
        for kind, value in tree:
            self.add(kind, value, flags)

    def add(self, kind: Any, value: Any, flags: int) -> None:
        if kind in REPEATS:
            least, most, tree = value
            self.add_repeat(least, most, tree, flags)
        elif kind is ops.BRANCH:
            self.add_branches(value[1], flags)
        elif kind is ops.SUBPATTERN:
            _, added, removed, tree = value
            self.check_flags(added)
            self.add_all(tree, (flags | added) & ~removed)
        elif kind is ops.AT:
            self.places[self.new()] = PLACES[value]
        else:
            self.tests[self.new()] = self.test(kind, value, flags)

    def add_repeat(self, least: int, most: int, tree: Any, flags: int) -> None:
        if least > LARGEST:
            raise Refused(f"{self.shown} repeats too much; {LARGEST} single steps are the most.")
        start = self.size
        for _ in range(least):
            start = self.size
            self.add_all(tree, flags)
        if most is ops.MAXREPEAT:
            self.add_loop(None if least == 0 else start, tree, flags)
            return
        forks = []
        for _ in range(most - least):
            forks.append(self.new())
            self.add_all(tree, flags)
        self.ways |= {fork: (fork + 1, self.size) for fork in forks}

    def add_loop(self, start: int | None, tree: Any, flags: int) -> None:
        """Any number of times; start: of what is there once already and is gone through again."""
        fork = self.new()
        if start is None:
            self.add_all(tree, flags)
            self.ways[self.new()] = (fork,)
        self.ways[fork] = (fork + 1 if start is None else start, self.size)

    def add_branches(self, branches: list[Any], flags: int) -> None:
        fork, ends, starts = self.new(), [], []
        for tree in branches:
            starts.append(self.size)
            self.add_all(tree, flags)
            ends.append(self.new())
        self.ways[fork] = tuple(starts)
        self.ways |= dict.fromkeys(ends, (self.size,))

    def test(self, kind: Any, value: Any, flags: int) -> Test:
        if kind is ops.LITERAL:
            return any_case(lambda c: c == chr(value), flags)
        if kind is ops.NOT_LITERAL:
            same = any_case(lambda c: c == chr(value), flags)
            return lambda c: not same(c)
        if kind is ops.ANY:
            return lambda c: bool(flags & re.DOTALL) or c != "\n"
        if kind is ops.CATEGORY:
            return CATEGORIES[value]
        if kind is ops.RANGE:
            return any_case(lambda c: chr(value[0]) <= c <= chr(value[1]), flags)
        if kind is ops.IN:
            negated = value[0][0] is ops.NEGATE
            tests = [self.test(kind, item, flags) for kind, item in value[negated:]]
            return lambda c: any(test(c) for test in tests) != negated
        raise Refused(f"{self.shown} looks around or refers back, which takes unbounded time; write it without.")

    ##### Searching

    def search(self, text: str) -> bool:
        states: frozenset[int] = frozenset()
        for before, after in zip(("", *text), (*text, ""), strict=True):
            following = self.step(states, before, after)
            if following is None:
                return True
            states = following
        return False

    def step(self, states: frozenset[int], before: str, after: str) -> frozenset[int] | None:
        """The states after a character, None for a match."""
        key = (states, before, after)
        if key not in self.known:
            if len(self.known) >= KEPT:
                self.known.clear()
            self.known[key] = self.stepped(*key)
        return self.known[key]

    def stepped(self, states: frozenset[int], before: str, after: str) -> frozenset[int] | None:
        reached = self.reached({0, *states}, before, after)
        self.left -= len(reached)
        if self.left < 0:
            raise Refused(f"{self.shown} takes too long to search; write a simpler one.")
        if self.size in reached:
            return None
        return frozenset(s + 1 for s in reached if s in self.tests and after and self.tests[s](after))

    def reached(self, states: set[int], before: str, after: str) -> set[int]:
        """States, and all that they lead to without a character."""
        reached, waiting = set(states), list(states)
        while waiting:
            state = waiting.pop()
            further = self.ways.get(state, ())
            if state in self.places and self.places[state](before, after):
                further = (state + 1,)
            waiting += (new := set(further) - reached)
            reached |= new
        return reached
