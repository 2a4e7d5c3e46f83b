"""The device that a launch is for: Triton launches on the current one, which need not be its tensors'."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Makes device the current one, where there are several of its kind."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).device(device)
    return nullcontext()


def on_its_device(launch: Callable[..., Any]) -> Callable[..., Any]:
    """A launch on the device of its first argument, a tensor or a weight."""

    @wraps(launch)
    def there(first: Any, *others: Any, **named: Any) -> Any:
        with on(first.device if isinstance(first, Tensor) else first.codes.device):
            return launch(first, *others, **named)

    return there
