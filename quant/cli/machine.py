"""doctor and demo: what this machine can do, and the whole story."""

from __future__ import annotations

from typing import Any

from .arguments import Arguments, command
from .output import DONE, put, put_json


def add_doctor(commands: Any) -> None:
    command(commands, doctor, "try each kernel on each device of this machine")


def add_demo(commands: Any) -> None:
    one = command(commands, demo, "the whole story on an embedded model")
    one.add_argument("--out", default="scaled-fp8-demo", help="folder for the picture and the files")


def doctor(arguments: Arguments) -> int:
    from ..kernels.diagnosis import doctor

    diagnosis = doctor()
    put_json(diagnosis.to_json()) if arguments.json else put(diagnosis.table())
    return DONE


def demo(arguments: Arguments) -> int:
    from ..demo.run import main

    return main(arguments.out, arguments.json)
