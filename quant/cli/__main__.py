"""python -m scaled_fp8.quant.cli"""

from __future__ import annotations

import sys

from . import main

sys.exit(main())
