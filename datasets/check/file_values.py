"""What some files of targets hold, whatever a task makes of it."""

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice

import numpy as np

from datasets.decode import mask_values, open_target
from datasets.task import IGNORE, MAX_UINT16, Classes, Mask, UserError

Files = Iterable[tuple[bytes, str]]  # encoded targets, each with its name in errors

NUM_LOOKED_AT = 48  # files that are looked at again where something is odd
NOISE = 40  # levels by which a lossy file blurs black and white


def ignored_values(output: Classes | Mask, files: Files) -> str:
    """The file values that are ignored, each with its share of the pixels where there are two."""
    known = output.values if isinstance(output, Classes) else (IGNORE,)
    shares, total = dict.fromkeys(sorted({*output.ignored} - {*known}), 0), 0
    for data, name in islice(files, NUM_LOOKED_AT):
        with suppress(UserError):
            values = np.asarray(open_target(data, name, output))
            total += values.size
            for value in shares if values.ndim == 2 else ():
                shares[value] += int((values == value).sum())
    there = {value: count for value, count in shares.items() if count} or shares
    if len(there) < 2:
        return f"file value {', '.join(map(str, there))}"
    return ", ".join(f"file value {v}: {n / max(total, 1):.1%}" for v, n in there.items())


def levels_of(output: Mask, files: Files) -> np.ndarray:
    """How many pixels of masks hold each value, int64 (65536); of lossy ones, what is nearly black
    or white counts as that."""
    levels = np.zeros(MAX_UINT16 + 1, np.int64)
    for data, name in islice(files, NUM_LOOKED_AT):
        with suppress(UserError):  # of what cannot be used others tell
            image = open_target(data, name, output)
            values = mask_values(image, name).astype(np.int64).clip(0, MAX_UINT16)
            own = np.bincount(values.ravel(), minlength=len(levels))
            if "lossy" in image.info:
                for at, ringing in ((0, own[1:NOISE]), (IGNORE, own[IGNORE - NOISE : IGNORE])):
                    own[at] += ringing.sum()
                    ringing[:] = 0
            levels += own
    return levels
