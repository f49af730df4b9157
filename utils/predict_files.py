"""Image files in, result files out: what is damaged is left out, what is done already is kept."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.index.sources import ImageSource
from datasets.photo import decode_photo
from datasets.task import Task, UserError
from utils import results
from utils.distributed import Distributed
from utils.predict import Predictor
from utils.skipped import Skipped


class Tally:
    """What becomes of the images of a command; one that several tasks meet counts once.

    limit: damaged images that are expected, each told at once; one more is a UserError. None: any
    number, listed at the end, and the status says so.
    """

    def __init__(self, limit: int | None, tell: Callable[[str], object]) -> None:
        self.done, self.kept, self.own = set[str](), set[str](), set[str]()
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

    def lines(self, out: Path) -> Iterator[str]:
        """For a reader: damaged images that were not told, then numbers, and where to look."""
        listed = self.skipped.listed
        if not self.expected:
            yield from (f"skipped {where}: {reason}" for where, reason in listed.items())
        parts = [f"{len(self.done)} images predicted"]
        parts += [f"{len(self.kept)} predicted before"] * bool(self.kept)
        parts += [f"{len(self.own)} results of earlier runs left out"] * bool(self.own)
        parts += [f"{len(listed)} cannot be read"] * bool(listed)
        yield ", ".join([*parts, f"see {out}"])


def predict_files(
    named: Sequence[tuple[ImageSource, Path]],
    task: Task,
    predictor: Predictor,
    tally: Tally,
) -> None:
    """Write the results of each image under its path, and count it.

    An image that is a result itself is left alone. One whose results are there, by the same weights
    asked in the same way, is kept: a command that was killed goes on where it was.
    """
    results.remove_parts([stem for _, stem in named])
    maker, names = fingerprint(task, predictor), tuple(output.name for output in task.outputs)
    for source, stem in tqdm(named, task.name, unit="image", disable=None):
        try:
            data = source.read()
            key = hashlib.blake2b(data, key=maker, digest_size=8).hexdigest()
            if results.is_own(data):
                tally.own.add(source.where)
                continue
            kept = results.are_there(stem, task.outputs, key)
            photo = None if kept else decode_photo(data, source.where)
        except (UserError, OSError) as error:
            tally.skipped.add(source.where, str(error).removeprefix(f"{source.where}: "))
            continue
        if photo is not None:
            labels = predictor.labels(photo.pixels, names)
            found = {name: values.numpy() for name, values in labels.items()}
            results.write(stem, photo, found, task.outputs, key)
        (tally.done if photo is not None else tally.kept).add(source.where)
        for name, text in results.texts(stem, task.outputs):
            tally.texts.setdefault(name, []).append((source.name, text))


def fingerprint(task: Task, predictor: Predictor) -> bytes:
    """Other bytes for whatever gives other results: weights, task, the way a network is asked."""
    how = (predictor.tile, predictor.overlap, predictor.flip, predictor.size)
    digest = hashlib.blake2b(repr((how, predictor.compute.dtype, task.to_json())).encode())
    for name, tensor in predictor.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().flatten().view(torch.uint8).numpy())
    return digest.digest()
