"""Image files in, result files out: what is damaged is left out, what is done already is kept."""

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from math import prod
from pathlib import Path
from threading import Condition
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from datasets.images import header_size
from datasets.index.sources import ImageSource
from datasets.photo import Photo, decode_photo
from datasets.place import Place, place_beside
from datasets.task import Classes, Mask, Task, UserError
from utils.distributed import Distributed
from utils.maps import results
from utils.maps.regions import Region
from utils.memory.heap import give_back_memory
from utils.predict import AT_ONCE, AUTO, Predictor
from utils.skipped import Skipped

LEAST_SCALE, MOST_SCALE = 0.02, 8.0  # that dpi are believed to mean
MOST_PROBABILITIES = 2**29  # bytes of one image
MOST_PIXELS = 2**26  # of decoded images at the same time, but for one that is larger alone


class Tally:
    """What becomes of the images of a command; one that several tasks meet counts once.

    limit: damaged images that are expected, each told at once; one more is a UserError. None: any
    number, listed at the end, and the status says so.
    """

    def __init__(self, limit: int | None, tell: Callable[[str], object]) -> None:
        self.done, self.kept, self.own, self.moving = (set[str]() for _ in range(4))
        self.texts: dict[str, list[tuple[str, str]]] = {}  # of outputs that say one thing of each
        self.expected, alone = limit is not None, Distributed(torch.device("cpu"))
        self.skipped = (
            Skipped(sys.maxsize, alone, lambda line: None)
            if limit is None
            else Skipped(limit, alone, tell)
        )

    @property
    def status(self) -> int:
        """What the process ends with. UserError: there is no result at all, but damaged images."""
        listed = self.skipped.listed
        if not listed or self.expected:
            return 0
        if not (self.done or self.kept):
            (where, reason), *more = listed.items()
            others = f"; and {len(more)} more cannot be read" if more else ""
            raise UserError(f"{where}: {reason}{others}")
        return 1

    def lines(self, out: Path, done: str = "predicted") -> Iterator[str]:
        """For a reader: damaged images that were not told, then numbers, and where to look. done:
        what was done with the others."""
        listed = self.skipped.listed
        if not self.expected:
            yield from (f"skipped {where}: {reason}" for where, reason in listed.items())
        parts = [f"{len(self.done)} images {done}"]
        parts += [f"{len(self.kept)} predicted before"] * bool(self.kept)
        parts += [f"{len(self.own)} results of earlier runs left out"] * bool(self.own)
        parts += [f"{len(self.moving)} by their first frame"] * bool(self.moving)
        parts += [f"{len(listed)} cannot be read"] * bool(listed)
        yield ", ".join([*parts, f"see {out}"])


class Loaded(NamedTuple):
    """An image on its way from its file to its results, which begin with `stem`."""

    where: str
    stem: Path
    key: str
    photo: Photo
    predictor: Predictor

    @property
    def num_pixels(self) -> int:
        """Height times width."""
        return self.photo.pixels[0].numel()


def predict_files(
    named: Sequence[tuple[ImageSource, Path]],
    task: Task,
    predictor: Predictor,
    tally: Tally,
    form: results.Form,
) -> None:
    """Write the results of each image under its path, and count it.

    An image that is a result itself is left alone. One whose results are there, by the same weights
    asked in the same way, is kept: a command that was killed goes on where it was. While one group
    of images is predicted, the next is read and the one before is written.
    """
    results.remove_parts([stem for _, stem in named])
    names, room = tuple(output.name for output in task.outputs), Room(MOST_PIXELS)
    bar = tqdm(total=len(named), desc=task.name, unit="tile", disable=None, dynamic_ncols=True)
    with bar, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        groups = _groups(named, task, predictor, tally, form, room, bar)
        coming = reader.submit(next, groups, None)
        writing: deque[Future[None]] = deque()
        try:
            while group := coming.result():
                coming = reader.submit(next, groups, None)
                bar.set_postfix_str(group[0].stem.name, refresh=False)
                found = _labels(group, names, bar.update, form)
                for each, labels in zip(group, found, strict=True):
                    writing.append(writer.submit(_write, each, labels, task, tally, form, room))
                del group, found, each, labels  # they may be large, and the next ones too
                while writing and writing[0].done():
                    writing.popleft().result()
            for one in writing:
                one.result()
        finally:
            room.close()
            writer.shutdown(wait=False, cancel_futures=True)
    for source, stem in named:
        if source.where in tally.done | tally.kept:
            for name, text in results.texts(stem, task.outputs):
                tally.texts.setdefault(name, []).append((source.name, text))


def _groups(
    named: Sequence[tuple[ImageSource, Path]],
    task: Task,
    predictor: Predictor,
    tally: Tally,
    form: results.Form,
    room: "Room",
    bar: tqdm,
) -> Iterator[list[Loaded]]:
    """The images that are to be predicted, those of one size together, up to AT_ONCE pixels. The
    bar's total follows: an image counts as many as it has tiles, none if it is not predicted."""
    maker, group = fingerprint(task, predictor, form), list[Loaded]()
    opened, key, beside = None, "", None  # pages of one file have one key
    for source, stem in named:
        room.take(0)
        bar.total -= 1
        taken = 0
        try:
            with source.open() as file:
                if results.is_own(file.read(results.HEAD)):
                    tally.own.add(source.where)
                    continue
                if source.open is not opened:
                    on_disk = getattr(file, "name", "") if source.page is None else ""
                    beside = place_beside(Path(on_disk)) if on_disk else None
                    opened, key = source.open, _key(file, maker, beside)
                if results.are_there(stem, task.outputs, key):
                    tally.kept.add(source.where)
                    continue
                taken = prod(header_size(file, source.where, source.page))
                if form.probabilities:
                    _refuse_many(task, taken, source.where)
                if group and (len(group) + 1) * taken > AT_ONCE:
                    yield group
                    group = []
                room.take(taken)
                photo = decode_photo(file, source.where, source.page)._replace(name=source.name)
                if not (photo.place or photo.turned):
                    photo = photo._replace(place=beside)
                asked = at_scale_of(photo, predictor, task, form.mm)
                if photo.moves:
                    tally.moving.add(source.where)
                if taken > results.LARGE:
                    give_back_memory()
        except (UserError, OSError) as error:
            room.give(taken)
            tally.skipped.add(source.where, str(error).removeprefix(f"{source.where}: "))
            continue
        bar.total += asked.num_tiles(*photo.pixels.shape[1:])
        kind = photo.pixels.shape, asked.scale
        if group and (group[0].photo.pixels.shape, group[0].predictor.scale) != kind:
            yield group
            group = []
        group.append(Loaded(source.where, stem, key, photo, asked))
        del photo
    if group:
        yield group


def at_scale_of(
    photo: Photo, predictor: Predictor, task: Task, mm: float | None = None
) -> Predictor:
    """The predictor, where its scale is AUTO at the one at which the photo's pixels are as large as
    the task's. mm: of a pixel, else its dpi tell. UserError: neither does."""
    if predictor.scale != AUTO:
        return predictor
    sides = results.mm_of(photo.dpi, mm)
    if not sides:
        expected = "expected dpi in the file, other than 72 and 96, or --mm-per-pixel"
        raise UserError(f"{photo.name or 'image'}: --scale auto: {expected}")
    scale = task.pixels_per_mm * sum(sides) / 2
    if not LEAST_SCALE <= scale <= MOST_SCALE:
        expected = f"expected {LEAST_SCALE:g} to {MOST_SCALE:g}"
        raise UserError(f"{photo.name}: --scale auto: {scale:.3g} by its dpi, {expected}")
    return replace(predictor, scale=scale)


def _refuse_many(task: Task, pixels: int, where: str) -> None:
    """UserError: probabilities of so many pixels are not held."""
    classes = sum(each.channels for each in task.dense if isinstance(each, Classes | Mask))
    if (size := 2 * classes * pixels) > MOST_PROBABILITIES:
        raise UserError(
            f"{where}: --probabilities of {classes} classes are {size / 2**30:.1f} GiB, "
            f"expected {MOST_PROBABILITIES / 2**30:g} at most"
        )


def _key(file: BinaryIO, maker: bytes, beside: Place | None) -> str:
    """Another one for other bytes, another place told beside them, or another maker of results."""
    digest = hashlib.blake2b(key=maker, digest_size=8)
    file.seek(0)
    while part := file.read(2**20):
        digest.update(part)
    digest.update(beside.text().encode() if beside else b"")
    return digest.hexdigest()


def _labels(
    group: list[Loaded],
    names: tuple[str, ...],
    advance: Callable[[int], object],
    form: results.Form,
) -> list[dict[str, np.ndarray]]:
    """What is said of each image of a group, by output name."""
    photos = [each.photo.pixels for each in group]
    images = torch.stack(photos) if len(photos) > 1 else photos[0][None]  # one is not copied
    labels = group[0].predictor.labels(
        images, names, advance, form.probabilities, bool(form.shapes)
    )
    if group[0].num_pixels > results.LARGE:
        give_back_memory()
    return [{name: each[i].numpy() for name, each in labels.items()} for i in range(len(group))]


def _write(
    loaded: Loaded,
    found: dict[str, np.ndarray],
    task: Task,
    tally: Tally,
    form: results.Form,
    room: "Room",
) -> None:
    """The results of one image, which is then out of the way."""
    results.write(loaded.stem, loaded.photo, found, task.outputs, loaded.key, form)
    tally.done.add(loaded.where)
    room.give(loaded.num_pixels)


class Room:
    """Pixels of decoded images that threads hold at the same time: `most`, or one larger image."""

    def __init__(self, most: int) -> None:
        self.most, self.held, self.closed, self.changed = most, 0, False, Condition()

    def take(self, num: int) -> None:
        """Wait until there is room for so many pixels; none: until there is any. CancelledError:
        it has been closed."""
        with self.changed:
            self.changed.wait_for(
                lambda: self.closed or not self.held or self.held + num <= self.most
            )
            if self.closed:
                raise CancelledError
            self.held += num

    def give(self, num: int) -> None:
        """So many pixels are held no more."""
        with self.changed:
            self.held -= num
            self.changed.notify_all()

    def close(self) -> None:
        """Nobody waits any longer."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def fingerprint(task: Task, predictor: Predictor, form: results.Form) -> bytes:
    """Other bytes for whatever gives other results: weights, task, the way a network is asked, what
    results look like."""
    how = [getattr(predictor, name) for name in ("tile", "overlap", "tta", "size", "scale")]
    fields = Region._fields if form.shapes else ()  # files without one of them are older
    parts = (how, predictor.compute.dtype, form, task.to_json(), *fields)
    digest = hashlib.blake2b(repr(parts).encode())
    for name, tensor in predictor.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().flatten().view(torch.uint8).numpy())
    return digest.digest()
