"""How many steps a run takes, how far it is, and how fast: for a person and for the record."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from utils.settings import Settings

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

OVERFIT_STEPS = 300  # enough to learn a batch by heart
EVAL_STEPS = 20  # an evaluation of a small set takes as long as some steps
LINE_SECONDS = 30  # between lines where there is no terminal

T = TypeVar("T")


class Steps(NamedTuple):
    """Optimiser steps: of the whole run, of one epoch, from one evaluation to the next."""

    total: int
    epoch: int
    eval: int


def count_steps(settings: Settings, samples: Sequence[int], world_size: int) -> Steps:
    """An epoch is one pass over the longest training split; when overfitting they do not count.

    samples: to train on, of each task. world_size: how many processes take a batch each.
    """
    each = zip(samples, settings.tasks, strict=True)
    epoch = math.ceil(max(num / (task.bs * settings.accum * world_size) for num, task in each))
    total = settings.steps or (OVERFIT_STEPS if settings.overfit else settings.epochs * epoch)
    return Steps(total, epoch, min(settings.eval_steps or max(epoch, EVAL_STEPS), total))


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


class Meter:
    """Collects steps until `flush`. Values stay on the device until then, so that no step waits."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Begin anew: what came since the last flush was no training, but an evaluation."""
        self.terms: dict[str, list[Tensor]] = {}
        self.images, self.waited = 0, 0.0
        self.start = time.perf_counter()

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; the time that it takes to get them counts as waiting for data."""
        while True:
            start = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - start
            yield batch

    def add(self, terms: dict[str, Tensor], num_images: int) -> None:
        """One step: its loss terms and its images."""
        for name, term in terms.items():
            self.terms.setdefault(name, []).append(term)
        self.images += num_images

    def flush(self) -> dict[str, float]:
        """Means since the last flush: loss terms where finite, `images_per_second`, `waiting`
        (share of the time spent waiting for data), `memory_gib` (the peak so far)."""
        values = {name: torch.stack(terms) for name, terms in self.terms.items()}
        means = {name: float(each[each.isfinite()].mean()) for name, each in values.items()}
        seconds = max(1e-9, time.perf_counter() - self.start)
        means["images_per_second"] = self.images / seconds
        means["waiting"] = self.waited / seconds
        means["memory_gib"] = peak_memory(self.device) / 2**30
        self.restart()
        return means


def peak_memory(device: torch.device) -> int:
    """Bytes at the worst moment so far: what torch has allocated on a GPU; on a CPU, the resident
    memory of the process, Python and libraries included; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
