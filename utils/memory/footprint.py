"""The storages that come and go in a training step, and the bytes that they take."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from utils.memory.allocators import CudaAllocator, Heap, play

BLOCK = 512  # bytes: torch's allocator for CUDA rounds every request up to these
BORROWED = "borrowed"  # what kernels of a CPU take and give back within one operation
READY = 42 << 20  # bytes of libraries, kernels and places for small things, once all are in use


class Footprint:
    """The storages of one step. sizes: bytes of each. labels: what each holds. events: in their
    order, (number of the storage, 1 where it comes or -1 where it goes). present: how many of the
    first are there before the step."""

    def __init__(
        self, sizes: ArrayLike, labels: list[str], events: ArrayLike, present: int = 0
    ) -> None:
        self.sizes, self.labels = np.asarray(sizes, np.int64), labels
        self.present = present
        self.events = np.asarray(events, np.int64).reshape(-1, 2)
        numbers, changes = self.events.T
        self.lent = np.array([label == BORROWED for label in labels], bool)[numbers]
        self.changes = changes * -(-self.sizes // BLOCK)[numbers] * BLOCK * ~self.lent
        self.held = self.changes.cumsum()  # after each event

    @property
    def peak(self) -> int:
        """Bytes of tensors at the worst moment."""
        return int(self.held.max(initial=0))

    @property
    def reserved(self) -> int:
        """Bytes that torch's allocator for CUDA takes from the device for them."""
        events = self.events[~self.lent].tolist()
        return play(CudaAllocator(), self.sizes.tolist(), events, self.present)

    @property
    def lasting(self) -> int:
        """Bytes that are there before a step."""
        return int(self.held[: self.present][-1:].sum())

    @property
    def spread(self) -> float:
        """Bytes of a CPU's heap for one of a step's own at its worst moment: it has gaps, and lends
        to kernels. About the same for every number of images."""
        last, step = self.present, self.events[self.events[:, 0] >= self.present]
        sizes = self.sizes.tolist()
        taken = play(Heap(), sizes[last:], (step - [last, 0]).tolist())
        return taken / max(1, self.peak - self.lasting)

    def grown(self, spread: float) -> int:
        """Bytes by which a process on a CPU grows."""
        return int(READY + self.lasting + spread * (self.peak - self.lasting))

    @property
    def parts(self) -> dict[str, int]:
        """Bytes at the worst moment by what they hold, in order of arrival."""
        parts: dict[str, int] = {}
        worst = self.held.argmax() + 1 if len(self.held) else 0
        for (number, _), change in zip(self.events[:worst], self.changes, strict=False):
            label = self.labels[number]
            parts[label] = parts.get(label, 0) + int(change)
        return {label: size for label, size in parts.items() if size}

    def scaled(self, traced: Sequence[int], images: Sequence[int]) -> "Footprint":
        """The same step over other numbers of images of each task than were traced.

        Those traced are different primes and divide the size of nothing else: what they divide
        grows with the images, and nothing else does.
        """
        sizes = self.sizes.copy()
        for before, after in zip(traced, images, strict=True):
            grows = self.sizes % before == 0
            sizes[grows] = self.sizes[grows] // before * after
        return Footprint(sizes, self.labels, self.events, self.present)
