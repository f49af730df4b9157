"""What is counted of the targets of each kind (`STATISTICS`): the rows of a table, and whether they
seem to be read in another way than they are meant.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Self

import numpy as np

from datasets.decode import depth_values, mask_values, open_target
from datasets.task import IGNORE, MAX_UINT16, Depth, Mask, Output, UserError

Row = tuple[str, list[str]]  # a name, and a number as text for each split
Files = Iterable[tuple[bytes, str]]  # encoded targets, each with its name in errors

NUM_LOOKED_AT = 48  # files that are looked at again where something is odd
FEW_CLASSES = 4  # all of which should occur
BETWEEN_SHARE = 0.25  # of a mask that is not 0: more than soft edges are
IGNORED_SHARE = 0.01  # of the pixels, from which a class may be hidden among them


class LabelCounts:
    """Pixels of each label, and of none. title: what the rows tell."""

    title = "share of pixels"

    def __init__(self, output: Output) -> None:
        self.output, self.num = output, 0  # of targets
        self.counts = np.zeros(256, np.int64)

    def count(self, target: np.ndarray) -> None:
        """Add one target, uint8, as in `Sample`."""
        self.num += 1
        self.counts += np.bincount(target.ravel(), minlength=256)

    def add(self, other: Self) -> None:
        """Add what another process counted."""
        self.num += other.num
        self.counts += other.counts

    @property
    def is_void(self) -> bool:
        """Whether not a single pixel says anything."""
        return not self.counts[:IGNORE].any()

    @staticmethod
    def rows(splits: Sequence["LabelCounts"]) -> list[Row]:
        """Shares of labelled pixels, then the unlabelled share of all."""
        labelled = [max(1, int(each.counts[:IGNORE].sum())) for each in splits]
        rows = [
            (name, [_share(each.counts[i], n) for each, n in zip(splits, labelled, strict=True)])
            for i, name in enumerate(splits[0].output.labels)
        ]
        return [*rows, ("(unlabelled)", [percent(each.ignored) for each in splits])]

    @property
    def ignored(self) -> float:
        """Share of the pixels without a label; NaN of nothing."""
        return self.counts[IGNORE] / self.counts.sum() if self.counts.any() else np.nan

    def doubt(self, files: Files) -> str:
        """What is odd about these targets, nothing if they are as they should be."""
        output: Any = self.output
        what, values = "", ", ".join(map(str, output.ignored))
        if self.is_void:
            return f"all pixels of {self.num} labels are ignored (file value {values})"
        counts = self.counts[: len(output.classes)]
        absent = [name for name, n in zip(output.classes, counts, strict=True) if not n]
        hidden = self.ignored > IGNORED_SHARE
        if len(absent) == len(output.classes) - 1:
            what = f"{output.classes[int(counts.argmax())]} is the only class"
        elif absent and hidden and len(output.classes) <= FEW_CLASSES:
            what = f"{', '.join(absent)} occurs in none"
        why = (
            f"; {self.ignored:.1%} of the pixels are ignored (file value {values}): if that is a "
            'class, list the file value of each class in "values"'
        )
        return what and f"{what} of {self.num} labels looked at{why if hidden else ''}"


class MaskCounts(LabelCounts):
    """Pixels of the foreground, of the background, and of neither."""

    output: Mask

    def doubt(self, files: Files) -> str:
        """As of other labels, and whether the threshold lies where it should."""
        output = self.output
        if self.is_void:
            return f"all pixels of {self.num} masks are ignored"
        both, looked = self.counts[:2].all(), f"in {self.num} masks looked at"
        if output.colors:
            listed = ", ".join(output.colors)
            none = f"no pixel of their files is of a colour in {listed}"
            return "" if self.counts[1] else f"no foreground {looked}: {none}"
        if both and output.threshold != Mask.threshold:  # whoever sets it knows what they hold
            return ""
        levels = _levels(output, files, both)
        there, threshold = np.flatnonzero(levels), f'"threshold" is {output.threshold}'
        if not self.counts[1]:
            most = f"the largest value in their files is {there.max()}"
            return f"no foreground {looked}: {most}, {threshold}"
        if not self.counts[0]:
            least = f"the smallest value in their files is {there.min()}"
            colors = 'of masks in colour, list those of the foreground in "colors"'
            return f"no background {looked}: {least}, {threshold}; {colors}"
        levels[[0, *output.ignored]] = 0
        between = levels[1:IGNORE]
        if between.sum() <= BETWEEN_SHARE * levels.sum():
            return ""
        return (
            f"{between.sum() / levels.sum():.0%} of what is not 0 {looked} lies between 0 and 255, "
            f"most of it at {between.argmax() + 1}: {threshold}, below it is background; of values "
            'that say neither, list those from 2 to 253 in "ignored"'
        )


def _levels(output: Mask, files: Files, lossless: bool) -> np.ndarray:
    """How many pixels of masks (of lossless ones alone) hold each value, int64 (65536)."""
    levels = np.zeros(MAX_UINT16 + 1, np.int64)
    for data, name in islice(files, NUM_LOOKED_AT):
        with suppress(UserError):  # of what cannot be used others tell
            image = open_target(data, name, output)
            if not (lossless and "lossy" in image.info):
                values = mask_values(image, name).clip(0, MAX_UINT16)
                levels += np.bincount(values.ravel(), minlength=len(levels))
    return levels


class Numbers:
    """Pixels with and without a number; of those with one the sum, the smallest and the largest."""

    title: str

    def __init__(self, output: Output) -> None:
        self.output = output
        self.num, self.known, self.unknown, self.total = 0, 0, 0, 0.0
        self.low, self.high = np.inf, -np.inf

    def numbers(self, target: np.ndarray) -> np.ndarray:
        """The known ones of a target."""
        return target[target >= 0]

    def count(self, target: np.ndarray) -> None:
        """Add one target as in `Sample`."""
        known, pixels = self.numbers(target), target.shape[-2] * target.shape[-1]
        self.num += 1
        self.known += known.size
        self.unknown += pixels - known.size
        if known.size:
            self.total += float(known.sum(dtype=np.float64))
            self.low = min(self.low, float(known.min()))
            self.high = max(self.high, float(known.max()))

    def add(self, other: Self) -> None:
        """Add what another process counted."""
        for name in ("num", "known", "unknown", "total"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    @property
    def is_void(self) -> bool:
        """Whether not a single pixel says anything."""
        return not self.known

    @staticmethod
    def rows(splits: Sequence["Numbers"]) -> list[Row]:
        """Smallest, mean and largest number, then the share of pixels without one."""
        known = [max(1, each.known) for each in splits]
        pixels = [each.known + each.unknown for each in splits]
        invalid = [v.unknown / n if n else np.nan for v, n in zip(splits, pixels, strict=True)]
        return [
            ("smallest", [_number(each.low) for each in splits]),
            ("mean", [_number(v.total / n) for v, n in zip(splits, known, strict=True)]),
            ("largest", [_number(each.high) for each in splits]),
            ("(invalid)", [percent(share) for share in invalid]),
        ]

    def doubt(self, files: Files) -> str:
        """What is odd about these targets, nothing if they are as they should be."""
        raise NotImplementedError


class Depths(Numbers):
    """Depths, in the output's unit."""

    output: Depth

    def __init__(self, output: Depth) -> None:
        super().__init__(output)
        self.title = output.unit or "relative depth"

    def doubt(self, files: Files) -> str:
        """Whether none is valid, and what their files hold instead."""
        if not self.is_void:
            return ""
        output, some = self.output, islice(files, NUM_LOOKED_AT)
        each = [depth_values(open_target(*file, output), file[1])[0] for file in some]
        least, most = min(map(np.min, each)), max(map(np.max, each))
        return (
            f"no valid pixel in {self.num} depths: their files hold {least} to {most}; see "
            f'"scale" ({output.scale or "1 / full range"}), "max_depth" ({output.max_depth:g}) and '
            f'"missing" ({output.missing})'
        )


class Angles(Numbers):
    """Of normals: how far they are turned away from the camera."""

    title = "degrees from the camera"

    def numbers(self, target: np.ndarray) -> np.ndarray:
        """Degrees between the known ones and the z axis."""
        return np.degrees(np.arccos(target[2, target.any(0)].clip(-1, 1)))

    def doubt(self, files: Files) -> str:
        """Whether none is valid, or most face away."""
        if self.is_void:
            return f"no unit vector in {self.num} files of normals, expected n * 0.5 + 0.5 as RGB"
        if self.total / self.known <= 90:
            return ""
        return (
            f"most normals of {self.num} files face away from the camera: expected x to the right, "
            "y up, z towards it"
        )


class ImageCounts(LabelCounts):
    """Images of each label, and of none."""

    title = "share of images"

    def doubt(self, files: Files) -> str:
        """Whether there are at least two."""
        known = self.counts[:IGNORE]
        if self.is_void:
            return (
                f"none of {self.num} images has a class: field {self.output.source!r} says others"
            )
        if np.count_nonzero(known) == 1:
            only = self.output.labels[int(known.argmax())]
            return f"{only} is the only class of {self.num} images"
        return ""


Statistics = LabelCounts | Numbers
STATISTICS: dict[str, type[Statistics]] = {
    "classes": LabelCounts,
    "mask": MaskCounts,
    "depth": Depths,
    "normals": Angles,
    "label": ImageCounts,
}


def statistics_of(output: Output) -> Statistics:
    """Empty statistics of this output."""
    return STATISTICS[output.kind](output)


def percent(share: float) -> str:
    """A share as text; of nothing it is a dash."""
    return "-" if np.isnan(share) else f"{100 * share:.3g} %"


def _share(count: int, total: int) -> str:
    return "absent" if not count else percent(count / total)


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "-"
