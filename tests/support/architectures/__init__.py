"""Small builds of ComfyUI's own architectures: the sizes each is built with, and what its forward is given.

``SMALL`` has one entry for each class of ``comfy.supported_models``; ``TOO_LARGE`` those whose sizes ComfyUI fixes,
with the reason. A class in neither is new: look at it and add it.
"""

from __future__ import annotations

from .images import IMAGES
from .small import Small
from .sounds_and_shapes import SOUNDS_AND_SHAPES
from .unets import UNETS
from .videos import VIDEOS

SMALL: dict[str, Small] = UNETS | IMAGES | VIDEOS | SOUNDS_AND_SHAPES

TOO_LARGE = {
    "MiniMaxMusic3": "2.5 billion parameters, whose sizes its constructor fixes",
    "SAM3": "its constructor takes no sizes",
    "SAM31": "its constructor takes no sizes",
    "RT_DETR_v4": "a detector of 30 million parameters, mostly convolutions; its sizes are fixed",
}

__all__ = ["SMALL", "TOO_LARGE", "Small"]
