"""How fast members are read and data sets opened: `python -m pytest tests/bench/bench_stores.py`.

Needs no data: it makes pictures of the size of the mask + depth course's. With --benchmark-only a
million members are read, and opened are `LARGE` zips of 120,000 members, 20 of them by
`MANYHEAD_BENCH_ZIPS=20` (2.5 GB below --basetemp); otherwise few.
"""

import io
import os
import tarfile
import zipfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from time import process_time  # processor time: others may run on the machine

import numpy as np
import pytest
from PIL import Image

from datasets import TASKS
from datasets.index import find_samples
from datasets.photo import decode_image
from datasets.stores import open_stores, write_hdf5, write_zip

NUM = 1500
LARGE = int(os.environ.get("MANYHEAD_BENCH_ZIPS", "2"))


def picture(seed):
    """A JPEG of 224x224 with soft shapes and some grain, about 10 kB."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8)).resize((224, 224))
    grain = rng.normal(0, 3, (224, 224, 1))
    pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same members as folder, zip, deflated zip, HDF5 shard and tar."""
    folder = tmp_path_factory.mktemp("stores")
    some = [picture(seed) for seed in range(100)]
    members = [(f"image/{i:06d}.jpg", some[i % len(some)]) for i in range(NUM)]
    write_zip(folder / "s.zip", members)
    write_hdf5(folder / "s.h5", members)
    (folder / "folder" / "image").mkdir(parents=True)
    with zipfile.ZipFile(folder / "d.zip", "w", zipfile.ZIP_DEFLATED) as deflated:
        for name, data in members:
            (folder / "folder" / name).write_bytes(data)
            deflated.writestr(name, data)
    with tarfile.open(folder / "s.tar", "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return {
        "folder": folder / "folder",
        "zip": folder / "s.zip",
        "deflated": folder / "d.zip",
        "h5": folder / "s.h5",
        "tar": folder / "s.tar",
    }


@pytest.fixture(scope="module")
def full(request):
    """Whether this run is for its numbers."""
    return request.config.getoption("benchmark_only")


ORDER = np.random.default_rng(0).permutation(NUM).tolist()


@pytest.mark.benchmark(group=f"{NUM} members in random order, bytes alone", timer=process_time)
@pytest.mark.parametrize("kind", ["zip", "h5", "deflated", "folder", "zipfile"])
def test_read(kind, places, benchmark):
    if kind == "zipfile":
        with zipfile.ZipFile(places["zip"]) as file:
            names = file.namelist()
            benchmark(lambda: [file.read(names[i]) for i in ORDER])
        return
    (store,) = open_stores([places[kind]])
    benchmark(lambda: [store.read_at(i) for i in ORDER])


def read_randomly(path, num, seed):
    """Read that many members in random order and compare each with what zipfile found; seconds of
    this process's time that a read took."""
    (store,) = open_stores([path])
    with zipfile.ZipFile(path) as file:
        expected = [file.read(name) for name in store.names()]
    order, seconds = np.random.default_rng(seed).integers(len(expected), size=num).tolist(), 0.0
    for begin in range(0, num, 100):
        some = order[begin : begin + 100]
        start = process_time()
        found = [store.read_at(i) for i in some]
        seconds += process_time() - start
        assert found == [expected[i] for i in some]
    return seconds / num


@pytest.mark.benchmark(group="random reads by 4 processes at once, one store opened before")
def test_read_by_processes(places, benchmark, full):
    num = 250_000 if full else 500
    read = partial(read_randomly, places["zip"], num // 10)
    with ProcessPoolExecutor(4, get_context("fork")) as pool:
        seconds = benchmark.pedantic(lambda: list(pool.map(read, range(40))), rounds=1)
    benchmark.extra_info |= {"reads": 4 * num, "us_per_read": 1e6 * float(np.median(seconds))}
    if full:
        print(f"\n{4 * num} reads, none wrong, {1e6 * np.median(seconds):.1f} us of a core each")


def read_all(plan):
    """Seconds of this process's time that a read took."""
    start = process_time()
    for store, i in plan:
        store.read_at(i)
    return (process_time() - start) / len(plan)


@pytest.mark.benchmark(group="random reads of 3 kB from one zip and from 500, in turn")
@pytest.mark.parametrize("write", [write_zip, write_hdf5])
def test_read_of_many_shards(write, tmp_path, benchmark, full):
    """What a read of many costs more is memory out of the processor's cache, half of it the
    system's own, for `os.pread` of 500 files."""
    num, suffix = 20_000 if full else 500, "zip" if write is write_zip else "h5"
    data, plans = os.urandom(3000), {}
    for shards in (1, 500):
        each = num // shards
        for s in range(shards):
            names = (f"image/{i:06d}.jpg" for i in range(s * each, (s + 1) * each))
            (tmp_path / str(shards)).mkdir(exist_ok=True)
            path = tmp_path / str(shards) / f"{s:03d}.{suffix}"
            write(path, ((name, data) for name in names))
        stores = open_stores([tmp_path / str(shards)])
        order = np.random.default_rng(0).permutation(num).tolist()
        plans[shards] = [(stores[i // each], i % each) for i in order]
    rounds = [{n: read_all(plan) for n, plan in plans.items()} for _ in range(9 if full else 1)]
    benchmark.pedantic(lambda: None)
    medians = {n: 1e6 * float(np.median([each[n] for each in rounds])) for n in plans}
    benchmark.extra_info |= {f"us_per_read_of_{n}_shards": us for n, us in medians.items()}
    if full:
        print(f"\n{suffix}: " + ", ".join(f"{us:.2f} us of {n}" for n, us in medians.items()))


def ours(places, kind):
    (store,) = open_stores([places[kind]])
    return ((store.read_at(i), store.names()[i]) for i in ORDER)


def from_webdataset(places):
    webdataset = pytest.importorskip("webdataset")
    data = webdataset.WebDataset(str(places["tar"]), shardshuffle=False, empty_check=False)
    return ((sample["jpg"], sample["__key__"]) for sample in data)


def from_imagefolder(places):
    from torchvision.datasets import ImageFolder

    def read(path):
        with open(path, "rb") as file:
            return file.read()

    data = ImageFolder(str(places["folder"]), loader=read)
    return ((data[i][0], str(i)) for i in ORDER)


READERS = {
    "zip": lambda places: ours(places, "zip"),
    "h5": lambda places: ours(places, "h5"),
    "webdataset, in its order": from_webdataset,
    "ImageFolder": from_imagefolder,
}


@pytest.mark.benchmark(group=f"an epoch of {NUM} samples", timer=process_time)
@pytest.mark.parametrize("decoding", [False, True], ids=["bytes", "decoded"])
@pytest.mark.parametrize("reader", READERS)
def test_epoch(reader, decoding, places, benchmark):
    def epoch():
        number = 0
        for data, name in READERS[reader](places):
            number += decode_image(data, name).shape[0] == 3 if decoding else len(data) > 0
        return number

    assert benchmark.pedantic(epoch, rounds=5 if decoding else 15, warmup_rounds=1) == NUM


@pytest.fixture(scope="module")
def large(tmp_path_factory, full):
    """LARGE zips of 40,000 triples each, members of some hundred bytes."""
    folder, data = tmp_path_factory.mktemp("large"), os.urandom(800)
    for n in range(1, LARGE + 1):
        places = (f"bg_fg_{n}", f"bg_fg_mask_{n}", "depthMap")
        triples = 40_000 if full else 400
        names = (f"{place}/img_{i:06d}.jpg" for place in places for i in range(triples))
        write_zip(folder / f"output_{n:02d}.zip", ((name, data) for name in names))
    return folder


@pytest.mark.benchmark(group=f"opening {LARGE} zips of 120,000 members and joining their samples")
@pytest.mark.parametrize("kept", [False, True], ids=["first", "kept index"])
def test_open(kept, large, benchmark, full):
    def forget():
        for path in [] if kept else large.glob(".*.index"):
            path.unlink()

    def opened():
        return find_samples(open_stores([large]), TASKS["maskdepth"], "train")

    opened()
    rounds = {"setup": forget, "rounds": 1} if not kept else {"rounds": 5}
    assert len(benchmark.pedantic(opened, **rounds)) == (36_000 if full else 360) * LARGE
