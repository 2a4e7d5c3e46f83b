"""What a node says of itself while it runs."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .server import running


def say(node: type[io.ComfyNode], text: str) -> None:
    """Show a line on a node that runs; nothing where no server asks for it."""
    server, identity = running(), getattr(node.hidden, "unique_id", None)
    if server is not None and identity is not None:
        server.send_progress_text(text, identity)
