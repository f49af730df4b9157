"""Spreads work over processes; results come in the order of the items."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from datasets.task import UserError

AHEAD = 4  # items under way for each process: results wait in no longer a queue than this


def run_in_order(
    function: Callable[[Any, Any], Any],
    shared: Any,
    items: Iterable[Any],
    workers: int,
) -> Iterator[Any]:
    """`function(shared, item)` for every item, in their order, whatever the number of processes.

    shared: pickled once for each process. Items are taken as they are needed, so that memory does
    not grow with their number. What the function raises is raised here. Ctrl-C interrupts it in
    every process, so that it can tidy up, and no item is begun after.
    """
    if workers <= 1:
        yield from (function(shared, item) for item in items)
        return
    pool = ProcessPoolExecutor(workers, initializer=_adopt, initargs=(function, shared))
    try:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(_call, item))
            if len(waiting) >= AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a process was killed, perhaps for want of memory: fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """What a process of the pool works with. Ctrl-C ends the item in hand; between two it is left
    to the parent."""

    def __init__(self, function: Callable[[Any, Any], Any], shared: Any) -> None:
        self.function, self.shared = function, shared
        self.busy = self.interrupted = False
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: Any) -> None:
        self.interrupted = True
        if self.busy:
            self.busy = False
            raise KeyboardInterrupt

    def call(self, item: Any) -> Any:
        """Work on one item, in a worker."""
        if self.interrupted:  # what the pool had handed out before
            raise KeyboardInterrupt
        self.busy = True
        try:
            return self.function(self.shared, item)
        finally:
            self.busy = False


def _adopt(function: Callable[[Any, Any], Any], shared: Any) -> None:
    """What a process does first."""
    global _worker
    _worker = _Worker(function, shared)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent closes nothing: its processes would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _call(item: Any) -> Any:
    return _worker.call(item)
