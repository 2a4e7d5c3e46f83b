"""What a forward launches, counted on a CPU."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Launches(TorchDispatchMode):
    """Names of what computes: neither views nor fresh memory."""

    FREE = (
        "device",
        "empty",
        "empty_strided",
        "new_empty",
        "empty_like",
        "detach",
        "lift_fresh",
        "_reshape_alias",
        "_unsafe_view",
    )

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not func.is_view and name not in self.FREE:
            self.names.append(name)
        return func(*args, **(kwargs or {}))
