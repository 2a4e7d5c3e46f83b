"""When kernels are chosen: while a model loads, or in the middle of a forward, where nothing may take long."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar

IN_FORWARD: ContextVar[bool] = ContextVar("IN_FORWARD", default=False)


class InForward(AbstractContextManager[None]):
    """Inside, what is known decides: nothing is measured or compiled."""

    def __enter__(self) -> None:
        self.token = IN_FORWARD.set(True)

    def __exit__(self, *_: object) -> None:
        IN_FORWARD.reset(self.token)


def in_forward() -> bool:
    return IN_FORWARD.get()
