"""python -m scaled_fp8.quant.cli"""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
