"""An opened task -> what is odd about its targets, in a line each, before hours are spent on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from datasets.dataset import DenseDataset, TaskData
from datasets.decode import decode_target, file_values
from datasets.images import header_size
from datasets.task import IGNORE, Classes, Depth, Mask, Output, UserError

NUM_LOOKED_AT = 48  # training targets of each output
MAX_PIXELS = 48_000_000  # of an output's targets: about a second
ENOUGH = 4  # targets without a single valid pixel, or all there are, end a run
FEW_CLASSES = 4  # all of which should occur in what is looked at
IGNORED_SHARE = 0.01  # of the pixels, from which a class may be hidden among them


def look(data: TaskData) -> list[str]:
    """A line for each output whose targets seem to be read in another way than they are meant.

    Looks at some training targets, always the same ones; those that cannot be used are left to
    training, which names them. UserError: an output of which no pixel is valid.
    """
    lines = []
    for output in data.task.outputs:
        if output.kind in LOOKS:
            lines += LOOKS[output.kind](output, _Targets(data.train, output))
    return [f"{data.task.name}: {line}" for line in lines]


class _Target(NamedTuple):
    """values: as trained on, (H, W). data and name: the member."""

    values: np.ndarray
    data: bytes
    name: str


class _Targets:
    """Some of an output's targets, spread over a split."""

    def __init__(self, dataset: DenseDataset, output: Output) -> None:
        self.dataset, self.output = dataset, output

    def __iter__(self) -> Iterator[_Target]:
        num, pixels = min(len(self.dataset), NUM_LOOKED_AT), 0
        chosen = np.random.default_rng(0).choice(len(self.dataset), num, replace=False)
        for index in self.dataset.indices[chosen].tolist():
            try:
                data, name = self.dataset.read_target(index, self.output.name)
                width, height = header_size(data, name)
                pixels += width * height
                if pixels > MAX_PIXELS and pixels > width * height:  # but for the first
                    return
                values = decode_target(data, name, self.output).numpy()
            except UserError:
                continue
            yield _Target(values, data, name)

    def limits(self) -> tuple[float, float]:
        """The smallest and the largest number that the files hold."""
        each = [file_values(target.data, target.name, self.output) for target in self]
        return min(values.min() for values in each), max(values.max() for values in each)

    def refuse(self, num: int, what: str) -> list[str]:
        """The end where enough was seen to say that nothing is valid, else a line."""
        line = f"{self.output.name}: {what}"
        if num < min(ENOUGH, len(self.dataset)):
            return [line] if num else []
        raise UserError(f"{self.dataset.task.name}: {line}")


def _look_at_classes(output: Classes, targets: _Targets) -> list[str]:
    num, counts = 0, np.zeros(256, np.int64)
    for target in targets:
        num += 1
        counts += np.bincount(target.values.ravel(), minlength=256)
    labelled = counts[: len(output.classes)]
    ignored = counts[IGNORE] / max(1, counts.sum())
    values = ", ".join(map(str, output.ignored))
    if not labelled.any():
        return targets.refuse(
            num, f"all pixels of {num} training labels are ignored (file value {values})"
        )
    absent = [name for name, count in zip(output.classes, labelled, strict=True) if not count]
    alone = len(absent) == len(output.classes) - 1
    hidden = ignored > IGNORED_SHARE
    if not absent or not (alone or (hidden and len(output.classes) <= FEW_CLASSES)):
        return []
    if alone:
        what = f"{output.classes[int(labelled.argmax())]} is the only class"
    else:
        what = f"{', '.join(absent)} occurs in none"
    line = f"{output.name}: {what} of {num} training labels looked at"
    if hidden:
        line += (
            f"; {ignored:.1%} of the pixels are ignored (file value {values}): if that is a class, "
            f'list the file value of each class in "values"'
        )
    return [line]


def _look_at_mask(output: Mask, targets: _Targets) -> list[str]:
    num, counts = 0, np.zeros(256, np.int64)
    for target in targets:
        num += 1
        counts += np.bincount(target.values.ravel(), minlength=256)
    if counts[1] or not num:
        return []
    if not counts[0]:
        return targets.refuse(num, f"all pixels of {num} training masks are ignored")
    most = targets.limits()[1]
    return [
        f"{output.name}: no foreground in {num} training masks looked at: the largest value in "
        f'their files is {most}, "threshold" is {output.threshold}'
    ]


def _look_at_depth(output: Depth, targets: _Targets) -> list[str]:
    num = 0
    for target in targets:
        num += 1
        if (target.values >= 0).any():
            return []
    if not num:
        return []
    least, most = targets.limits()
    scale = output.scale or "1 / full range"
    return targets.refuse(
        num,
        f"no valid pixel in {num} training depths: their files hold {least} to {most}; see "
        f'"scale" ({scale}), "max_depth" ({output.max_depth:g}) and "missing" ({output.missing})',
    )


LOOKS: dict[str, Callable[..., list[str]]] = {
    "classes": _look_at_classes,
    "mask": _look_at_mask,
    "depth": _look_at_depth,
}
