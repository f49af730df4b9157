"""What the values and colours in label files mean: ids of classes; unknown ones are named."""

import functools

import numpy as np

from datasets.task import IGNORE, Classes, UserError


@functools.cache
def ids_by_value(output: Classes) -> dict[int, int]:
    """File value -> class id or IGNORE; a value that is both belongs to the class."""
    return dict.fromkeys(output.ignored, IGNORE) | {v: i for i, v in enumerate(output.values)}


@functools.cache
def by_color(
    colors: tuple[str, ...], ids: tuple[int, ...], ignored: tuple[str, ...]
) -> dict[int, int]:
    """Opaque RGBA as a little-endian number -> id or IGNORE; of equal colours the first."""
    pairs = [*((color, IGNORE) for color in ignored), *reversed([*zip(colors, ids, strict=True)])]
    return {int.from_bytes(bytes.fromhex(color + "FF"), "little"): i for color, i in pairs}


def look_up(values: np.ndarray, table: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What the table says of each value (H, W), uint8, and whether it says anything, bool."""
    limits = np.iinfo(values.dtype)
    listed = sorted(value for value in table if limits.min <= value <= limits.max)
    if not listed:
        return np.zeros(values.shape, np.uint8), np.zeros(values.shape, bool)
    codes = np.array(listed, values.dtype)
    ids = np.array([table[value] for value in listed], np.uint8)
    few = values.dtype == np.uint8  # then 256 answers serve all pixels, ten times as fast
    queries = np.arange(256, dtype=np.uint8) if few else values
    where = np.minimum(np.searchsorted(codes, queries), len(codes) - 1)
    known, ids = codes[where] == queries, ids[where]
    return (np.take(ids, values), np.take(known, values)) if few else (ids, known)


def unknown_values(name: str, what: str, unseen: list[str], known: str) -> UserError:
    """`annotation/x.png: label value 77 is not one of 0..15, 255`."""
    keys = '"values" and "ignored"' if "value" in what else '"colors" and "ignored_colors"'
    more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
    many, be = ("s", "are not among") if len(unseen) > 1 else ("", "is not one of")
    return UserError(
        f"{name}: {what}{many} {', '.join(unseen[:5])}{more} {be} {known}: see {keys} of the task"
    )


def ranges(values: dict[int, int]) -> str:
    """Known values in short: `0..15, 255`."""
    runs = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}..{high}" for low, high in runs)
