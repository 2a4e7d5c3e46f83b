"""Scaled FP8 for ComfyUI: the door ComfyUI uses."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> object:
    from .nodes import ScaledFP8Extension

    return ScaledFP8Extension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
