"""How every script of the project ends, and what it says of an error."""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable

from datasets.task import UserError

_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def run_command(work: Callable[[], int | None], stopped: str = "stopped") -> int:
    """Run `work` and return its status, 0 for None.

    A mistake of the user's, or what the system refuses (OSError, memory), is one line on stderr
    that begins with `error:` and status 2. Ctrl-C prints `stopped` and is status 130. Any other
    exception is a bug: it keeps its traceback.
    """
    try:
        return work() or 0
    except (UserError, OSError) as error:
        text = one_line(error)
        hint = "; fewer --workers need less, `ulimit -n 4096` allows more"
        full = os.strerror(errno.EMFILE) in text
        print(f"error: {text}{hint if full else ''}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"error: out of memory: {one_line(error)}; a smaller --size, --width or --bs needs "
            "less, and --plan shows how much",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130


def print_lines(lines: Iterable[str]) -> None:
    """On standard output, as many as whoever reads it takes."""
    try:
        for line in lines:
            print(line, flush=True)
    except BrokenPipeError:  # `| head`; what is left there would be said to be lost at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, numpy, or torch on any device had none left; torch is not imported for it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )


def one_line(error: Exception) -> str:
    """What an error says; out of a loader's worker it comes wrapped in a traceback."""
    text = str(error).strip() or type(error).__name__
    _, traced, said = text.rpartition(f"\n{UserError.__module__}.{UserError.__name__}: ")
    if not traced:
        said = text if isinstance(error, UserError) else text.rpartition("\n")[2]
    return printable(said)


def printable(text: str) -> str:
    """The text with all escaped that would not stay in its line or its order on a terminal.

    Those are control characters, other line ends, marks that turn the direction of writing, and
    halves of characters. Names of members and files may hold them.
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
