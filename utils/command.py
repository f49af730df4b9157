"""The work of a command in, its exit status out: one policy for every script of the project."""

from __future__ import annotations

import sys
from collections.abc import Callable

from datasets.task import UserError


def run_command(work: Callable[[], int | None], stopped: str = "stopped") -> int:
    """Run `work` and return its status, 0 for None.

    A mistake of the user's, or what the system refuses (OSError), is one line on stderr that begins
    with `error:` and status 2. Ctrl-C prints `stopped` and is status 130. Any other exception is a
    bug: it keeps its traceback.
    """
    try:
        return work() or 0
    except (UserError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130


def one_line(error: Exception) -> str:
    """What an error says; out of a loader's worker it comes wrapped in a traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
