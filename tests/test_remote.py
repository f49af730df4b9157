"""Shards elsewhere: the same bytes over lost connections, from any process, cached or not."""

import asyncio
import base64
import http.server
import io
import multiprocessing
import os
import pickle
import re
import threading
import time
import zipfile
from importlib.util import find_spec
from itertools import islice
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from PIL import Image
from yarl import URL

from datasets.index import find_samples
from datasets.stores import blocks, open_stores, remote, write_hdf5, write_zip
from datasets.stores.blocks import BlockCache
from datasets.stores.remote import RemoteFile, _Link, expand
from datasets.task import Mask, Task

RNG = np.random.default_rng(0)
MEMBERS = {f"image/{i:03d}.bin": RNG.bytes(37 * i) for i in range(60)}
TASK = Task("t", "image/{key}.png", (Mask("m", "mask/{key}.png"),), "m/iou")


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ranges of the server's files, and loses what its plan says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        server = self.server
        with server.lock:
            server.requests.append((self.path, self.headers.get("Range")))
            fate = server.fate(len(server.requests)) if server.fate else ""
            server.lost += fate not in ("", None)
        if fate == "close":
            self.close_connection = True
            return
        if isinstance(fate, int):
            self.answer(fate, b"busy")
            return
        if server.password and self.headers.get("Authorization") != server.password:
            self.answer(401, b"")
            return
        if self.path.startswith("/to/"):
            self.answer(302, b"", Location=self.path[3:])
            return
        data = server.files.get(self.path)
        if data is None:
            self.answer(404, b"")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked or not server.ranges:
            self.answer(200, data)
            return
        first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        span = f"bytes {first}-{last}/{len(data)}"
        self.answer(206, data[first : last + 1], fate == "half", Content_Range=span, ETag='"1"')

    def answer(self, status, body, half=False, **headers):
        self.send_response(status)
        for name, value in {**headers, "Content_Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        for at in range(0, len(body) // 2 if half else len(body), 2**16):
            self.wfile.write(body[at : at + 2**16][: len(body) // 2 - at if half else None])
            self.server.sent += 2**16
        self.close_connection = self.close_connection or half

    def log_message(self, *args):
        pass


@pytest.fixture
def serve(monkeypatch):
    """A function from files by path to a server on the loopback and its address."""
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    monkeypatch.setattr(remote, "TIMEOUT", 10)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", blocks.FOLDER_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start(files, fate=None, ranges=True):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.files, server.fate, server.ranges = files, fate, ranges
        server.requests, server.lost, server.lock = [], 0, threading.Lock()
        server.password, server.sent = None, 0
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server, f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def shard(tmp_path, kind, members=MEMBERS):
    """The bytes of a shard."""
    path = tmp_path / f"made.{kind[-3:] if kind == 'h5' else 'zip'}"
    if kind == "deflated":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in members.items():
                file.writestr(name, data)
    else:
        (write_hdf5 if kind == "h5" else write_zip)(path, members.items())
    data = path.read_bytes()
    path.unlink()
    return data


def contents(store):
    return {name: store.read_at(i) for i, name in enumerate(store.names())}


@pytest.mark.parametrize("kind", ["zip", "deflated", "h5"])
def test_the_same_bytes_as_from_a_file(kind, serve, tmp_path):
    suffix = "h5" if kind == "h5" else "zip"
    data = shard(tmp_path, kind)
    server, url = serve({f"/a/s.{suffix}": data, f"/b/t.{suffix}": data})
    one, other = open_stores([f"{url}/a/s.{suffix}", f"{url}/to/to/b/t.{suffix}"])
    before = len(server.requests)
    assert contents(one) == contents(other) == MEMBERS
    assert len(server.requests) - before == 2 * len(MEMBERS) - (2 if kind == "h5" else 0)
    assert one.sizes().tolist() == [len(data) for data in MEMBERS.values()]
    copy = pickle.loads(pickle.dumps(one))
    assert copy.read("image/007.bin") == MEMBERS["image/007.bin"]


def one_in(n, most=10**9):
    """Every n-th request is lost, in three ways by turns."""
    ways, lost = ["close", "half", 503], []

    def fate(number):
        if number % n or len(lost) == most:
            return ""
        lost.append(number)
        return ways[len(lost) % 3]

    return fate


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "workers"), [("zip", 0), ("zip", 2), ("h5", 2)])
def test_a_hundred_lost_connections_and_every_sample_once(kind, workers, serve, tmp_path):
    from datasets.dataset import open_split
    from datasets.loader import eval_batches  # imports torch

    keys = [f"{i:03d}" for i in range(150)]
    members = {f"image/{key}.png": png(int(key)) for key in keys}
    members |= {f"mask/{key}.png": png(255) for key in keys}
    server, url = serve({f"/s.{kind}": shard(tmp_path, kind, members)}, one_in(3, 100))
    data = open_split(TASK, [f"{url}/s.{kind}"], "train")
    seen = []
    for batch in eval_batches(data, 4, workers):
        for image, key in zip(batch.image, batch.keys, strict=True):
            assert (image == int(key[6:9])).all()
            seen.append(key)
    assert server.lost == 100
    assert seen == [data.table.key(i) for i in range(len(data))]
    assert len(set(seen)) == 135


def test_training_over_lost_connections(serve, tmp_path):
    """Two epochs, and none of their samples is bad: each read is tried again until it comes."""
    from datasets.dataset import open_split
    from datasets.loader import train_loader

    members = {f"image/{i:03d}.png": png(i) for i in range(100)}
    members |= {f"mask/{i:03d}.png": png(255) for i in range(100)}
    server, url = serve({"/s.zip": shard(tmp_path, "zip", members)}, one_in(3, 100))
    data = open_split(TASK, [f"{url}/s.zip"], "train")
    assert len(data) == 90
    batches = list(islice(train_loader(data, 5, 2, shuffle="shards"), 36))
    keys = [key for batch in batches for key in batch.keys]
    for epoch in (keys[:90], keys[90:]):
        assert sorted(epoch) == [data.table.key(i) for i in range(90)]
    assert all(
        (i == int(key[6:9])).all() for b in batches for i, key in zip(b.image, b.keys, strict=True)
    )
    assert server.lost == 100

    server.fate = lambda number: 503  # from now on every member is bad
    bad = []
    batches = train_loader(data, 5, 2, on_bad=lambda *one: bad.append(one))
    assert [next(batches).keys for _ in range(2)] == [[], []]
    assert len(dict(bad)) == 10
    assert all("cannot be read, 8 attempts failed: HTTP 503" in reason for _, reason in bad)


def test_attempts_end(serve, tmp_path):
    data = shard(tmp_path, "zip")
    server, url = serve({"/s.zip": data})
    (store,) = open_stores([f"{url}/s.zip"])
    server.fate = lambda number: 503
    before = len(server.requests)
    with pytest.raises(ValueError, match=f"^{url}/s.zip: cannot be read, 8 attempts .*HTTP 503"):
        store.read_at(3)
    assert len(server.requests) - before == remote.ATTEMPTS
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match="8 attempts failed: .*Connect"):
        pickle.loads(pickle.dumps(store)).read_at(3)


def test_what_no_attempt_can_change_fails_at_once(serve, tmp_path):
    data = shard(tmp_path, "zip")
    server, url = serve({"/s.zip": data, "/junk.zip": b"no zip at all" * 9, "/junk.h5": b"x" * 999})
    for address, what in (
        ("/absent.zip", "HTTP 404"),
        ("/junk.zip", "not a zip"),
        ("/junk.h5", "not an HDF5 file"),
        ("/folder/", "expected the address of a file of .zip, .h5, .hdf5"),
    ):
        with pytest.raises(ValueError, match=what) as caught:
            open_stores([url + address])
        assert str(caught.value).startswith(url + address)
    (store,) = open_stores([f"{url}/s.zip"])
    server.files["/s.zip"] = data + b"more"
    with pytest.raises(ValueError, match="may have changed"):
        store.read_at(3)
    server.ranges = False
    with pytest.raises(ValueError, match="gives no parts of files: HTTP 200"):
        store.read_at(3)
    assert len(server.requests) < 20
    with pytest.raises(ValueError, match="given twice"):
        open_stores([f"{url}/s.zip", f"{url}/s.zip"])


def test_nothing_is_downloaded_whole(serve):
    server, url = serve({"/s.zip": bytes(2**26)}, ranges=False)
    for address in (f"{url}/s.zip", f"{url}/to/s.zip"):
        with pytest.raises(ValueError, match="gives no parts of files: HTTP 200"):
            open_stores([address])
    assert server.sent < 2**25


def test_redirects_that_lead_elsewhere(serve, tmp_path, monkeypatch):
    server, url = serve({"/s.zip": shard(tmp_path, "zip")})
    with pytest.raises(ValueError, match="TooManyRedirects"):
        open_stores([f"{url}{'/to' * 6}/s.zip"])
    answer = Handler.answer
    monkeypatch.setattr(
        Handler, "answer", lambda self, *a, **k: answer(self, 302, b"", Location="file:///x")
    )
    with pytest.raises(ValueError, match="NonHttpUrlRedirectClientError: file:///x"):
        open_stores([f"{url}/s.zip"])


def test_secure_addresses_stay_secure():
    """A redirect from https to http is not followed: anybody between could answer."""
    link = _Link("https://far.example/s.zip")
    request = SimpleNamespace(url=URL("http://name:word@near.example/s.zip?key=secret"))
    with pytest.raises(ValueError, match="^https://far.example/s.zip: leads to http://near") as no:
        asyncio.run(link._look(request, None))  # nothing is sent
    assert "secret" not in str(no.value)


def test_errors_tell_the_address_and_no_secret(serve, tmp_path, caplog):
    server, url = serve({"/s.zip?key=secret": shard(tmp_path, "zip"), "/junk.zip?key=secret": b"x"})
    url = url.replace("http://", "http://name:word@")
    (store,) = open_stores([f"{url}/s.zip?key=secret"])
    server.fate = lambda number: 503
    texts = [str(store.path)]
    for call in (
        lambda: store.read_at(3),
        lambda: open_stores([f"{url}/s.zip?key=secret"] * 2),
        lambda: open_stores([f"{url}/folder/?key=secret"]),
        lambda: pickle.loads(pickle.dumps(store)).read_at(4),
    ):
        with pytest.raises(ValueError, match="http://127.0.0.1:") as caught:
            call()
        texts.append(str(caught.value))
    server.fate = None
    for name in ("absent", "junk"):
        with pytest.raises(ValueError, match=f"http://127.0.0.1:.*/{name}.zip") as caught:
            open_stores([f"{url}/{name}.zip?key=secret"])
        texts.append(str(caught.value))
    texts = "\n".join([*texts, caplog.text])
    assert not re.search("name|word|secret", texts)
    assert texts.count("\n") == 7


def test_user_and_password_of_an_address(serve, tmp_path):
    server, url = serve({"/s.zip": shard(tmp_path, "zip")})
    server.password = "Basic " + base64.b64encode(b"name:word").decode()
    for path in ("/s.zip", "/to/s.zip"):
        (store,) = open_stores([url.replace("http://", "http://name:word@") + path])
        assert contents(store) == MEMBERS
        with pytest.raises(ValueError, match="HTTP 401"):
            open_stores([url + path])


def test_a_redirect_is_followed_once(serve, tmp_path):
    """Where it led is asked from then on, and the address again when that fails."""
    server, url = serve({"/s.zip": shard(tmp_path, "zip")})
    (store,) = open_stores([f"{url}/to/s.zip"])
    before = len(server.requests)
    server.fate = lambda number: 403 if number == before + 5 else ""  # a signed link expires
    assert contents(store) == MEMBERS
    assert [path for path, _ in server.requests[before:]].count("/to/s.zip") == 1


def test_an_address_without_a_host_is_refused_at_once():
    with pytest.raises(ValueError, match="^http:///s.zip: Invalid"):
        open_stores(["http:///s.zip"])


def test_a_proxy_is_asked_for_the_whole_address(serve, tmp_path, monkeypatch):
    server, url = serve({"http://far.example/s.zip": shard(tmp_path, "zip")})
    monkeypatch.setenv("http_proxy", url)
    monkeypatch.setenv("no_proxy", "")
    (store,) = open_stores(["http://far.example/s.zip"])
    assert contents(store) == MEMBERS


def test_addresses_that_stand_for_several(tmp_path):
    suffixes = (".zip",)
    assert expand("http://h/x-{08..11}.zip", suffixes) == [
        f"http://h/x-{i}.zip" for i in ("08", "09", "10", "11")
    ]
    assert len(expand("http://h/{0..1}/{1..3}.zip", suffixes)) == 6
    for n in (2, 1):
        write_zip(tmp_path / f"{n}.zip", MEMBERS.items())
    (tmp_path / "else.txt").write_text("")
    found = open_stores([f"file://{tmp_path}"])
    assert [store.path for store in found] == [f"file://{tmp_path}/{n}.zip" for n in (1, 2)]
    assert contents(found[0]) == MEMBERS
    with pytest.raises(ValueError, match="holds no file of .zip"):
        expand(f"file://{tmp_path / '..'}", (".zip9",))


@pytest.mark.parametrize("kind", ["zip", "h5"])
def test_through_fsspec(kind, tmp_path):
    system = fsspec.filesystem("memory")
    system.pipe(f"/t/s.{kind}", shard(tmp_path, kind))
    (store,) = open_stores([f"memory://t/s.{kind}"])
    assert contents(store) == MEMBERS
    system.rm(f"/t/s.{kind}")
    with pytest.raises(ValueError, match="FileNotFoundError"):
        store.read_at(5)


def test_a_system_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="nosuch://x/s.zip: cannot be opened: .*nosuch"):
        open_stores(["nosuch://x/s.zip"])
    if not find_spec("s3fs"):
        with pytest.raises(ValueError, match="s3://x/s.zip: cannot be opened: ImportError: .*s3fs"):
            open_stores(["s3://x/s.zip"])


@pytest.mark.parametrize("kind", ["zip", "h5"])
def test_a_cache_spares_requests_and_heals(kind, serve, tmp_path):
    big = {f"{i:03d}.bin": RNG.bytes(30_000) for i in range(100)}  # 3 MB, over 20 blocks
    server, url = serve({f"/s.{kind}": shard(tmp_path, kind, big)}, one_in(7))
    keep = BlockCache(tmp_path / "cache", 10**8)
    (store,) = open_stores([f"{url}/s.{kind}"], keep)
    assert contents(store) == big
    asked = len(server.requests)
    assert contents(store) == big
    (again,) = open_stores([f"{url}/s.{kind}"], keep)
    assert contents(again) == big
    assert len(server.requests) <= asked + 2  # its size, perhaps twice
    kept = sorted((tmp_path / "cache").glob("*/[0-9]*"))
    assert len(kept) == -(-len(server.files[f"/s.{kind}"]) // blocks.BLOCK)
    whole = [path.read_bytes() for path in kept]
    for path, data in zip(kept, whole, strict=True):
        at = len(data) // 2
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])  # a changed bit
    assert contents(again) == big
    assert [path.read_bytes() for path in kept] == whole
    for path, data in zip(kept, whole, strict=True):
        path.write_bytes(data[:-1])
    kept[0].write_bytes(b"")
    assert contents(again) == big
    for path in kept:
        path.unlink()
        path.mkdir()  # nothing can be kept: no error
    assert contents(again) == big
    assert sorted((tmp_path / "cache").glob("*/*")) == kept


def test_a_cache_keeps_to_its_limit(serve, tmp_path):
    big = {f"{i:03d}.bin": RNG.bytes(30_000) for i in range(100)}
    server, url = serve({"/s.zip": shard(tmp_path, "zip", big)})
    keep = BlockCache(tmp_path / "cache", 10**6)
    (store,) = open_stores([f"{url}/s.zip"], keep)
    for i in np.random.default_rng(0).integers(0, 100, 200):
        assert store.read_at(int(i)) == big[f"{i:03d}.bin"]
        used = sum(p.stat().st_size for p in (tmp_path / "cache").glob("*/*"))
        assert used <= 10**6
    assert used > 0.5e6


def test_room_is_made_where_nothing_was_read_for_longest(tmp_path):
    keep = BlockCache(tmp_path, 5 * blocks.BLOCK // 2)
    asked = []

    def fetch(size, offset):
        asked.append(offset // blocks.BLOCK)
        return b"x" * size

    for block in (0, 1, 0, 2, 0, 2):
        keep.read("f", 4 * blocks.BLOCK, blocks.BLOCK, block * blocks.BLOCK, fetch)
        time.sleep(0.02)  # file times tick every few milliseconds
    assert asked == [0, 1, 2]


def test_a_process_asks_over_its_own_connection(serve, tmp_path):
    server, url = serve({"/s.zip": shard(tmp_path, "zip")})
    (store,) = open_stores([f"{url}/s.zip"])
    inherited = store._file._link
    store.read_at(5)
    assert store._file._link is inherited
    store._file._owner += 1  # as after a fork
    assert store.read_at(5) == MEMBERS["image/005.bin"]
    assert store._file._link is not inherited


def test_a_changed_file_is_not_taken_from_the_cache(serve, tmp_path):
    other = {name: data[::-1] for name, data in MEMBERS.items()}
    server, url = serve({"/s.zip": shard(tmp_path, "zip")})
    keep = BlockCache(tmp_path / "cache", 10**8)
    assert contents(open_stores([f"{url}/s.zip"], keep)[0]) == MEMBERS
    server.files["/s.zip"] = shard(tmp_path, "zip", other | {"more.bin": b"1"})
    assert contents(open_stores([f"{url}/s.zip"], keep)[0]) == other | {"more.bin": b"1"}


def read_some(store, seed, results):
    order = np.random.default_rng(seed).permutation(len(store))
    names = store.names()
    results.put([names[i] for i in order if store.read_at(int(i)) != MEMBERS[names[i]]])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_processes_share_a_cache(start, serve, tmp_path, monkeypatch):
    monkeypatch.setenv(blocks.FOLDER_VARIABLE, str(tmp_path / "cache"))
    server, url = serve({"/s.zip": shard(tmp_path, "zip")}, one_in(5))
    (store,) = open_stores([f"{url}/s.zip"])
    store.read_at(2)
    context = multiprocessing.get_context(start)
    results = context.Queue()
    workers = [context.Process(target=read_some, args=(store, n, results)) for n in range(3)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=60) for _ in workers] == [[]] * 3
    for worker in workers:
        worker.join()
    assert list((tmp_path / "cache").glob("*/0"))


def test_settings_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(blocks.FOLDER_VARIABLE, "")
    assert blocks.from_environment() is None
    monkeypatch.setenv(blocks.FOLDER_VARIABLE, str(tmp_path / "c"))
    monkeypatch.setenv(blocks.LIMIT_VARIABLE, "0.5")
    assert blocks.from_environment().limit == 2**29
    for wrong in ("0", "x", "nan", "inf"):
        monkeypatch.setenv(blocks.LIMIT_VARIABLE, wrong)
        with pytest.raises(ValueError, match="MANYHEAD_CACHE_GIB"):
            blocks.from_environment()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be a cache"):
        BlockCache(tmp_path / "file", 1)


def test_a_large_index_is_kept_in_the_cache(serve, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.stores.index_cache.MIN_MEMBERS", 20)
    keys = [f"{i:03d}" for i in range(40)]
    members = {f"{f}/{key}.png": b"x" * 9 for f in ("image", "mask") for key in keys}
    server, url = serve({"/s.zip": shard(tmp_path, "zip", members)})
    keep = BlockCache(tmp_path / "cache", 10**8)
    pairs = []
    for _ in range(2):
        table = find_samples(open_stores([f"{url}/s.zip"], keep), TASK, "train")
        pairs.append([(table.key(i), table.target(i, "m")) for i in range(len(table))])
    assert pairs[0] == pairs[1]
    kept = sorted(path.name for path in (tmp_path / "cache").glob(".*.index"))
    assert len(kept) == 2


def test_a_file_with_a_position(tmp_path):
    (tmp_path / "x.bin").write_bytes(bytes(range(200)))
    whole = RemoteFile(f"file://{tmp_path}/x.bin").as_file(200)
    assert whole.read(3) == b"\0\1\2"
    whole.seek(-5, os.SEEK_END)
    assert whole.read() == bytes(range(195, 200))
    assert whole.seek(7) == 7
    assert whole.read(1) == b"\7"
