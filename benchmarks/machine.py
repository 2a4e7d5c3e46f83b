"""What machine this is: its name, clocks, driver and versions, without the name of its host."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "torchao", "comfy-kitchen", "triton", "safetensors", "convert-to-quant")
CLOCKS = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu", "driver_version")


def machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "name": gpu or f"{processor()}, {os.cpu_count()} cores",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory() / 2**30),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "clocks": gpu_clocks() if gpu else processor_clocks(),
        "busy": busy(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: found for name in LIBRARIES if (found := installed(name))},
    }


def busy() -> float | None:
    """How many processes wanted a processor in the last minutes, these measurements' own among them."""
    with suppress(AttributeError, OSError):
        return round(os.getloadavg()[1], 1)
    return None


def slug(name: str) -> str:
    """A machine's name as a file's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def memory() -> int:
    """Bytes of main memory, 0 where the system does not say."""
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def gpu_clocks() -> dict[str, str]:
    """Clocks as they are now, the limits and the driver; empty where nvidia-smi does not tell."""
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        return dict(zip(CLOCKS, (part.strip() for part in told.splitlines()[0].split(",")), strict=False))
    return {}


def processor_clocks() -> dict[str, str]:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        return {"clock": f"{max(told):.0f} MHz"} if told else {}
    return {}


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
