"""A real browser for tests: what is missing for one, and the packages by which node drives it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NODE, NPM = shutil.which("node"), shutil.which("npm")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def absent() -> str | None:
    """What is missing for a browser, or None."""
    needed = {"node": NODE, "npm": NPM, "chromium (set CHROMIUM)": CHROMIUM}
    missing = [name for name, found in needed.items() if found is None]
    return f"NO BROWSER TESTS: {', '.join(missing)} not found" if missing else None


def node_modules(folder: Path, *packages: str) -> Path:
    """A node_modules folder with these packages: PLAYWRIGHT_MODULES, or one that npm fills; skips where it cannot."""
    given = Path(os.environ.get("PLAYWRIGHT_MODULES") or folder / "node_modules")
    if all((given / package).is_dir() for package in packages):
        return given
    command = [NPM, "install", "--no-audit", "--no-fund", "--prefix", str(folder), *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.skip(f"NO BROWSER TESTS: npm cannot install {', '.join(packages)}: {done.stderr[-300:]}")
    return folder / "node_modules"
