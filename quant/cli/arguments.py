"""What the arguments of all commands have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from ..errors import Refused

FILE = "a .safetensors file, a sharded index.json or a diffusers folder"
Arguments = argparse.Namespace


class Parser(argparse.ArgumentParser):
    """Refuses in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}; see {self.prog} --help.")


def command(commands: Any, run: Callable[[Arguments], int], what: str, as_json: bool = True) -> argparse.ArgumentParser:
    one: argparse.ArgumentParser = commands.add_parser(run.__name__, help=what, description=f"{what.capitalize()}.")
    one.set_defaults(run=run)
    if as_json:
        one.add_argument("--json", action="store_true", help="print one JSON object")
    return one


def positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above zero")
    return int(text)
