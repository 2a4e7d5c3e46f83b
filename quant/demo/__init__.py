"""The whole story on an embedded model that draws digits, without ComfyUI and without a download."""

from __future__ import annotations

from .run import main

__all__ = ["main"]
