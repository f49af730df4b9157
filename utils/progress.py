"""How far a run is, for a person: a bar on a terminal, a line now and then in a log."""

import sys
import time
from contextlib import suppress

from tqdm import tqdm

LINE_SECONDS = 30  # between lines where there is no terminal


class Progress:
    """Steps from `step` to `total`, 0 where that is not known yet. shown: only one rank of several
    says anything.

    A terminal that went away, or a full disk under a log, ends nothing.
    """

    def __init__(self, step: int, total: int, shown: bool) -> None:
        self.first, self.step, self.total, self.shown = step, step, total, shown
        self.bar = tqdm(
            total=total,
            initial=step,
            unit="step",
            disable=not (shown and total and sys.stderr.isatty()),
            dynamic_ncols=True,
        )
        self.begun = self.told = time.monotonic()

    def advance(self) -> None:
        """One step is done."""
        self.step += 1
        self.bar.update()
        now = time.monotonic()
        if self.step == self.first + 1:
            self.begun = now
        elif self.bar.disable and now - self.told >= LINE_SECONDS:
            self.told = now
            self.write(line(self.step, self.total, self.seconds_per_step()))

    def seconds_per_step(self) -> float:
        """So far, all that happens between steps included; but not the first step, in which
        workers start and memory grows."""
        return (time.monotonic() - self.begun) / max(1, self.step - self.first - 1)

    def shorten(self, total: int) -> None:
        """The last step comes earlier."""
        self.total = self.bar.total = total

    def note(self, text: str) -> None:
        """What stands at the end of the bar."""
        self.bar.set_postfix_str(text, refresh=False)

    def write(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self.shown:
            with suppress(OSError):
                self.bar.write(text)
                sys.stdout.flush()

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()


def line(step: int, total: int, seconds: float) -> str:
    """Of `total` steps, each of so many seconds, those done and the time that is left."""
    rate = f"{1 / seconds:.2g} steps/s" if seconds < 1 else f"{seconds:.2g} s/step"
    left = tqdm.format_interval((total - step) * seconds)
    return f"step {step} of {total}, {rate}, {left} left"
