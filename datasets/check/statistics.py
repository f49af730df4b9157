"""What is counted of the targets of each kind (`STATISTICS`): the rows of a table, and whether they
seem to be read in another way than they are meant.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Self

import numpy as np

from datasets.check.file_values import NUM_LOOKED_AT, Files, ignored_values, levels_of
from datasets.decode import depth_values, open_target
from datasets.task import IGNORE, Depth, Mask, Output, UserError

Row = tuple[str, list[str]]  # a name, and a number as text for each split

FEW_CLASSES = 4  # of which none is so rare that a sample has not met it
LISTED = 8  # classes that a line names
MANY_CLASSES = 12  # from which on a list may have been made for more than one data set
MOSTLY = 0.5  # ignored: more than frames and borders are
BEYOND_SHARE = 0.2  # of depths beyond the largest: more than skies are
NOTHING_YET = np.inf, -np.inf, np.inf, 0.0  # smallest, largest, next to 0, next to the top
TOP_SHARE = 0.5  # of full range, below which all other numbers lie where full means nothing
ENOUGH = 8  # classes of images, which are too many if most images have one of their own
ZERO_SHARE = 0.001  # of depths that are 0
VALID_SHARE = 0.01  # of depths: fewer than a laser measures
SMALL_SHARE = 0.1  # of max_depth, that the largest depth should be
BETWEEN_SHARE = 0.25  # of a mask that is not 0: more than soft edges are
FULL = 250  # of a mask: what some programs write for 255 is above
IGNORED_SHARE = 0.01  # of the pixels, from which a class may be hidden among them


class LabelCounts:
    """Pixels of each label, and of none, in `num` targets. whole: these are all there are. title:
    what the rows tell.
    """

    title = "share of pixels"

    def __init__(self, output: Output) -> None:
        self.output, self.num, self.whole = output, 0, True
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

    def doubt(self, files: Files, val: Self | None = None) -> str:
        """What is odd about these targets of training, nothing if they are as they should be.

        val: what those of validation hold.
        """
        output: Any = self.output
        names, hidden = output.labels, self.ignored > IGNORED_SHARE
        here = self.counts[: len(names)] > 0
        what = ""
        if self.is_void:
            what = f"all pixels of {self.num} labels are ignored"
        elif here.sum() == 1:
            what = f"{listed(names, here)} is the only class of {self.num} labels looked at"
        elif not here.all() and hidden and len(names) <= FEW_CLASSES:
            what = f"{listed(names, ~here)} occurs in none of {self.num} labels looked at"
        else:
            what = self._absent(names, here, val)
        if not what and self.ignored <= MOSTLY:
            return ""
        why = (
            f"{self.ignored:.1%} of the pixels are ignored ({ignored_values(output, files)}): if "
            'that is a class, list the file value of each class in "values"'
        )
        return "; ".join(filter(None, [what, why if hidden else ""]))

    def _absent(self, names: tuple[str, ...], here: np.ndarray, val: Self | None) -> str:
        """Which classes never occur; `here` (C) says which do in training. Of a long list most
        should, and those of validation."""
        tested = val.counts[: len(names)] > 0 if val and val.num else here
        long = len(names) > MANY_CLASSES
        absent = tested & ~here if long and here.sum() >= len(names) / 2 else ~here
        if self.whole and absent.any():
            keys = '"classes" and "values"'
            return f"{listed(names, absent)} occurs in none of {self.num} labels: see {keys}"
        if val and val.whole and not long and (here & ~tested).any():
            return (
                f"{listed(names, here & ~tested)} occurs in none of {val.num} labels to validate "
                'on, so that no score knows it: see "val_share" and --split-by'
            )
        return ""


class MaskCounts(LabelCounts):
    """Pixels of the foreground, of the background, and of neither."""

    output: Mask

    def doubt(self, files: Files, val: Self | None = None) -> str:
        """As of other labels, and whether the threshold lies where it should."""
        output = self.output
        if self.is_void:
            return f"all pixels of {self.num} masks are ignored"
        both, looked = self.counts[:2].all(), f"in {self.num} masks looked at"
        if both and val and val.num and val.whole and not val.counts[1]:
            return f'no foreground in {val.num} masks to validate on: see "val_share", --split-by'
        if output.colors or output.is_shapes:
            none = f"no pixel of their files is of a colour in {', '.join(output.colors)}"
            none = "no shape lies on their images" if output.is_shapes else none
            return "" if self.counts[1] else f"no foreground {looked}: {none}"
        if both and output.threshold != Mask.threshold:  # whoever sets it knows what they hold
            return ""
        levels = levels_of(output, files)
        there, threshold = np.flatnonzero(levels), f'"threshold" is {output.threshold}'
        if not self.counts[1]:
            most = f"the largest value in their files is {there.max()}"
            return f"no foreground {looked}: {most}, {threshold}"
        if not self.counts[0]:
            least = f"the smallest value in their files is {there.min()}"
            colors = 'of masks in colour, list those of the foreground in "colors"'
            return f"no background {looked}: {least}, {threshold}; {colors}"
        if self.ignored > MOSTLY:
            values = ignored_values(output, files)
            return f"{self.ignored:.1%} of the pixels {looked} are ignored ({values})"
        levels[[0, *output.ignored]] = 0
        between = levels[1:FULL]
        if between.sum() <= BETWEEN_SHARE * levels.sum():
            return ""
        return (
            f"{between.sum() / levels.sum():.0%} of what is not 0 {looked} lies between 0 and 255, "
            f"most of it at {between.argmax() + 1}: {threshold}, below it is background; of values "
            'that say neither, list those from 2 to 253 in "ignored"'
        )


class Numbers:
    """Pixels with and without a number; of those with one the sum, the smallest and the largest."""

    title: str

    def __init__(self, output: Output) -> None:
        self.output, self.whole = output, True
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

    def doubt(self, files: Files, val: Self | None = None) -> str:
        """What is odd about these targets, nothing if they are as they should be."""
        raise NotImplementedError


class Depths(Numbers):
    """Depths, in the output's unit."""

    output: Depth

    def __init__(self, output: Depth) -> None:
        super().__init__(output)
        self.title = output.unit or "relative depth"

    def doubt(self, files: Files, val: Self | None = None) -> str:
        """Whether enough are valid, and fill the range that the head can say."""
        output, some, looked = self.output, islice(files, NUM_LOOKED_AT), f"{self.num} depths"
        least, most, above, below, zeros, tops, beyond, total = *NOTHING_YET, 0, 0, 0, 0
        for data, name in some:
            with suppress(UserError):  # of what cannot be used others tell
                values, full = depth_values(open_target(data, name, output), name)
                values = values[np.isfinite(values)].astype(np.float32)
                least, most = min(least, values.min(initial=least)), values.max(initial=most)
                above = values[values > 0].min(initial=above)
                below = values[values < full].max(initial=below)
                tops += int((values == full).sum()) if full > 1 else 0
                far = values * (output.scale or 1 / full) > output.max_depth
                zeros += int((values == 0).sum())
                beyond += int((far & (values != output.missing)).sum())
                total += values.size
        held = (
            f'their files hold {least:g} to {most:g}; see "scale" '
            f'({output.scale or "1 / full range"}), "max_depth" ({output.max_depth:g}) and '
            f'"missing" ({output.missing})'
        )
        if self.is_void:
            return f"no valid pixel in {looked}: {held}"
        if beyond > BEYOND_SHARE * total:
            return f"{beyond / total:.0%} of the pixels of {looked} lie beyond max_depth: {held}"
        share = self.known / (self.known + self.unknown)
        if share < VALID_SHARE:
            return f"{share:.2%} of the pixels of {looked} are valid: {held}"
        if self.high < SMALL_SHARE * output.max_depth:
            return f"the largest of {looked} is {self.high:.3g}{output.unit}: {held}"
        if self.num > 1 and self.low == self.high and not self.unknown:
            return f"all pixels of {looked} are {self.low:g}{output.unit}: {held}"
        odd = tops > ZERO_SHARE * total and 0 < below < TOP_SHARE * most
        if odd and not output.unit and output.missing != most:
            return (
                f"{tops / total:.1%} of the pixels of {looked} are {most:g}, the next value is "
                f'{below:g}: if {most:g} means that nothing was measured, set "missing": {most:g}'
            )
        gap = output.unit or 0.02 * most < above < most  # relative depth may begin at 0
        if output.missing != 0 and gap and zeros > ZERO_SHARE * total:
            return (
                f"{zeros / total:.1%} of the pixels of {looked} are 0, the next value is {above:g}:"
                f' if 0 means that nothing was measured, set "missing": 0 (now {output.missing})'
            )
        return ""


class Angles(Numbers):
    """Of normals: how far they are turned away from the camera."""

    title = "degrees from the camera"

    def numbers(self, target: np.ndarray) -> np.ndarray:
        """Degrees between the known ones and the z axis."""
        return np.degrees(np.arccos(target[2, target.any(0)].clip(-1, 1)))

    def doubt(self, files: Files, val: Self | None = None) -> str:
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

    def doubt(self, files: Files, val: Self | None = None) -> str:
        """Whether there are at least two."""
        known = self.counts[:IGNORE]
        if self.is_void:
            return (
                f"none of {self.num} images has a class: field {self.output.source!r} says others"
            )
        field, names = self.output.source, self.output.labels
        if np.count_nonzero(known) == 1:
            return f"{names[int(known.argmax())]} is the only class of {self.num} images"
        spelled = {name.casefold(): name for name in names}
        twice = [name for name in names if spelled[name.casefold()] != name]
        if twice:
            return f"{twice[0]} and {spelled[twice[0].casefold()]} are two classes of {field!r}"
        if np.count_nonzero(known) > max(ENOUGH, self.num / 2):
            return f"{np.count_nonzero(known)} classes of {self.num} images: see field {field!r}"
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


def listed(names: Sequence[str], chosen: np.ndarray) -> str:
    """The chosen names, the first of many."""
    found = [name for name, there in zip(names, chosen, strict=True) if there]
    more = [f"{len(found) - LISTED} more"] if len(found) > LISTED else []
    return ", ".join(found[:LISTED] + more)


def _share(count: int, total: int) -> str:
    return "absent" if not count else percent(count / total)


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "-"
