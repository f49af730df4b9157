"""Measures training: mean losses, images per second, memory."""

import sys
import time
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

T = TypeVar("T")


class Meter:
    """Collects steps until `flush`. Values stay on the device until then, so that no step waits."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._reset()

    def _reset(self) -> None:
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

    def restart(self) -> None:
        """Begin anew: what came since the last flush was no training, but an evaluation."""
        self._reset()

    def flush(self) -> dict[str, float]:
        """Means since the last flush: loss terms, `images_per_second`, `waiting` (share of the time
        spent waiting for data), `memory_gib` (the peak so far, see `peak_memory`)."""
        means = {name: float(torch.stack(terms).mean()) for name, terms in self.terms.items()}
        seconds = max(1e-9, time.perf_counter() - self.start)
        means["images_per_second"] = self.images / seconds
        means["waiting"] = self.waited / seconds
        means["memory_gib"] = peak_memory(self.device) / 2**30
        self._reset()
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
