"""The order of training: every sample once an epoch, the same from any place on, for any rank."""

from itertools import islice

import numpy as np
import pytest
from conftest import members_of

from datasets import dataset as order
from datasets.dataset import InfiniteBatchSampler, mix_runs, open_task, overfit
from datasets.loader import train_loader
from datasets.stores import write_hdf5, write_zip

KINDS = ("global", "shards")


@pytest.fixture(params=KINDS)
def stream(request, monkeypatch):
    """stream(num, batch, seed, start, part) -> a sampler of either kind, with short runs."""
    monkeypatch.setattr(order, "RUN", 3)
    monkeypatch.setattr(order, "MIXED", 2)

    def make(num, *settings, **named):
        places = np.random.default_rng(9).permutation(num).astype(np.int32)
        named["neighbours"] = places if request.param == "shards" else None
        return InfiniteBatchSampler(num, *settings, **named)

    return make


@pytest.mark.parametrize("num", [1, 3, 7, 16, 25])
@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_every_sample_once_an_epoch(stream, num, batch):
    drawn = [item for items in islice(stream(num, batch, seed=3), 40) for item in items]
    assert len(drawn) == 40 * batch
    for epoch in range(len(drawn) // num):
        items = drawn[epoch * num : (epoch + 1) * num]
        assert {e for e, _ in items} == {epoch}
        assert sorted(index for _, index in items) == list(range(num))


def test_epochs_and_seeds_differ(stream):
    def epoch(seed, number):
        (items,) = islice(stream(50, 50, seed, start=number), 1)
        return [index for _, index in items]

    assert epoch(0, 0) == epoch(0, 0)
    assert epoch(0, 0) != epoch(0, 1)
    assert epoch(0, 0) != epoch(1, 0)


@pytest.mark.parametrize("start", [1, 2, 5, 13])
def test_a_stream_resumes_at_any_batch(stream, start):
    whole = list(islice(stream(7, 3, seed=1), 20))
    assert list(islice(stream(7, 3, seed=1, start=start), 20 - start)) == whole[start:]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("start", [0, 4])
def test_ranks_share_each_step(stream, world, start):
    ranks = [list(islice(stream(10, 2, 1, start, part=(rank, world)), 12)) for rank in range(world)]
    together = list(islice(stream(10, 2 * world, 1, start), 12))
    for step, expected in enumerate(together):
        parts = [item for rank in ranks for item in rank[step]]
        assert parts == expected
        assert len(set(parts)) == 2 * world


def most_runs(taken, length):
    """Of how many runs the samples are, at most, that come within so many."""
    runs = taken // order.RUN
    windows = np.lib.stride_tricks.sliding_window_view(runs, length)
    return max(len(set(window.tolist())) for window in windows)


def test_few_runs_at_a_time(monkeypatch):
    """Also where all samples lie in one shard: a run is a stretch of it."""
    monkeypatch.setattr(order, "RUN", 8)
    monkeypatch.setattr(order, "MIXED", 3)
    num, rng = 8 * 40 + 5, np.random.default_rng(0)
    taken = mix_runs(np.arange(num), rng)
    assert sorted(taken) == list(range(num))
    assert most_runs(taken, 24) <= 6  # within the mixed ones, or at the end of some
    assert most_runs(rng.permutation(num), 24) > 12
    assert set((taken[:24] // 8).tolist()) != {0, 1, 2}
    batches = taken[: num // 8 * 8].reshape(-1, 8) // order.RUN
    assert np.mean([len(set(batch)) for batch in batches.tolist()]) > 2.5  # and not one by one


def test_a_large_epoch_is_a_small_array():
    places = np.arange(800_000, dtype=np.int32)
    taken = mix_runs(places, np.random.default_rng(0))
    assert taken.nbytes == places.nbytes == 3_200_000
    assert (np.bincount(taken) == 1).all()
    batch = taken[:16]
    assert len(set((batch // order.RUN).tolist())) > 8
    assert len(np.unique(taken[: order.RUN * order.MIXED] // order.RUN)) == order.MIXED


@pytest.fixture
def shards(tiny_task, tmp_path):
    """Training samples of two shards, whose names take turns."""
    members = members_of(tiny_task, 14)
    for half, write, name in ((0, write_zip, "b.zip"), (1, write_hdf5, "a.h5")):
        own = {n: d for n, d in members.items() if int(n[-6:-4]) % 2 == half}
        write(tmp_path / name, sorted(own.items(), reverse=True))
    return open_task(tiny_task, [tmp_path / "b.zip", tmp_path / "a.h5"], (32, 32))


def test_neighbours_lie_side_by_side(shards):
    for dataset in (shards.train, overfit(shards, 5).train):
        places = dataset.neighbours()
        assert places.dtype == np.int32
        assert sorted(places) == list(range(len(dataset)))
        at = [dataset.table.image(int(dataset.indices[i])) for i in places]
        assert at == sorted(at)
        keys = [dataset.table.key(int(dataset.indices[i])) for i in places]
        assert keys != sorted(keys)
        assert {shard for shard, _ in at} == {0, 1}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("shuffle", KINDS)
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_stopped_anywhere_the_rest_comes_as_it_would(shards, monkeypatch, shuffle, workers):
    """What one rank without workers sees of 3 epochs, two ranks with any number of them see too."""
    monkeypatch.setattr(order, "RUN", 3)
    monkeypatch.setattr(order, "MIXED", 2)
    dataset, steps = shards.train, 8

    def seen(workers, start, part, batch):
        """The keys of each step's batch, up to the last step."""
        batches = train_loader(dataset, batch, workers, start, part, shuffle)
        return [each.keys for each in islice(batches, steps - start)]

    whole = seen(0, 0, (0, 1), 4)
    flat = [key for keys in whole for key in keys]
    every = sorted(dataset.table.key(i) for i in range(len(dataset)))
    for epoch in range(len(flat) // len(every)):
        assert sorted(flat[epoch * len(every) :][: len(every)]) == every
    for start in range(steps) if workers == 0 else (0, 3):
        assert seen(workers, start, (0, 1), 4) == whole[start:]
        halves = [seen(workers, start, (rank, 2), 2) for rank in (0, 1)]
        assert [a + b for a, b in zip(*halves, strict=True)] == whole[start:]
