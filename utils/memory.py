"""Settings -> the peak memory of one training step, before anything is allocated."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import count, islice
from math import isqrt
from typing import NamedTuple

import torch
from torch import nn

from utils.compute import Compute
from utils.distributed import Ranks
from utils.engine import Batch, Learner
from utils.footprint import Footprint, trace
from utils.report import table

GIB = 2**30
DEFAULT_GIB = 8.0  # where the device does not say
PIXELS = 1 << 16  # of a batch, from which on all is in proportion: a loss may take them in slices
MOST = 1 << 20  # images of a batch


class Setting(NamedTuple):
    """How a step trades time for memory. ckpt: a mode of recomputation, "none" is the plain one."""

    amp: bool
    ckpt: str

    @property
    def flags(self) -> str:
        """As they are given to train.py."""
        words = ["--amp"] * self.amp + [f"--ckpt {self.ckpt}"] * (self.ckpt != "none")
        return " ".join(words)


class Plan:
    """What a training step of a run takes, in bytes.

    trace: finds the footprint of a setting with so many images of each task. probe: numbers of
    images whose footprint can be scaled to others, from `least` of each task on. settings: from the
    fastest step to the smallest. asked: the setting of the run. images: of each task in a batch;
    auto: of each task in the largest batch that fits, instead. budget: bytes. what: the run in
    words.
    """

    def __init__(
        self,
        trace: Callable[[Setting, tuple[int, ...]], Footprint],
        probe: tuple[int, ...],
        least: int,
        settings: Sequence[Setting],
        asked: Setting,
        images: tuple[int, ...],
        auto: bool,
        budget: int,
        what: str,
    ) -> None:
        self.trace = cache(trace)
        self.probe, self.least, self.settings, self.asked = probe, least, settings, asked
        self.images, self.budget, self.what = images, budget, what
        if auto:
            self.images = self._even(max(1, self.largest(asked)))

    def footprint(self, setting: Setting, images: tuple[int, ...] | None = None) -> Footprint:
        """Of a step over so many images of each task; over the run's own, if they are not given."""
        images = images or self.images
        if min(images) < self.least:
            return self.trace(setting, images)
        return self.trace(setting, self.probe).scaled(self.probe, images)

    def peak(self, setting: Setting) -> int:
        """Bytes that the batch takes at the worst moment."""
        return self.footprint(setting).peak

    def largest(self, setting: Setting) -> int:
        """How many images of each task fit into the budget; 0 if not even one does."""
        return bisect_right(
            range(1, MOST), self.budget, key=lambda num: self._peak_of(setting, num)
        )

    def _peak_of(self, setting: Setting, num: int) -> int:
        return self.footprint(setting, self._even(num)).peak

    @property
    def fits(self) -> bool:
        """Whether the batch does, with the setting asked for."""
        return self.peak(self.asked) <= self.budget

    def leanest(self) -> Setting:
        """The setting that takes least."""
        return min(self.settings, key=self.peak)

    def text(self) -> str:
        """Two tables: all combinations of flags, and where the bytes are with those asked for."""
        lines = [
            f"peak memory of a training step in GiB: {self.what}",
            table(self._rows()),
            "",
            f"where it is with {self.asked.flags or 'neither'}, batch {_sum(self.images)}",
            table(self._parts()),
            "",
            "Not in it: what kernels borrow inside an operation (cuDNN), gaps between blocks, the",
            "CUDA context, Python and its libraries. Leave them some tenths of a GiB.",
        ]
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, ...]]:
        batch, most = f"batch {_sum(self.images)}", f"most in {self.budget / GIB:g}"
        rows = [("", "fixed", "per image", batch, "saved", most)]
        plain = self.peak(self.settings[0])
        for setting in self.settings:
            num, peak = max(self.least, *self.images), self.peak(setting)
            low, high = (self._peak_of(setting, images) for images in (num, 2 * num))
            numbers = (
                f"{number / GIB:.3f}" for number in (2 * low - high, (high - low) / num, peak)
            )
            name, most = setting.flags or "neither", str(self.largest(setting))
            rows.append((name, *numbers, f"{1 - peak / plain:.0%}", most))
        return rows

    def _parts(self) -> list[tuple[str, ...]]:
        parts = self.footprint(self.asked).parts
        total = sum(parts.values())
        shown = {label: size for label, size in parts.items() if size >= total / 100}
        shown["all else"] = total - sum(shown.values())
        return [
            (label, f"{size / GIB:.3f}", f"{size / total:.0%}") for label, size in shown.items()
        ]

    def summary(self) -> str:
        """What the batch was planned to take, in one line."""
        parts = self.footprint(self.asked).parts
        first = sorted(parts, key=parts.__getitem__, reverse=True)[:3]
        most = ", ".join(f"{label} {parts[label] / GIB:.2f}" for label in first)
        peak, batch = self.peak(self.asked) / GIB, _sum(self.images)
        return f"memory plan: {peak:.2f} GiB for a batch of {batch}, most of it: {most}"

    def misfit(self, smaller: Iterable[Iterable[tuple[str, Plan]]]) -> str:
        """One line for a plan that does not fit: what does, found by trying.

        smaller: ways to need less, each a row of ever smaller plans that fit and what they change.
        """
        largest = self.largest(self.asked)
        ways = [f"--bs {largest}"] if largest else []
        for setting in self.settings:
            if setting.amp >= self.asked.amp and self.peak(setting) <= self.budget:
                ways.append(setting.flags)
                break
        if not ways:
            for plans in smaller:
                fitting = (f"{name} {plan.asked.flags}" for name, plan in plans)
                ways += [way.strip() for way in islice(fitting, 1)]
        return (
            f"--vram {self.budget / GIB:g}: a batch of {_sum(self.images)} needs "
            f"{self.peak(self.asked) / GIB:.2f} GiB ({self.what}); "
            + (f"{' or '.join(ways)} would fit" if ways else "nothing that was tried would fit")
        )

    def _even(self, images: int) -> tuple[int, ...]:
        return (images,) * len(self.images)


def _sum(images: Sequence[int]) -> str:
    return "+".join(map(str, images))


def budget(vram: float | None, device: torch.device) -> int:
    """Bytes: so many GiB if given, else all of a CUDA device, else 8 GiB."""
    if vram is None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return int((DEFAULT_GIB if vram is None else vram) * GIB)


def settings(modes: Sequence[str], half: bool) -> list[Setting]:
    """All combinations; without half precision where the device has none."""
    return [Setting(amp, mode) for mode in modes for amp in ([False, True] if half else [False])]


class Alone(Ranks):
    """The single rank of a plan, also under `torchrun`."""

    def __init__(self) -> None:
        self.device, self.rank, self.world = torch.device("cpu"), 0, 1


class Dummy:
    """A learner of fake tensors: its steps take no memory, and show how much they would take.

    build: makes the learner, here on the meta device. batches: makes one batch of each task, from
    their sizes. recompute: sets a mode. The optimiser has its state, as in every step but the
    first. More than two batches of a task per step take no more than two.
    """

    def __init__(
        self,
        build: Callable[[Compute, Ranks], Learner],
        batches: Callable[[tuple[int, ...]], list[Batch]],
        recompute: Callable[[nn.Module, str], None],
        accum: int = 1,
    ) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second

        self.batches, self.recompute, self.accum = batches, recompute, accum
        self.mode = FakeTensorMode()
        with torch.device("meta"):
            self.learner = build(Compute(torch.device("meta")), Alone())
        with self.mode:
            _replace_tensors(self.learner)
            for group in self.learner.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            self.learner.optimizer.step()

    def probe(self, least: int, num: int) -> tuple[int, ...]:
        """The first `num` primes, at least so large, that divide the size of no weight."""
        tensors = [
            tensor
            for part in (self.learner.model, self.learner.criterion)
            for tensor in (*part.parameters(), *part.buffers())
        ]
        sizes = {tensor.numel() for tensor in tensors}
        primes = (n for n in count(max(5, least)) if all(n % i for i in range(2, isqrt(n) + 1)))
        return tuple(islice((n for n in primes if all(size % n for size in sizes)), num))

    def trace(self, setting: Setting, images: tuple[int, ...]) -> Footprint:
        """The footprint of a step over so many images of each task."""
        learner = self.learner
        self.recompute(learner.model, setting.ckpt)
        dtype = torch.bfloat16 if setting.amp else None  # float16 takes as many bytes
        learner.compute = Compute(torch.device("cpu"), dtype)
        with self.mode:
            if learner.ema is not None:  # the one value that a step asks for
                learner.ema.n_averaged = torch.tensor(0)
            return trace(learner, self.batches(images) * min(self.accum, 2), self.accum)


def _replace_tensors(learner: Learner) -> None:
    """Tensors on the meta device, which autocast does not know, by fake ones on the CPU."""
    new = {}
    for part in filter(None, (learner.model, learner.criterion, learner.ema)):
        for module in part.modules():
            for tensors in (module._parameters, module._buffers):
                for name, old in tensors.items():
                    if old is not None and old not in new:
                        like = torch.empty_strided(
                            old.shape, old.stride(), dtype=old.dtype, device="cpu"
                        )
                        is_parameter = isinstance(old, nn.Parameter)
                        new[old] = nn.Parameter(like, old.requires_grad) if is_parameter else like
                    tensors[name] = new.get(old)
    for group in learner.optimizer.param_groups:
        group["params"] = [new[old] for old in group["params"]]
