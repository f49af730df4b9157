"""Finds the images to predict in files, folders and shards, and names their results.

An image is known by its suffix. A store that is laid out as a task says gives its images alone.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from datasets.images import IMAGE_SUFFIXES, page_numbers
from datasets.index.left_out import left_out
from datasets.index.samples import find_groups, find_samples
from datasets.index.templates import compile_template
from datasets.stores import SHARD_SUFFIXES, Store, open_stores, parse_path
from datasets.task import Task, UserError

MAX_STEM = 180  # bytes of a result's name before its output: file systems take 255 of the whole


class ImageSource(NamedTuple):
    """An image to predict. name: below its folder or shard. where: what errors call it. open: gives
    its encoded bytes as a file, to be closed. page: of that file."""

    name: str
    where: str
    open: Callable[[], BinaryIO]
    page: int | None = None

    def read(self) -> bytes:
        """All of its encoded bytes."""
        with self.open() as file:
            return file.read()


def find_images(
    inputs: Sequence[str], task: Task, tell: Callable[[str], object] = lambda line: None
) -> list[ImageSource]:
    """Every image of what is named; UserError: a file that is not there, or no image at all. tell:
    takes a line about what is not read, see `left_out`."""
    files = [Path(text) for text in inputs if text.lower().endswith(IMAGE_SUFFIXES)]
    for path in files:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    sources = [ImageSource(path.name, str(path), partial(path.open, "rb")) for path in files]
    others = [parse_path(text) for text in inputs if Path(text) not in files]
    for path in others:
        if Path(path).is_file() and not str(path).lower().endswith(SHARD_SUFFIXES):
            known = ", ".join(IMAGE_SUFFIXES + SHARD_SUFFIXES)
            raise UserError(f"{path}: expected a folder, or a file of {known}")
    template = compile_template(task.image)
    stores = open_stores(others) if others else []
    if unused := left_out(stores):
        tell(unused)
    for store in stores:
        images = list_images(store)
        if any(template.fullmatch(source.name) for source in images):
            members = find_groups([store], task).image_member.tolist()  # not their labels
            images = [_member(store, i) for i in members]
        sources += images
    if not sources:
        raise UserError(f"{' '.join(inputs)}: no image found")
    return [page for source in sources for page in pages_of(source)]


def pages_of(source: ImageSource) -> list[ImageSource]:
    """The image itself, or `scan_p001.tif` and so on, a picture each, of a TIFF with several."""
    if not source.name.lower().endswith((".tif", ".tiff")):
        return [source]
    try:
        with source.open() as file:
            numbers = page_numbers(file, source.where)
    except (UserError, OSError):  # named where it is to be decoded
        return [source]
    if len(numbers) == 1:
        return [source]
    name = Path(source.name)
    return [
        ImageSource(
            name.with_name(f"{name.stem}_p{i:03d}{name.suffix}").as_posix(),
            f"{source.where}, page {i}",
            source.open,
            number,
        )
        for i, number in enumerate(numbers, 1)
    ]


def list_images(store: Store) -> list[ImageSource]:
    """Every member of a store that is an image by its name."""
    names = enumerate(store.names())
    return [_member(store, i) for i, name in names if name.lower().endswith(IMAGE_SUFFIXES)]


def first_images(paths: Sequence[Path | str], task: Task, num: int) -> list[ImageSource]:
    """The first `num` images of the validation split of labelled stores."""
    table = find_samples(open_stores(paths), task, "val")
    samples = map(table.image, range(min(len(table), num)))
    return [_member(table.stores[shard], number) for shard, number in samples]


def result_paths(sources: Sequence[ImageSource], out: Path) -> list[Path]:
    """What the results of each image begin with: its name below `out` without the suffix, or with
    it where others differ in nothing else; one of which no file name can go on is cut, with a hash
    of the whole. UserError: two images of one name."""
    names = [Path(source.name) for source in sources]
    alike = Counter(name.with_suffix("") for name in names)
    stems = [name if alike[name.with_suffix("")] > 1 else name.with_suffix("") for name in names]
    stems = [stem.with_name(_shortened(stem.name)) for stem in stems]
    for source, stem in zip(sources, stems, strict=True):
        if stem.is_absolute() or ".." in stem.parts:  # no store has such a name
            raise UserError(f"{source.where}: would be written outside of {out}")
    for stem, count in Counter(stems).items():
        if count > 1:
            same = [e.where for e, other in zip(sources, stems, strict=True) if other == stem]
            raise UserError(f"{same[0]} and {same[1]} would both be written as {out / stem}")
    return [out / stem for stem in stems]


def _shortened(name: str) -> str:
    raw = os.fsencode(name)
    if len(raw) <= MAX_STEM:
        return name
    digest = hashlib.blake2b(raw, digest_size=4).hexdigest()
    return f"{raw[:MAX_STEM].decode(errors='ignore')}~{digest}"


def _member(store: Store, i: int) -> ImageSource:
    """Member i of a store."""
    name = store.names()[i]
    return ImageSource(name, f"{store.path}: {name}", partial(store.open_at, i))
