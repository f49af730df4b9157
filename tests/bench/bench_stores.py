"""How fast members are read and data sets opened: `python -m pytest tests/bench/bench_stores.py`.

Needs no data: it makes pictures of the size of the mask + depth course's. With --benchmark-only a
million members are read, and opened are `LARGE` zips of 120,000 members, 20 of them by
`MANYHEAD_BENCH_ZIPS=20` (2.5 GB below --basetemp); otherwise few.
"""

import io
import os
import pickle
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
from datasets.stores.zipfiles import PLACE

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


def in_turn(calls, rounds):
    """Microseconds of this process for a call, by name: each is a function and what it is called
    with, one after the other, and takes its turn in every round; the median."""
    found = {name: [] for name in calls}
    for _ in range(rounds):
        for name, (call, arguments) in calls.items():
            start = process_time()
            for each in arguments:
                call(*each)
            found[name].append(1e6 * (process_time() - start) / len(arguments))
    return {name: float(np.median(times)) for name, times in found.items()}


def uncached(path):
    """The file, open, none of it in the system's cache. Reads bring it there, as in a training:
    what lies there since it was written is read faster, the more so the larger the file."""
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    return file


def decoded(store, i):
    decode_image(store.read_at(i), "")


def calls_of(stores, files, order, decoding):
    """What `in_turn` compares: ours, and the same bytes by nothing but the system's call."""
    each = len(stores[0])
    places = [store.columns["places"].view(PLACE)[["size", "offset"]].tolist() for store in stores]
    plan = [(stores[i // each], i % each) for i in order]
    bare = [(files[i // each], *places[i // each][i % each]) for i in order]
    calls = {"read": (type(stores[0]).read_at, plan), "os.pread": (os.pread, bare)}
    return calls | ({"decoded": (decoded, plan[:500])} if decoding else {})


@pytest.mark.benchmark(group="random reads from 1 shard and from 500, in turn")
@pytest.mark.parametrize("what", ["3 kB", "JPEG"])
@pytest.mark.parametrize("write", [write_zip, write_hdf5])
def test_read_of_many_shards(write, what, tmp_path, benchmark, full, monkeypatch):
    """What a read of many costs more is the system's: memory out of the processor's cache, for
    `os.pread` alone too. With 55 handles, of a limit of 110, most reads open a file."""
    num, rounds = (10_000, 9) if full else (500, 1)
    some = [os.urandom(3000)] if what == "3 kB" else [picture(seed) for seed in range(100)]
    order, suffix = (
        np.random.default_rng(0).permutation(num).tolist(),
        "zip" if write is write_zip else "h5",
    )
    calls, files = {}, []
    for shards in (1, 500):
        folder, each = tmp_path / str(shards), num // shards
        for s in range(0, num, each):
            members = ((f"{i:06d}.jpg", some[i % len(some)]) for i in range(s, s + each))
            write(folder / f"{s:06d}.{suffix}", members)
        stores = open_stores([folder])
        files += [uncached(store.path) for store in stores]
        for name, call in calls_of(stores, files[-shards:], order, what == "JPEG").items():
            calls[name, shards] = call
    found = in_turn(calls, rounds)
    monkeypatch.setattr("datasets.stores.files._most_open", lambda: 55)
    few = {(name, n): call for (name, n), call in calls.items() if name != "os.pread"}
    few = pickle.loads(pickle.dumps(few))  # without the handles that there are
    found |= {(f"{name}, 55 handles", n): us for (name, n), us in in_turn(few, rounds).items()}
    benchmark.pedantic(lambda: None)
    for name in dict.fromkeys(name for name, _ in found):
        one, many = found[name, 1], found[name, 500]
        benchmark.extra_info[f"us of {name}"] = one, many
        if full:
            print(f"\n{suffix}, {what}, {name}: {one:.2f} us, {many:.2f} us of 500", end="")
            print(f", {many - one:+.2f} us, {many / one - 1:+.1%}", end="")
    for file in files:
        os.close(file)


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
