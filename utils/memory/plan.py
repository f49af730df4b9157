"""What memory a run will need, and what would fit, said before anything is allocated."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from typing import Self

import torch
from torch import nn

from datasets.task import Batch, UserError
from utils.compute import Compute, amp_dtype
from utils.distributed import Distributed
from utils.engine import TrainState
from utils.flags import CKPT_MODES
from utils.memory.footprint import Footprint
from utils.memory.trace import FakeStep, Mode
from utils.settings import Settings
from utils.terminal import table

Weights = dict[str, tuple[float, ...]]  # by output name, one for each class
Build = Callable[[Settings, Weights, int, Compute, Distributed], TrainState]
Recompute = Callable[[nn.Module, str], Sequence[nn.Module]]

GIB = 2**30
DEFAULT_GIB = 8.0  # where the device does not say
PIXELS = 1 << 16  # of a batch, from which on all is in proportion: a loss may take them in slices
MAX_BATCH = 1 << 20  # images of a batch
SMALLER = (3 / 4, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8)  # of size or width, to find what fits


class MemoryPlan:
    """What a training step of a run takes, in bytes; in one mode alone, if it is given.

    traced: numbers of images whose footprint is scaled to others, from `least` of each task on.
    modes: from the fastest step to the smallest. mode: that of the run. images: of each task in a
    batch; with `--bs auto`, in the largest that fits. budget: bytes on the kind of device. blocks:
    names of those that may be recomputed, as in a footprint's parts. what: the run in words.
    """

    def __init__(
        self, fake_step: FakeStep, settings: Settings, device: torch.device, only: Mode | None
    ) -> None:
        tasks, half = settings.tasks, settings.plan or amp_dtype(device) is not None
        self.mode = only or Mode(settings.amp and half, settings.ckpt)
        self.modes = [only] if only else list(dict.fromkeys([*all_modes(half), self.mode]))
        self.least = math.ceil(PIXELS / min(math.prod(own.size) for own in tasks))
        self.traced, self.trace = fake_step.primes(self.least, len(tasks)), cache(fake_step.trace)
        self.budget, self.device = budget(settings.vram, device), device.type
        self.blocks, self.what = fake_step.blocks(), ", ".join(map(str, tasks))
        self.images = tuple(own.bs for own in tasks)
        usual = self.traced if settings.fit_batch else self.images
        self.spread = cache(lambda mode: self.footprint(mode, usual).spread)
        if settings.fit_batch:
            self.images = self._even(max(1, self.largest(self.mode)))

    def footprint(self, mode: Mode, images: tuple[int, ...] | None = None) -> Footprint:
        """Of a step over so many images of each task; over the run's own, if they are not given."""
        images = images or self.images
        if min(images) < self.least:
            return self.trace(mode, images)
        return self.trace(mode, self.traced).scaled(self.traced, images)

    def peak(self, mode: Mode) -> int:
        """Bytes of the batch's tensors at the worst moment."""
        return self.footprint(mode).peak

    def taken(
        self, mode: Mode, device: str | None = None, images: tuple[int, ...] | None = None
    ) -> int:
        """Bytes that the batch takes from the system: what torch reserves on a GPU ("cuda"), what a
        process grows by ("cpu"); of other kinds of device only the tensors are known."""
        footprint, device = self.footprint(mode, images), device or self.device
        if device == "cuda":
            return footprint.reserved
        return footprint.grown(self.spread(mode)) if device == "cpu" else footprint.peak

    def largest(self, mode: Mode) -> int:
        """How many images of each task fit into the budget; 0 if not even one does."""
        numbers = range(1, MAX_BATCH)
        most = bisect_right(numbers, self.budget, key=partial(self._peak_of, mode))  # is quicker
        return bisect_right(
            numbers[:most],
            self.budget,
            key=lambda num: self.taken(mode, images=self._even(num)),
        )

    def _peak_of(self, mode: Mode, num: int) -> int:
        return self.footprint(mode, self._even(num)).peak

    @property
    def fits(self) -> bool:
        """Whether the batch does, with the mode asked for."""
        return self.taken(self.mode) <= self.budget

    def leanest(self) -> Mode:
        """The mode that takes least."""
        return min(self.modes, key=self.taken)

    def text(self) -> str:
        """Two tables: all combinations of flags, and where the bytes are with those asked for."""
        lines = [
            f"peak memory of a training step in GiB: {self.what}",
            table(self._rows()),
            "",
            f"where it is with {self.mode.flags or 'neither'}, batch {_sum(self.images)}",
            table(self._parts()),
            "",
            "On CUDA: what torch reserves; to it come the context and what cuDNN borrows, some",
            "tenths of a GiB. On a CPU: by how much a process grows, with gaps between tensors and",
            f"what kernels borrow; to it come Python and libraries. Most in: of {self.device}.",
        ]
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, ...]]:
        batch, most = f"batch {_sum(self.images)}", f"most in {self.budget / GIB:g}"
        head = ("", "fixed", "per image", batch, "saved", "on CUDA", "on a CPU", most)
        rows: list[tuple[str, ...]] = [head]
        plain = self.peak(self.modes[0])
        for mode in self.modes:
            num, peak = max(self.least, *self.images), self.peak(mode)
            low, high = (self._peak_of(mode, images) for images in (num, 2 * num))
            numbers = (
                f"{number / GIB:.3f}" for number in (2 * low - high, (high - low) / num, peak)
            )
            taken = (f"{self.taken(mode, where) / GIB:.3f}" for where in ("cuda", "cpu"))
            name, most = mode.flags or "neither", str(self.largest(mode))
            rows.append((name, *numbers, f"{1 - peak / plain:.0%}", *taken, most))
        return rows

    def _parts(self) -> list[tuple[str, ...]]:
        parts = self.footprint(self.mode).parts
        total = sum(parts.values())
        shown = {label: size for label, size in parts.items() if size >= total / 100}
        shown["all else"] = total - sum(shown.values())
        return [
            (label, f"{size / GIB:.3f}", f"{size / total:.0%}") for label, size in shown.items()
        ]

    def summary(self) -> str:
        """What the batch was planned to take, in one line."""
        parts = self.footprint(self.mode).parts
        first = sorted(parts, key=parts.__getitem__, reverse=True)[:3]
        most = ", ".join(f"{label} {parts[label] / GIB:.2f}" for label in first)
        taken, batch = self.taken(self.mode) / GIB, _sum(self.images)
        return f"memory plan: {taken:.2f} GiB for a batch of {batch}, most of it: {most}"

    def misfit(self, smaller: Iterable[Iterable[tuple[str, Self]]]) -> str:
        """One line for a plan that does not fit: what does, found by trying.

        smaller: ways to need less, each a row of ever smaller plans that fit and what they change.
        """
        largest = self.largest(self.mode)
        ways = [f"--bs {largest}"] if largest else []
        for mode in self.modes:
            if mode.amp >= self.mode.amp and self.taken(mode) <= self.budget:
                ways.append(mode.flags)
                break
        if not ways:
            for plans in smaller:
                fitting = (f"{name} {plan.mode.flags}" for name, plan in plans)
                ways += [way.strip() for way in islice(fitting, 1)]
        return (
            f"--vram {self.budget / GIB:g}: a batch of {_sum(self.images)} needs "
            f"{self.taken(self.mode) / GIB:.2f} GiB ({self.what}); "
            + (f"{' or '.join(ways)} would fit" if ways else "nothing that was tried would fit")
        )

    def _even(self, images: int) -> tuple[int, ...]:
        return (images,) * len(self.images)


def _sum(images: Sequence[int]) -> str:
    return "+".join(map(str, images))


def make_plan(
    settings: Settings,
    device: torch.device,
    build: Build,
    recompute: Recompute,
    only: Mode | None = None,
) -> MemoryPlan:
    """What a training step takes, by --amp and --ckpt; or in one mode, if it is given.

    Needs no data and allocates nothing. A plan that is only printed may be for another device.
    """
    light = replace(settings, pretrained=False, init=None, compile=False, ckpt="none")
    tasks = settings.tasks
    weights = {
        output.name: (1.0,) * output.channels
        for each in tasks
        for output in each.task.outputs
        if output.balanced and each.class_weights
    }

    def batches(images: tuple[int, ...]) -> list[Batch]:
        """An empty batch of each task."""
        each = zip(tasks, images, strict=True)
        return [own.task.empty_batch(num, own.size) for own, num in each]

    fake_step = FakeStep(partial(build, light, weights, 1), batches, recompute, settings.accum)
    return MemoryPlan(fake_step, settings, device, only)


def fit_to_memory(
    settings: Settings, device: torch.device, build: Build, recompute: Recompute
) -> tuple[Settings, str]:
    """The settings with the batch of `--bs auto`, and a line about the plan; UserError, which names
    what would fit, if what is asked for needs more than --vram."""
    plan = make_plan(settings, device, build, recompute)
    if not plan.fits:
        leanest = plan.leanest()

        def fitting(row: Iterable[tuple[str, Settings]]) -> Iterator[tuple[str, MemoryPlan]]:
            """The smaller plans of a row that fit, by their flags."""
            for flags, changed in row:
                with suppress(ValueError):  # one value per channel is too few for batch norm
                    smaller = make_plan(changed, device, build, recompute, leanest)
                    if smaller.fits:
                        yield flags, smaller

        raise UserError(plan.misfit(map(fitting, _smaller(_sized(settings, plan)))))
    return _sized(settings, plan), plan.summary()


def _sized(settings: Settings, plan: MemoryPlan) -> Settings:
    """The settings with the batch of their plan: with `--bs auto`, the largest that fits, or one
    image of each task."""
    each = zip(settings.tasks, plan.images, strict=True)
    tasks = tuple(replace(own, bs=images) for own, images in each)
    return replace(settings, tasks=tasks, fit_batch=False)


def _smaller(settings: Settings) -> list[list[tuple[str, Settings]]]:
    """Ways to need less, each a row of flags and the settings with them: smaller and smaller sizes,
    then widths."""
    tasks, network = settings.tasks, settings.network
    height, width = max((own.size for own in tasks), key=math.prod)
    rows: list[list[tuple[str, Settings]]] = [[], []]
    for share in SMALLER:
        size = (max(8, int(share * height) // 8 * 8), max(8, int(share * width) // 8 * 8))
        channels = max(1, int(share * network.width))
        smaller = tuple(replace(own, size=size) for own in tasks)
        rows[0].append(("--size {} {}".format(*size), replace(settings, tasks=smaller)))
        narrow = replace(network, width=channels)
        rows[1].append((f"--width {channels}", replace(settings, network=narrow)))
    return rows


def budget(vram: float | None, device: torch.device) -> int:
    """Bytes: so many GiB if given, else all of a CUDA device, else 8 GiB."""
    if vram is None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return int((DEFAULT_GIB if vram is None else vram) * GIB)


def all_modes(half: bool) -> list[Mode]:
    """From the fastest step to the smallest; without half precision where the device has none."""
    return [Mode(amp, ckpt) for ckpt in CKPT_MODES for amp in ([False, True] if half else [False])]
