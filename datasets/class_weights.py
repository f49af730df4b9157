"""How much each class counts in the loss, so that rare ones are learnt too."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.dataset import BadMember, DenseDataset, OnBad, refuse
from utils.files import write_whole

MAX_SAMPLES = 1000  # labels that are decoded at most, spread evenly: enough for a share of 0.001 %
MAX_WEIGHT = 10.0


def class_weights(
    dataset: DenseDataset, cache: Path, on_bad: OnBad = refuse
) -> dict[str, tuple[float, ...]]:
    """Weights by output name for every output of classes: the square root of median frequency
    balancing (Eigen and Fergus 2015), at most MAX_WEIGHT; 1 for a class that does not occur.

    The root, because the plain ratio is over 10,000 between the commonest and the rarest damage and
    makes a network cry wolf. cache: a folder for the counts.
    """
    weights = {}
    for name, counts in class_histogram(dataset, cache, on_bad).items():
        share = np.asarray(counts, np.float64) / max(1, sum(counts))
        median = np.median(share[share > 0]) if share.any() else 1.0
        weight = np.sqrt(median / np.where(share > 0, share, median))
        weights[name] = tuple(np.minimum(weight, MAX_WEIGHT).tolist())
    return weights


def class_histogram(
    dataset: DenseDataset, cache: Path, on_bad: OnBad = refuse
) -> dict[str, list[int]]:
    """Labelled pixels (or images) per class, by output name, of at most MAX_SAMPLES samples; bad
    ones do not count where `on_bad` returns."""
    outputs = [output for output in dataset.task.outputs if output.balanced]
    if not outputs:
        return {}
    file = cache / f"histogram-{_digest(dataset)}.json"
    with suppress(OSError, ValueError, AttributeError, TypeError):  # absent, or not as written here
        kept = {name: [int(n) for n in num] for name, num in json.loads(file.read_text()).items()}
        if {n: len(num) for n, num in kept.items()} == {o.name: len(o.labels) for o in outputs}:
            return kept
    counts = {output.name: np.zeros(len(output.labels), np.int64) for output in outputs}
    counted = dataset.indices[:: _step(dataset)].tolist()
    for index in tqdm(counted, "counting classes", disable=None):
        try:
            targets = dataset.load(index).targets
        except BadMember as error:
            on_bad(error.member, error.reason)
            continue
        for name, count in counts.items():
            by_id = np.bincount(targets[name].numpy().ravel(), minlength=256)
            count += by_id[: len(count)]
    histogram = {name: count.tolist() for name, count in counts.items()}
    with suppress(OSError):  # no room, no right: they are counted again the next time
        cache.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(histogram).encode())
    return histogram


def _digest(dataset: DenseDataset) -> str:
    """A name for what is counted: the task, the samples, the shards or label files as they are."""
    table, labels = dataset.table, []
    names = [output.name for output in dataset.task.dense if output.balanced]
    for index in dataset.indices[:: _step(dataset)].tolist():
        for shard, member in (table.target(index, name) for name in names):
            store = table.stores[shard]
            if store.fingerprint() is None:  # a folder's own time says nothing of its files
                labels.append(_changed(store.path / store.names()[member]))
    shards = [[str(store.path), store.fingerprint()] for store in table.stores]
    texts = [
        [dataset.table.text(index, output.name) for index in dataset.indices.tolist()]
        for output in dataset.task.outputs
        if output.per_image
    ]
    facts = [dataset.task.to_json(), texts, shards, dataset.indices.tolist(), len(table), labels]
    ends = [table.key(0), table.key(len(table) - 1)]
    return hashlib.sha256(json.dumps([facts, ends]).encode()).hexdigest()[:16]


def _changed(path: Path) -> int:
    """When a file was changed last, in nanoseconds; 0 for one whose reading will tell what is
    wrong."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _step(dataset: DenseDataset) -> int:
    """Every how many-th sample is counted."""
    return max(1, -(-len(dataset) // MAX_SAMPLES))
