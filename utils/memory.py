"""Settings -> the peak memory of one training step, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
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
PIXELS = 1 << 16  # at least so many are traced, since a loss may take them in slices


class Setting(NamedTuple):
    """How a step trades time for memory. ckpt: a mode of recomputation, "none" is the plain one."""

    amp: bool
    ckpt: str

    @property
    def flags(self) -> str:
        """As they are given to train.py."""
        words = ["--amp"] * self.amp + [f"--ckpt {self.ckpt}"] * (self.ckpt != "none")
        return " ".join(words)


class Line(NamedTuple):
    """Footprints of two batches, with as many images of every task: every section's peak, and so
    the step's, as a function of that number. Loss slices and blocks round it by thousandths."""

    few: int
    many: int
    low: Footprint
    high: Footprint

    def sections(self) -> Iterator[tuple[float, float]]:
        """Fixed bytes and bytes per image."""
        for low, high in zip(self.low.peaks, self.high.peaks, strict=True):
            slope = (high - low) / (self.many - self.few)
            yield low - slope * self.few, slope

    def worst(self, images: int) -> tuple[float, float]:
        """The section that takes most with so many images of each task."""
        return max(self.sections(), key=lambda section: section[0] + section[1] * images)

    def peak(self, images: int) -> float:
        """Bytes at the worst moment of a step over so many images of each task."""
        fixed, slope = self.worst(images)
        return fixed + slope * images

    def largest(self, budget: float) -> int:
        """How many images of each task fit into so many bytes; 0 if not even one does."""
        if self.peak(1) > budget:
            return 0
        return int(min((budget - fixed) // slope for fixed, slope in self.sections() if slope > 0))


class Plan:
    """What a training step of a run takes, in bytes.

    trace: finds the footprint of a setting with so many images of each task. settings: from the
    fastest step to the smallest. asked: the setting of the run. images: of each task in a batch;
    auto: of each task in the largest batch that fits, instead. few: images of each task for a
    first look; the batch, or twice as many, for the second. budget: bytes. what: the run in words.
    """

    def __init__(
        self,
        trace: Callable[[Setting, tuple[int, ...]], Footprint],
        settings: Sequence[Setting],
        asked: Setting,
        images: tuple[int, ...],
        auto: bool,
        few: int,
        budget: int,
        what: str,
    ) -> None:
        self.trace = cache(trace)
        self.settings, self.asked, self.images = settings, asked, images
        self.few, self.budget, self.what = few, budget, what
        self.many = max(images) if few < max(images) <= 16 * few else 2 * few
        if auto:
            self.images = self._even(max(1, self._largest()))

    def line(self, setting: Setting) -> Line:
        """How a setting grows with the batch."""
        both = self.few, self.many
        return Line(*both, *(self.trace(setting, self._even(images)) for images in both))

    def _largest(self) -> int:
        """Images of each task in the largest batch that fits: from the line, then by trying."""
        line = self.line(self.asked)
        images, slope = max(1, line.largest(self.budget)), line.peak(2) - line.peak(1)

        def left(images: int) -> int:
            return self.budget - self.trace(self.asked, self._even(images)).peak

        while images and left(images) < 0:
            images -= 1
        while images and left(images) > 0.9 * slope and left(images + 1) >= 0:
            images += 1
        return images

    def peak(self, setting: Setting) -> float:
        """Bytes that the batch takes: traced for the setting asked for, from a line for others."""
        if setting == self.asked or len(set(self.images)) > 1:
            return self.trace(setting, self.images).peak
        return self.line(setting).peak(self.images[0])

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
            line, peak = self.line(setting), self.peak(setting)
            fixed, slope = line.worst(max(self.images))
            numbers = (f"{number / GIB:.3f}" for number in (fixed, slope, peak))
            name, most = setting.flags or "neither", str(line.largest(self.budget))
            rows.append((name, *numbers, f"{1 - peak / plain:.0%}", most))
        return rows

    def _parts(self) -> list[tuple[str, ...]]:
        parts = self.trace(self.asked, self.images).parts
        total = sum(parts.values())
        shown = {label: size for label, size in parts.items() if size >= total / 100}
        shown["all else"] = total - sum(shown.values())
        return [
            (label, f"{size / GIB:.3f}", f"{size / total:.0%}") for label, size in shown.items()
        ]

    def summary(self) -> str:
        """What the batch was planned to take, in one line."""
        parts = self.trace(self.asked, self.images).parts
        first = sorted(parts, key=parts.__getitem__, reverse=True)[:3]
        most = ", ".join(f"{label} {parts[label] / GIB:.2f}" for label in first)
        peak, batch = self.peak(self.asked) / GIB, _sum(self.images)
        return f"memory plan: {peak:.2f} GiB for a batch of {batch}, most of it: {most}"

    def misfit(self, smaller: Iterable[Iterable[tuple[str, Plan]]]) -> str:
        """One line for a plan that does not fit: what does, found by trying.

        smaller: ways to need less, each a row of ever smaller plans with what they change.
        """
        largest = self.line(self.asked).largest(self.budget)
        ways = [f"--bs {largest}"] if largest else []
        for setting in self.settings:
            if setting.amp >= self.asked.amp and self.peak(setting) <= self.budget:
                ways.append(setting.flags)
                break
        if not ways:
            for plans in smaller:
                fitting = (f"{name} {plan.asked.flags}" for name, plan in plans if plan.fits)
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
