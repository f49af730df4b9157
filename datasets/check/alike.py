"""Notices images to validate on that training sees too, and images that do not differ, by small
grey copies of some.
"""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic

import numpy as np
from PIL import Image

from datasets.contents import marks
from datasets.dataset import DenseDataset
from datasets.images import PIXELS_PER_BYTE, header_size, open_image
from datasets.photo import rgb_pixels
from datasets.stores import Shard
from datasets.task import UserError

NUM_VAL, NUM_TRAIN = 64, 400  # images that are compared
MAX_PIXELS = 100_000_000  # of theirs that are decoded: a second
SECONDS = 2  # that reading a split's may take, but for the first
JPEG = b"\xff\xd8"  # decoded at an eighth
SIDE, SMALL = 24, 16  # of a small copy, and of an image that is too small
FLAT = 1.0  # grey levels: with less contrast, likeness says nothing
SAME, LIKE = 0.9998, 0.99  # correlations: re-encoded, or the same thing photographed again
LIKE_SHARE = 0.1  # of validation
LEVELS = 2  # that images of one picture differ by
DARK = 16  # grey levels of 255, which 12 of 16 bits do not reach
ENOUGH = 4  # images that may not all be one


def describe_likeness(train: DenseDataset, val: DenseDataset) -> Iterator[str]:
    """What is odd about the images of two splits, in a line each."""
    chosen = _spread(val.indices, NUM_VAL)
    near = _neighbours(train, [val.table.key(index) for index in chosen.tolist()])
    rest = np.setdiff1d(_spread(train.indices, NUM_TRAIN), near)
    ours, keys = _thumbnails(train, np.sort(np.concatenate([near, rest])[:NUM_TRAIN]))
    theirs, val_keys = _thumbnails(val, chosen)
    copies, example = _copies(train, val)
    if not copies and len(ours) and len(theirs):
        likeness = _likeness(ours, theirs)
        best = likeness.max(1)
        like = int((best > LIKE).sum())
        if best.max() > SAME or like >= LIKE_SHARE * len(best):
            at = int(best.argmax())
            copies = f"{like} of {len(best)}"
            example = f"{val_keys[at]} is like {keys[int(likeness[at].argmax())]}"
    if copies:
        yield (
            f"{copies} images to validate on are copies of images to train on, or nearly "
            f"({example}): scores will be too good; {{group}} in the template or --split-by keeps "
            "together what belongs together"
        )
    if len(ours) and ours.max() < DARK:
        yield (
            f"all {len(ours)} images looked at are nearly black, at most {ours.max():.0f} of 255 "
            f"({keys[0]}): in files of 16 bits, numbers of 12 or less are; spread them over all 16"
        )
    elif len(ours) >= ENOUGH and np.abs(ours - ours[0]).max() < LEVELS:
        yield f'all {len(ours)} images looked at are alike ({keys[0]}): see "image" of the task'


def _spread(indices: np.ndarray, num: int) -> np.ndarray:
    """At most so many of them, at equal distances."""
    return indices[np.unique(np.linspace(0, len(indices) - 1, num).round().astype(int))]


def _neighbours(dataset: DenseDataset, keys: list[str]) -> np.ndarray:
    """The samples before and after each name, in order of names: frames of one film, or copies that
    augmentation made, stand there."""
    indices, table = dataset.indices, dataset.table
    places = [bisect_left(indices, key, key=lambda index: table.key(int(index))) for key in keys]
    beside = np.unique([at + step for at in places for step in (-1, 0)])
    return indices[np.unique(beside.clip(0, len(indices) - 1))]


def _copies(train: DenseDataset, val: DenseDataset) -> tuple[int | str, str]:
    """How many images of validation are in training, byte for byte, and one; shards tell without
    being read."""
    if not all(isinstance(store, Shard) for store in train.table.stores):
        return 0, ""
    sides = [marks(dataset, "") for dataset in (train, val)]
    ours, theirs = (side["crc"].astype(np.uint64) << 32 | side["size"] for side in sides)
    same = np.flatnonzero(np.isin(theirs, ours))
    return len(same), val.table.key(int(val.indices[same[0]])) if len(same) else ""


def _thumbnails(dataset: DenseDataset, indices: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Grey levels (n, SIDE, SIDE), float32, and names of those that are large enough and can be
    read."""
    found, keys, pixels, begin = [], [], 0, monotonic()
    for index in indices.tolist():
        if len(found) >= ENOUGH and monotonic() - begin > SECONDS:
            break
        with suppress(UserError):  # training names it
            data, name = dataset.read(index)
            width, height = header_size(data, name)
            pixels += width * height // (8 if data.startswith(JPEG) else 1)
            if pixels > MAX_PIXELS:
                break
            if min(width, height) < SMALL:
                continue
            image = Image.fromarray(rgb_pixels(open_image(data, name, PIXELS_PER_BYTE, 2 * SIDE)))
            grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
            found.append(np.asarray(grey, np.float32))
            keys.append(dataset.table.key(index))
    return np.array(found, np.float32), keys


def _likeness(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Correlations, upright or mirrored, of their images (m, SIDE, SIDE) with ours (n, SIDE, SIDE),
    both without what all of ours have in common, such as a sky above or a dark rim: (m, n)."""
    common = _normal(ours).mean(0) if len(ours) >= ENOUGH else 0
    own = _normal(ours) - common
    own /= np.linalg.norm(own, axis=1, keepdims=True).clip(1e-6)
    turned = []
    for image in (theirs, theirs[:, :, ::-1], theirs[:, ::-1]):
        other = _normal(image) - common
        turned.append(other / np.linalg.norm(other, axis=1, keepdims=True).clip(1e-6) @ own.T)
    return np.max(turned, axis=0)


def _normal(levels: np.ndarray) -> np.ndarray:
    """Of mean 0 and length 1 (n, SIDE * SIDE), whatever brightness and contrast are; zeros where
    there is none."""
    flat = levels.reshape(len(levels), -1)
    flat = flat - flat.mean(1, keepdims=True)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(lengths > FLAT * SIDE, flat / lengths.clip(1e-6), 0)
