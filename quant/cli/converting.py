"""convert and plan: what a checkpoint becomes."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from ..errors import Refused, first_line
from .arguments import FILE, Arguments, command, positive
from .output import DONE, FAILED, REFUSED, bar, bytes_bar, complain, put, put_json

# as in formats and saving, which import torch; a test compares them
NATIVE = ("float8_e4m3fn", "float8_e5m2", "mxfp8", "nvfp4", "int8", "int8_convrot", "int4", "int4_convrot")
FOREIGN = ("float8_e4m3fnuz", "float8_e5m2fnuz")
FORMATS_HELP = (
    f"{', '.join(NATIVE)}, which ComfyUI core loads; {', '.join(FOREIGN)} (AMD MI300; this pack alone loads them, "
    "see --allow-unsupported); float32, float16 or bfloat16 for a file without quantization"
)
EFFORTS = ("best", "fast")
EFFORT_HELP = "best searches for better scales of 4-bit formats; fast takes the largest value's"
CALIBRATION_HELP = "what the layers are fed, as Save Calibration wrote it: codes and choices that lose less by it"
USUAL = "nvfp4, int4, int8, float8_e4m3fn"


##### Arguments


def add_convert(commands: Any) -> None:
    one = command(commands, convert, "write a checkpoint in another format or precision")
    one.add_argument(
        "src",
        nargs="+",
        help=f"{FILE}; or folders and globs, for a folder as DST; each may be a URL",
    )
    one.add_argument("dst", help="the .safetensors file or .index.json to write; appears whole or not at all")
    add_what(one)
    add_how(one)
    one.add_argument("--effort", choices=EFFORTS, default=EFFORTS[0], help=EFFORT_HELP)
    one.add_argument("--check", choices=("sample", "all"), default="sample", help="what is read back and compared")
    one.add_argument("--plan", metavar="FILE", help="carry out what scaled-fp8 plan wrote, instead of one format")
    one.add_argument("--calibration", metavar="FILE", help=CALIBRATION_HELP)


def add_what(one: ArgumentParser) -> None:
    """Which layers become what."""
    one.add_argument("--format", help=FORMATS_HELP)
    one.add_argument(
        "--granularity", help="per-tensor, per-row or block, where the format has it; default: as core loads it"
    )
    one.add_argument("--keep", default="", metavar="REGEX", help="layers that stay in high precision")
    one.add_argument(
        "--ignore", action="append", default=[], metavar="LAYER",
        help="a layer to leave with all below it, * for any; may be given several times; beside the file's own list",
    )  # fmt: skip
    one.add_argument(
        "--family", metavar="NAME", help="rules for this model family instead of the recognised; none: generic"
    )
    one.add_argument("--component", help="transformer, encoder or vae: what the file is, or the only part to quantize")
    one.add_argument(
        "--shard-size", metavar="SIZE", help="write shards of at most this size, such as 5GB, and their index"
    )
    one.add_argument("--requantize", action="store_true", help="quantize anew what is quantized already")
    one.add_argument("--allow-unsupported", action="store_true", help="write what ComfyUI loads only with this pack")
    one.add_argument("--config", metavar="FILE", help="settings (TOML): methods by component and family; arguments win")


def add_how(one: ArgumentParser) -> None:
    """What runs it."""
    one.add_argument("--threads", type=positive, metavar="N", help="default: all cores; one a file on an engine")
    one.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="what runs many files: this process, or Ray"
    )
    one.add_argument("--address", help="of a Ray cluster; default: one of this machine's cores")


def add_plan(commands: Any) -> None:
    one = command(commands, plan, "choose the precision of each layer for a budget")
    one.add_argument("src", help=FILE)
    one.add_argument("--budget", required=True, help='such as "7 bits" a weight, "8 GB" in all or "error 0.02"')
    one.add_argument("--calibration", metavar="FILE", help=CALIBRATION_HELP)
    one.add_argument("--formats", default="", metavar="NAMES", help=f"to choose from, by commas; default: {USUAL}")
    one.add_argument("--keep", default="", metavar="REGEX", help="layers that stay in high precision")
    one.add_argument("--family", metavar="NAME", help="rules for this model family instead of the recognised")
    one.add_argument("--effort", choices=EFFORTS, default=EFFORTS[0], help=EFFORT_HELP)
    one.add_argument("-o", "--out", metavar="FILE", help="the plan as JSON, to be read, edited and carried out")
    one.add_argument("--curve", metavar="FILE", help="bytes against predicted error as a picture, such as curve.png")


##### Commands


def convert(arguments: Arguments) -> int:
    from ..conversion.batch import is_batch, run_batch, run_one
    from ..conversion.converter import Options
    from ..conversion.jobs import Work

    size = arguments.shard_size and shard_size(arguments.shard_size)
    work = Work(request_of(arguments), Options(arguments.threads, arguments.check, size, bar=bytes_bar))
    engine = arguments.engine, arguments.address
    if not is_batch(arguments.src, arguments.dst):
        conversion = run_one(arguments.src[0], arguments.dst, work, *engine)
        put_json(conversion.to_json()) if arguments.json else put(conversion.table())
        return DONE
    batch = run_batch(arguments.src, arguments.dst, work, *engine)
    put_json(batch.to_json()) if arguments.json else put(batch.table())
    if sentence := batch.sentence():
        return complain(sentence, FAILED if batch.said("failed") else REFUSED)
    return DONE


def request_of(arguments: Arguments) -> Any:
    """The requests of a conversion, with the settings file, the plan and the calibration where they are named."""
    from ..conversion.request import Request

    if arguments.plan and arguments.format:
        raise Refused("Both --plan and --format are given: a plan says the format of each layer; leave --format out.")
    settings = settings_of(arguments.config) if arguments.config else None
    planned = plan_of(arguments.plan) if arguments.plan else None
    calibration = arguments.calibration or (planned.calibration if planned else "")
    return Request(
        arguments.format,
        granularity=arguments.granularity,
        keep=arguments.keep,
        family=arguments.family,
        component=arguments.component,
        requantize=arguments.requantize,
        unsupported=arguments.allow_unsupported,
        settings=settings,
        ignored=tuple(arguments.ignore),
        effort=arguments.effort,
        calibration=calibration_of(calibration) if calibration else None,
        plan=planned,
    )


def plan_of(path: str) -> Any:
    from ..calibration.plan import read_plan

    return read_plan(path)


def calibration_of(path: str) -> Any:
    from ..calibration.store import read_calibration

    return read_calibration(path)


def plan(arguments: Arguments) -> int:
    from ..calibration.plan import write_plan
    from ..calibration.planner import PlanRequest, plan_checkpoint

    for path in (arguments.out, arguments.curve):
        check_writable(path)
    if arguments.curve:
        check_picture(arguments.curve)
    formats = tuple(arguments.formats.split(","))
    request = PlanRequest(arguments.budget, formats, arguments.keep, arguments.family, arguments.effort)
    found = plan_checkpoint(arguments.src, request, arguments.calibration, bar)
    if arguments.out:
        write_plan(arguments.out, found)
    if arguments.curve:
        save_curve(arguments.curve, found)
    put_json(found.to_json()) if arguments.json else put(found.table())
    return DONE


def check_writable(path: str | None) -> None:
    """Refused, before a large model is gone through, where nothing can be written."""
    if path and not Path(path).parent.is_dir():
        raise Refused(f"{path}: cannot be written: there is no folder {Path(path).parent}; make it, or name another.")
    if path and Path(path).is_dir():
        raise Refused(f"{path}: cannot be written: it is a folder; name a file.")


def check_picture(path: str) -> None:
    from PIL import Image

    if Path(path).suffix.lower() not in Image.registered_extensions():
        raise Refused(f"{path}: is no kind of picture that can be written; name it .png.")


def save_curve(path: str, found: Any) -> None:
    from ..calibration.curve import draw_curve

    try:
        draw_curve(found.curve).save(path)
    except (OSError, ValueError) as problem:
        raise Refused(f"{path}: the picture cannot be written: {first_line(problem)}.") from None


def settings_of(path: str) -> Any:
    # which knows all methods, and so imports what they need
    from ..recipes.settings import read_settings

    return read_settings(path)


def shard_size(text: str) -> int:
    from ..conversion.shards import size_of

    return size_of(text)
