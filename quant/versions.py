"""Which code made a file or a report: this package's version, and those of libraries."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

# as in pyproject.toml, which a folder of ComfyUI's custom nodes is not installed from; a test compares them
PACKAGE = "0.1.0"


def versions(*libraries: str) -> dict[str, str]:
    """Name -> version of this package and of the libraries that are there."""
    found = {name: installed(name) for name in libraries}
    return {"scaled-fp8": PACKAGE} | {name: number for name, number in found.items() if number}


def installed(name: str) -> str:
    """A library's version, "" where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
