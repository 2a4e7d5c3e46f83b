"""compare and report: how far two checkpoints are apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import Refused
from .arguments import FILE, Arguments, command
from .output import DONE, bar, put, put_json

PAGE = "scaled-fp8-report.html"


def add_compare(commands: Any) -> None:
    one = command(commands, compare, "measure how far the weights of two checkpoints are apart")
    one.add_argument("a", help=f"what B is measured against: {FILE}")
    one.add_argument("b", help="another one of the same model")


def add_report(commands: Any) -> None:
    one = command(commands, report, "write a page that shows how far two checkpoints are apart, and where")
    one.add_argument("a", help=f"what B is measured against: {FILE}")
    one.add_argument("b", help="another one of the same model")
    one.add_argument("-o", "--out", metavar="FILE", help=f"the page; default: {PAGE}, and none with --json")


def compare(arguments: Arguments) -> int:
    from ..quality.comparison import compare

    comparison = compare(arguments.a, arguments.b, bar)
    put_json(comparison.to_json()) if arguments.json else put(comparison.table())
    return DONE


def report(arguments: Arguments) -> int:
    from ..quality.checkpoints import compare_weights
    from ..quality.page import write_page

    out = arguments.out or (None if arguments.json else PAGE)
    if out:
        check_page(Path(out))
    quality = compare_weights(arguments.a, arguments.b, bar)
    if out:
        write_page(out, quality)
    put_json(quality.to_json()) if arguments.json else put(f"{summary(quality)}\n{out}: written.")
    return DONE


def check_page(path: Path) -> None:
    """Refused, before anything is read, where no page can be put; a model is no page, whichever it is."""
    from ..files.atomic import check_targets

    if path.suffix.lower() not in (".html", ".htm"):
        raise Refused(f"{path}: a report is a page; give a name that ends in .html.")
    check_targets({path: 0})


def summary(quality: Any) -> str:
    """What a page's reader sees first."""
    return "\n".join(filter(None, (quality.noise, *quality.warnings, quality.totals())))
