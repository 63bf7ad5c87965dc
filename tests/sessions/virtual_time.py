"""An event loop that does not wait: where nothing else happens, its clock jumps to what is next."""

import asyncio
import selectors
from typing import Any


class _Jumping(selectors.DefaultSelector):
    jumped_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        events = super().select(0 if timeout is not None else None)
        if not events and timeout:
            self.jumped_s += timeout
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._selector_of_ours = _Jumping()
        super().__init__(self._selector_of_ours)

    def time(self) -> float:
        return self._selector_of_ours.jumped_s


VIRTUAL_TIME = ("asyncio", {"loop_factory": VirtualTimeLoop})
