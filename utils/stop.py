"""A signal that asks for the end becomes a flag: the step in hand is finished and saved first."""

from __future__ import annotations

import signal
from types import FrameType

AGAIN = ("SIGINT", "SIGTERM")  # Ctrl-C and a batch system: a second one means at once
NOTICES = ("SIGHUP", "SIGUSR1")  # the terminal closes (often told twice), a scheduler's warning


class StopSignals:
    """While entered, the first of these signals sets `requested`; a second Ctrl-C or SIGTERM ends
    the process at once. What is ignored outside, as SIGHUP is below `nohup`, stays ignored."""

    requested = False

    def __enter__(self) -> StopSignals:
        known = [getattr(signal, name) for name in AGAIN + NOTICES if hasattr(signal, name)]
        numbers = [n for n in known if signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._request) for number in numbers}
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if signal.Signals(number).name in AGAIN:
            signal.signal(number, self._before[number])

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
