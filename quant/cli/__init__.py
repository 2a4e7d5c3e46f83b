"""The command line: exit 0 is done, 2 refused in one sentence on stderr, 1 anything else."""

from __future__ import annotations

# torch and what needs it are imported by the commands: --help is instant
from ..errors import Refused
from .arguments import Parser
from .comparing import add_compare, add_report
from .converting import add_convert, add_plan
from .inspecting import add_inspect
from .machine import add_demo, add_doctor
from .output import FAILED, REFUSED, complain, prepare_streams, unexpected

# in the order of --help
COMMANDS = (add_inspect, add_convert, add_compare, add_report, add_plan, add_doctor, add_demo)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    prepare_streams()
    try:
        parsed = parser().parse_args(arguments)
        return int(parsed.run(parsed))
    except Refused as refusal:
        return complain(str(refusal), REFUSED)
    except KeyboardInterrupt:
        return complain("Interrupted; nothing was left behind.", FAILED)
    except Exception as problem:
        return complain(unexpected(problem), FAILED)


def parser() -> Parser:
    top = Parser(
        "scaled-fp8", description="FP8 checkpoints: what is in them, what they become, what this machine can do."
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return top
