"""A function and items go in; its results come out in order, computed in several processes."""

from __future__ import annotations

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
    function: Callable[[Any, Any], Any], shared: Any, items: Iterable[Any], workers: int
) -> Iterator[Any]:
    """`function(shared, item)` for every item, in their order, whatever the number of processes.

    shared: pickled once for each process. Items are taken as they are needed, so that memory does
    not grow with their number. What the function raises is raised here.
    """
    if workers <= 1:
        yield from (function(shared, item) for item in items)
        return
    pool = ProcessPoolExecutor(workers, None, _adopt, (function, shared))
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


def _adopt(function: Callable[[Any, Any], Any], shared: Any) -> None:
    """What a process does first. Ctrl-C is left to the parent, with which this process ends."""
    global _adopted
    _adopted = function, shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent closes nothing: its processes would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _call(item: Any) -> Any:
    function, shared = _adopted
    return function(shared, item)
