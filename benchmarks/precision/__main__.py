"""What precision costs a picture: ``python -m benchmarks.precision [--subject digits-flux2] [--folder FOLDER]``.

Prints what was wanted beside what was found, and writes benchmarks/results/precision/SUBJECT.json and
the tables of docs/precision.md. Weights only: activations are as the model has them. With --folder a run that was cut
short goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from ..comfyui import absent
from .measure import Bench
from .subjects import Demo, Digits, Wan
from .table import found_of, save, text, write_document

SUBJECTS = {"demo": Demo, "digits-flux2": Digits, "digits-wan": Wan}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", choices=SUBJECTS, default="digits-flux2")
    parser.add_argument("--folder", type=Path, help="for files and errors, kept; a temporary one without")
    parser.add_argument("--quick", action="store_true", help="without convert_to_quant and without files of the graph")
    arguments = parser.parse_args()
    if arguments.subject != "demo" and (reason := absent()):
        parser.exit(1, f"{reason}\n")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        folder = (arguments.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        found = found_of(Bench(SUBJECTS[arguments.subject](folder), folder), arguments.quick)
    save(found)
    write_document()
    sys.stdout.write(text(found))


if __name__ == "__main__":
    main()
