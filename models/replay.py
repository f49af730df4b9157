"""Lets layers see a batch again, as recomputation does, with the same outcome.

It is not counted twice in running statistics, and the same channels are dropped. What a layer draws
from a batch goes through `once`; `recompute.py` says which run it is.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn import functional as F

_written: list[list[Any]] = []  # of first runs that are under way: what layers drew so far
_read: list[Iterator[Any]] = []  # of second runs


def once(draw: Callable[[], Any]) -> Any:
    """What `draw` finds in a batch; in a second run over it, what it found in the first."""
    value = next(_read[-1]) if _read else draw()
    for values in _written:  # one recomputation may be inside another
        values.append(value)
    return value


@contextmanager
def first_run(drawn: list[Any]) -> Iterator[None]:
    """Layers inside see a batch for the first time: note in `drawn` what they draw."""
    _written.append(drawn)
    try:
        yield
    finally:
        _written.pop()


@contextmanager
def second_run(drawn: list[Any]) -> Iterator[None]:
    """They see it again, and draw the same in the same order."""
    _read.append(iter(drawn))
    try:
        yield
    finally:
        _read.pop()


def first_and_second_run() -> tuple[AbstractContextManager, AbstractContextManager]:
    """Both, for torch's `checkpoint`."""
    drawn: list[Any] = []
    return first_run(drawn), second_run(drawn)


class ReplayedBatchNorm(nn.BatchNorm2d):
    """Counts a batch once."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), size unchanged"""
        if not _read:
            return super().forward(x)
        unused = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        return F.batch_norm(x, *unused, self.weight, self.bias, True, 0.0, self.eps)


class ReplayedDropout(nn.Dropout2d):
    """Drops the same channels of a batch again."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), size unchanged"""
        if not self.training or is_compiling():
            return super().forward(x)
        drop = super().forward
        return x * once(lambda: drop(x.new_ones(*x.shape[:2], 1, 1)))
