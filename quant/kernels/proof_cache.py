"""What probes found, kept on disk from one start to the next, for the same device, driver and libraries."""

from __future__ import annotations

import json
import os
import platform
import stat
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import torch

from .. import versions

LARGEST = 1 << 22  # bytes of proofs
WORST = 0.5  # an error that no kernel which works has
OFF = ("off", "0", "no", "false")
# Proofs are of the code in these folders, so they end when it changes
SOURCES = ("kernels", "weights")


@dataclass(frozen=True)
class Proof:
    """One kernel on one device. error: relative, of the worst token, None if it raised; reason: None if it works."""

    error: float | None
    reason: str | None

    @property
    def works(self) -> bool:
        return self.reason is None


@dataclass(frozen=True)
class Time:
    """Of one kernel on one device for some tokens. ratio: over a bfloat16 Linear's, measured in the same run."""

    ratio: float


Found = Proof | Time
Answer = TypeVar("Answer", Proof, Time)


def recall(question: str, device: torch.device, kind: type[Answer]) -> Answer | None:
    """What is kept for question on device, None where nothing is."""
    path = cache_file()
    known = read(path).get(environment(device), {}).get(question) if path else None
    return known if isinstance(known, kind) else None


def remembered(question: str, device: torch.device, probe: Callable[[], tuple[Answer, bool]]) -> Answer:
    """The answer kept for question on device, else the probe's; it says whether its answer is for good."""
    path = cache_file()
    key = environment(device) if path else ""
    if path and (known := read(path).get(key, {}).get(question)):
        return known  # type: ignore[return-value]
    proof, lasting = probe()
    if path and lasting:
        # two processes may both write: the later one's file is whole, and what it lacks is probed again
        with suppress(OSError):
            write(path, key, question, proof)
    return proof


def cache_file() -> Path | None:
    """Where proofs are kept, None where SCALED_FP8_CACHE=off says nowhere."""
    request = os.environ.get("SCALED_FP8_CACHE", "")
    if request.lower() in OFF:
        return None
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        folder = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:  # nobody's home
        return Path(request) / "probes.json" if request else None
    return (Path(request) if request else folder / "scaled-fp8") / "probes.json"


def read(path: Path) -> dict[str, dict[str, Found]]:
    """The kept proofs of kernels: environment -> question -> proof; empty where the file is not as it was written."""
    try:
        status = path.stat()
        known = stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST
        return parsed(path.read_bytes(), status.st_mtime_ns) if known else {}
    except OSError:
        return {}


@cache
def parsed(content: bytes, _: int) -> dict[str, dict[str, Found]]:
    """The kept proofs as values; none of a file that is not as it was written."""
    try:
        stored = json.loads(content)
        return {
            where: {question: checked(**fields) for question, fields in answers.items()}
            for where, answers in stored.items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def checked(**fields: object) -> Found:
    """A proof or time as it was written; ValueError where it is neither."""
    return checked_time(**fields) if "ratio" in fields else checked_proof(**fields)


def checked_time(ratio: object) -> Time:
    if not isinstance(ratio, float) or not ratio > 0:
        raise ValueError("not a time")
    return Time(ratio)


def checked_proof(error: object, reason: object) -> Proof:
    if not isinstance(error, float | None) or not isinstance(reason, str | None) or error is reason is None:
        raise ValueError("not a proof")
    if reason is None and not 0 <= error < WORST:  # type: ignore[operator]
        raise ValueError("no proof: of such an error")
    return Proof(error, reason)


def write(path: Path, key: str, question: str, proof: Found) -> None:
    """Keep a proof: into a file beside the kept ones first, so that nobody reads half of it."""
    known = read(path)
    # what belongs to another driver or version of this device is stale
    device = key.split("|")[0]
    kept = {where: proofs for where, proofs in known.items() if where == key or where.split("|")[0] != device}
    kept[key] = {**kept.get(key, {}), question: proof}
    text = {where: {asked: asdict(proof) for asked, proof in proofs.items()} for where, proofs in kept.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(text, file, indent=1)
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


##### What a proof holds for


@cache
def environment(device: torch.device) -> str:
    """Device name, driver, versions and this code, as one key."""
    libraries = [f"{name} {installed(name)}" for name in ("torch", "comfy-kitchen", "triton", "gcc")]
    return "|".join((device_name(device), driver(device), *libraries, code()))


@cache
def installed(name: str) -> str:
    """A library's version, on which proofs of kernels hang."""
    if name == "torch":
        return torch.__version__
    if name == "gcc":
        return answer_of("gcc", "-dumpfullversion") or "none"
    return versions.installed(name) or "none"


def device_name(device: torch.device) -> str:
    if device.type in ("cuda", "xpu"):
        # two cards of one name are two devices: one may be broken
        own = getattr(torch, device.type).get_device_properties(device)
        return f"{own.name} {getattr(own, 'uuid', device.index)}"
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@cache
def driver(device: torch.device) -> str:
    """The GPU driver's version where a tool tells it; torch's own toolkit everywhere."""
    toolkit = f"cuda {torch.version.cuda} hip {torch.version.hip}"
    if device.type != "cuda" or torch.version.hip:
        return f"{toolkit} {platform.release() if device.type != 'cpu' else ''}".strip()
    return f"{toolkit} driver {answer_of('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader')}"


def answer_of(*command: str) -> str:
    """The first word that a program prints, "" where there is none."""
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.split()
        return answer[0] if answer else ""
    return ""


@cache
def code() -> str:
    rooms = (Path(__file__).parents[1] / room for room in SOURCES)
    files = (path for room in rooms for path in sorted(room.glob("*.*")) if path.suffix in (".py", ".c"))
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
