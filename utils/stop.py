"""SIGINT and SIGTERM -> a flag: the step in hand is finished and saved before the run ends."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignals:
    """While entered, the first Ctrl-C or SIGTERM sets `requested`; a second one ends at once."""

    requested = False

    def __enter__(self) -> StopSignals:
        self._before = {
            number: signal.signal(number, self._request)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, self._before[number])

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
