"""Starts a contract script with ComfyUI told what base directory and device to use, before anything imports it."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import comfy.cli_args

comfy.cli_args.args.cpu = True
comfy.cli_args.args.base_directory = json.loads(Path(sys.argv[2]).read_text())["base"]
runpy.run_path(sys.argv[1], run_name="__main__")
