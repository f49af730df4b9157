"""The order in which samples are seen, from any place on."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

# Samples of 20 to 100 kB: a run is a stretch of 20 to 100 MB of a shard, and what is being mixed
# at a time, under 2 GB, fits the memory that a system has left to cache files. A batch of 16 has
# samples of ten runs or more.
RUN = 1024  # neighbours that are shuffled together
MIXED = 16  # runs that are mixed with each other


class InfiniteBatchSampler(Sampler[list[tuple[int, int]]]):
    """Endless batches of (epoch, index): a shuffled epoch follows the other, so that every sample
    comes exactly once an epoch and no batch is short. A function of seed and position: a run
    resumes at batch `start` without reading what it has seen.

    With `world` ranks, `batch` samples go to each, and rank r takes the r-th part of each step's
    samples. neighbours: all indices, those first that lie first in their shards; epochs are then
    shuffled by `mix_runs`, otherwise each order is as likely as any other.
    """

    def __init__(
        self,
        num: int,
        batch: int,
        seed: int,
        start: int = 0,
        part: tuple[int, int] = (0, 1),
        neighbours: np.ndarray | None = None,
    ) -> None:
        self.num, self.batch, self.seed, self.start = num, batch, seed, start
        self.rank, self.world_size = part
        self.neighbours = neighbours

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        position = (self.start * self.world_size + self.rank) * self.batch
        epoch, order = -1, None
        while True:
            batch = []
            for number in range(position, position + self.batch):
                if number // self.num != epoch:
                    epoch = number // self.num
                    order = self._order(np.random.default_rng([self.seed, epoch]))
                batch.append((epoch, int(order[number % self.num])))
            yield batch
            position += self.world_size * self.batch

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """The indices of one epoch, integer (num)."""
        if self.neighbours is None:
            return rng.permutation(self.num)
        return mix_runs(self.neighbours, rng)


def mix_runs(neighbours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same (n) in an order that keeps to few places at a time: RUN neighbours are a run, runs
    are shuffled, and MIXED of them at a time, which then follow each other, are shuffled as one."""
    begins = RUN * rng.permutation(-(-len(neighbours) // RUN))
    order = np.empty_like(neighbours)
    at = 0
    for first in range(0, len(begins), MIXED):
        runs = [neighbours[begin : begin + RUN] for begin in begins[first : first + MIXED]]
        mixed = np.concatenate(runs)
        rng.shuffle(mixed)
        order[at : at + len(mixed)] = mixed
        at += len(mixed)
    return order
