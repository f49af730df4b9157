"""Stores and a task go in; what every sample holds, counted, and each member that cannot be used,
with the reason, come out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.check.statistics import STATISTICS, Statistics
from datasets.decode import check_same_size, decode_image, decode_target
from datasets.index import find_groups
from datasets.index.splits import choose, divider
from datasets.index.templates import compile_lines, fill_template
from datasets.processes import run_in_order
from datasets.stores import Store
from datasets.task import SPLITS, Sample, Task, UserError

CHUNK = 16  # samples that a process reads at a time
KEPT = 1000  # problems that are kept by name; all are counted
OTHER = len(SPLITS)  # number of the "split" of samples that are in none


class Samples(NamedTuple):
    """Every sample of every split, in order of image name. shards, members: int64
    (n, 1 + outputs), the image first, -1 where there is no such file. splits: uint8 (n), a position
    in SPLITS, or OTHER."""

    stores: list[Store]
    task: Task
    shards: np.ndarray
    members: np.ndarray
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.splits)

    def name(self, i: int, column: int = 0) -> str:
        """Member name of sample i's image, or of the target in this column."""
        return self.stores[self.shards[i, column]].names()[int(self.members[i, column])]

    def where(self, i: int, column: int = 0) -> str:
        """The same with its shard, for errors."""
        return f"{self.stores[self.shards[i, column]].path}: {self.name(i, column)}"

    def read(self, i: int, column: int = 0) -> bytes:
        """Encoded bytes; UserError names a member that is missing or damaged."""
        if self.shards[i, column] < 0:
            output = self.task.outputs[column - 1]
            match = compile_lines(self.task.image).match(self.name(i).encode())
            expected = fill_template(output.files, match)
            raise UserError(f"{self.where(i)}: no target for {output.name}, expected {expected}")
        return self.stores[self.shards[i, column]].read_at(int(self.members[i, column]))

    def load(self, i: int) -> Sample:
        """A whole sample; UserError names what does not fit."""
        image, targets = decode_image(self.read(i), self.where(i)), {}
        for column, output in enumerate(self.task.outputs, 1):
            target = decode_target(self.read(i, column), self.where(i, column), output)
            check_same_size(image, target, self.name(i), self.where(i, column))
            targets[output.name] = target
        return Sample(image, targets, self.name(i))


@dataclass
class Findings:
    """What reading samples tells. sizes: images by (H, W). values: by output name and split.
    digests: uint64, of the bytes of images, in order; 0 where one could not be read. problems: the
    first KEPT reasons, each naming its member; num_problems: of all."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    values: dict[tuple[str, int], Statistics] = field(default_factory=dict)
    digests: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    num_problems: int = 0

    def refuse(self, error: ValueError) -> None:
        self.num_problems += 1
        if len(self.problems) < KEPT:
            self.problems.append(str(error))

    def add(self, other: Findings) -> None:
        self.sizes += other.sizes
        for key, values in other.values.items():
            self.values.setdefault(key, type(values)()).add(values)
        self.digests += other.digests
        self.problems += other.problems[: KEPT - len(self.problems)]
        self.num_problems += other.num_problems


def list_samples(
    stores: list[Store], task: Task, split_by: tuple[str, str] | None = None
) -> Samples:
    """Every image of every split with the targets there are, divided as training would.

    UserError: no image fits, two targets of one image, or a split_by that does not divide.
    """
    shards, members = find_groups(stores, task)
    pattern = compile_lines(task.image)
    divide = divider(stores, task, pattern, split_by)
    names = (
        stores[shard].names().raw(member)
        for shard, member in zip(shards[:, 0].tolist(), members[:, 0].tolist(), strict=True)
    )
    texts = [divide(pattern.match(name)) for name in names]
    splits = np.full(len(texts), OTHER, np.uint8)
    divided = np.array([text is not None for text in texts])
    splits[~divided] = SPLITS.index("test")  # what a split by a field leaves alone
    texts = np.array([text for text in texts if text is not None], "S")
    for number, split in enumerate(SPLITS if split_by is None else SPLITS[:2]):
        try:
            chosen = choose(texts, task, split, split_by)
        except ValueError:
            if split_by is not None:
                raise
            continue  # a split that the data does not have; the report counts each
        splits[np.flatnonzero(divided)[chosen]] = number
    return Samples(stores, task, shards, members, splits)


def examine(samples: Samples, workers: int) -> Findings:
    """Read and decode every member once."""
    findings = Findings()
    chunks = (
        range(first, min(first + CHUNK, len(samples))) for first in range(0, len(samples), CHUNK)
    )
    with tqdm(total=len(samples), desc="checking", unit="sample", disable=None) as bar:
        for found in run_in_order(_examine_chunk, samples, chunks, workers):
            findings.add(found)
            bar.update(len(found.digests))
    return findings


def _examine_chunk(samples: Samples, numbers: range) -> Findings:
    findings = Findings()
    for i in numbers:
        _examine_one(samples, i, findings)
    return findings


def _examine_one(samples: Samples, i: int, findings: Findings) -> None:
    """A sample's image and each target on its own: one that is damaged hides no other."""
    digest, image = 0, None
    try:
        data = samples.read(i)
        digest = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        image = decode_image(data, samples.where(i))
        findings.sizes[tuple(image.shape[-2:])] += 1
    except ValueError as error:
        findings.refuse(error)
    findings.digests.append(digest)
    for column, output in enumerate(samples.task.outputs, 1):
        try:
            name = samples.where(i, column) if samples.shards[i, column] >= 0 else ""
            target = decode_target(samples.read(i, column), name, output)
            if image is not None:
                check_same_size(image, target, samples.name(i), name)
        except ValueError as error:
            findings.refuse(error)
            continue
        key = output.name, int(samples.splits[i])
        findings.values.setdefault(key, STATISTICS[output.kind]()).count(target.numpy())


def find_copies(samples: Samples, findings: Findings) -> Iterator[tuple[int, int]]:
    """Pairs of samples with the same image bytes in two splits, one pair for each later sample."""
    digests = np.array(findings.digests, np.uint64)
    order = np.argsort(digests, kind="stable")
    first = 0
    for place, i in enumerate(order.tolist()):
        if not place or digests[i] != digests[order[place - 1]]:
            first = i
        elif digests[i] and samples.splits[i] != samples.splits[first]:
            yield first, i
