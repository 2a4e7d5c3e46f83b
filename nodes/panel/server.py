"""ComfyUI's server, where this process is one."""

from __future__ import annotations

import sys
from typing import Any


def running() -> Any | None:
    """The PromptServer; None in a script, where loading its module would want all that a server does."""
    loaded = sys.modules.get("server")
    return getattr(getattr(loaded, "PromptServer", None), "instance", None)
