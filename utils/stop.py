"""Ends a run well when a signal asks for it: the step in hand is finished and saved first."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NoReturn, Self, TypeVar

T = TypeVar("T")

AGAIN = ("SIGINT", "SIGTERM")  # Ctrl-C and a batch system: a second one means at once
NOTICES = ("SIGHUP", "SIGUSR1")  # the terminal closes (often told twice), a scheduler's warning
STOPPED = 130  # the exit status of a run that was stopped
REQUEUE = 75  # of one that a scheduler warned, which is to be started again: EX_TEMPFAIL


def _numbers() -> list[int]:
    """Those that this system has, but for what is ignored, as SIGHUP is below `nohup`."""
    known = [getattr(signal, name) for name in AGAIN + NOTICES if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def _status(number: int) -> int:
    return REQUEUE if signal.Signals(number).name == "SIGUSR1" else STOPPED


def end_on_signals() -> None:
    """From here on the first of these signals prints a line and ends the process with its status,
    outside StopSignals; a second one ends it at once."""
    numbers, owner = _numbers(), os.getpid()

    def end(number: int, frame: FrameType | None) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() == owner:  # what it forks inherits this
            print("stopped", file=sys.stderr)
        raise SystemExit(_status(number))

    for number in numbers:
        signal.signal(number, end)


class Stopped(Exception):
    """A signal asks for the end of what takes longer than a step."""


class StopSignals:
    """While entered, the first of these signals sets `requested`, and `status` to what the process
    shall end with; a second Ctrl-C or SIGTERM ends it at once. What is ignored outside stays so."""

    requested = False
    status = STOPPED

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._request) for number in _numbers()}
        return self

    def until(self, items: Iterable[T]) -> Iterator[T]:
        """The items, up to the first signal: Stopped then."""
        for item in items:
            if self.requested:
                raise Stopped
            yield item

    def _request(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self.status = True, _status(number)
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        elif signal.Signals(number).name in AGAIN:
            signal.signal(number, signal.SIG_DFL)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
