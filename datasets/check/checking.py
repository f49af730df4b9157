"""Reads every sample of a data set and counts what it holds, and what cannot be used."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from torch import Tensor
from tqdm import tqdm

from datasets.check.statistics import Statistics, statistics_of
from datasets.dataset import DenseDataset, with_classes
from datasets.decode import check_same_size, decode_target
from datasets.index import find_groups
from datasets.index.splits import choose, divider
from datasets.index.templates import compile_lines
from datasets.look import look_at_images
from datasets.photo import decode_image
from datasets.processes import run_in_order
from datasets.stores import Store
from datasets.task import SPLITS, Output, Task, UserError

CHUNK = 16  # samples that a process reads at a time
MAX_NAMED = 1000  # problems that are listed by name; all are counted
OTHER = len(SPLITS)  # number of the "split" of samples that are in none


class Samples(DenseDataset):
    """Every sample of every split, in order of image name. splits: uint8 (n), a position in SPLITS,
    or OTHER."""

    splits: np.ndarray

    def target(self, i: int, output: Output, image: Tensor | None) -> Tensor:
        """A target of sample i, as large as its image; UserError names what does not fit."""
        if output.per_image:
            return decode_target(self.table.text(i, output.name), self.table.key(i), output)
        data, where = self.encoded(i, output)
        size = None if image is None else tuple(image.shape[:0:-1])
        target = decode_target(data, where, output, self.table.key(i), size)
        if image is not None:
            check_same_size(image, target, self.table.key(i), where)
        return target

    def side(self, split: int) -> DenseDataset:
        """The samples of one split."""
        part = DenseDataset(self.table, self.task)
        part.indices = np.flatnonzero(self.splits == split)
        return part


@dataclass
class Findings:
    """What reading samples tells. sizes: images by (H, W). values: by output name and split.
    digests: uint64, of the bytes of images, in order; 0 where one could not be read. problems: the
    first MAX_NAMED reasons, each naming its member; num_problems: of all."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    values: dict[tuple[str, int], Statistics] = field(default_factory=dict)
    digests: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    num_problems: int = 0

    def refuse(self, error: ValueError) -> None:
        """Note what is wrong with a sample."""
        self.num_problems += 1
        if len(self.problems) < MAX_NAMED:
            self.problems.append(str(error))

    def add(self, other: Self) -> None:
        """Take in what another process has counted."""
        self.sizes += other.sizes
        for key, values in other.values.items():
            self.values.setdefault(key, statistics_of(values.output)).add(values)
        self.digests += other.digests
        self.problems += other.problems[: MAX_NAMED - len(self.problems)]
        self.num_problems += other.num_problems


def list_samples(
    stores: list[Store], task: Task, split_by: tuple[str, str] | None = None
) -> Samples:
    """Every image of every split with the targets there are, divided as training would.

    UserError: no image fits, two targets of one image, or a split_by that does not divide.
    """
    table = find_groups(stores, task)
    samples = Samples(table, with_classes(task, table))
    pattern = compile_lines(task.image)
    divide = divider(stores, task, pattern, split_by)
    texts = [divide(pattern.match(table.key(i).encode())) for i in range(len(table))]
    samples.splits = splits = np.full(len(texts), OTHER, np.uint8)
    divided = np.array([text is not None for text in texts])
    splits[~divided] = SPLITS.index("test")  # what a split by a field leaves alone
    texts = np.array([text for text in texts if text is not None], "S")
    for number, split in enumerate(SPLITS if split_by is None else SPLITS[:2]):
        try:
            chosen = choose(texts, task, split, split_by)
        except UserError:
            if split_by is not None:
                raise
            continue  # a split that the data does not have; the report counts each
        splits[np.flatnonzero(divided)[chosen]] = number
    return samples


def examine(samples: Samples, workers: int) -> Findings:
    """Read and decode every member once."""
    findings, num = Findings(), len(samples)
    chunks = (range(first, min(first + CHUNK, num)) for first in range(0, num, CHUNK))
    with tqdm(total=num, desc="checking", unit="sample", disable=None) as bar:
        for part in run_in_order(_examine, samples, chunks, workers):
            findings.add(part)
            bar.update(len(part.digests))
    return findings


def _examine(samples: Samples, numbers: range) -> Findings:
    """Images and each target on its own: one that is damaged hides no other."""
    findings = Findings()
    for i in numbers:
        digest, image = 0, None
        try:
            data, where = samples.read(i)
            digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
            image = decode_image(data, where)
            findings.sizes[tuple(image.shape[-2:])] += 1
        except UserError as error:
            findings.refuse(error)
        findings.digests.append(digest)
        for output in samples.task.outputs:
            try:
                target = samples.target(i, output, image)
            except UserError as error:
                findings.refuse(error)
                continue
            key = output.name, int(samples.splits[i])
            findings.values.setdefault(key, statistics_of(output)).count(target.numpy())
    return findings


def find_doubts(samples: Samples, findings: Findings) -> list[str]:
    """What `look` would say before training, in a line each, of all samples."""
    train, val = (samples.side(SPLITS.index(name)) for name in ("train", "val"))
    lines = list(look_at_images(train, val))
    for output in samples.task.outputs:
        counted, other = (findings.values.get((output.name, n)) for n in (0, 1))
        doubt = counted and counted.doubt(_files(train, output.name), other)
        lines += [f"{output.name}: {doubt}"] if doubt else []
    return lines


def _files(dataset: DenseDataset, output: str) -> Iterator[tuple[bytes, str]]:
    """Bytes and names of those targets of an output that can be read."""
    for i in dataset.indices.tolist():
        with suppress(UserError):
            yield dataset.read(i, output)


def find_copies(samples: Samples, findings: Findings) -> Iterator[tuple[int, int]]:
    """Pairs of samples with the same image bytes in two splits, one pair for each later sample."""
    first = {}
    for i, digest in enumerate(findings.digests):
        earlier = first.setdefault(digest, i)
        if digest and samples.splits[i] != samples.splits[earlier]:
            yield earlier, i
