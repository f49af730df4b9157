"""Members read over HTTP in random order, and what keeps them on this machine: our `BlockCache`
against fsspec's own `blockcache`: `python -m pytest tests/bench/bench_remote.py --benchmark-only`.

Lost: one request in ten is answered with 503; a read that raises is tried again. Killed: the
process that read all ends as a worker does, without closing; another reads all again.
"""

import http.server
import multiprocessing
import os
import threading
import time
import zlib

import fsspec
import numpy as np
import pytest
from test_remote import Handler

from datasets.stores import open_stores, remote, write_zip
from datasets.stores.blocks import BLOCK, BlockCache

pytest_plugins = ["bench_plugin"]
MEMBER = 42_000  # bytes: a composite of 224x224
FORK = multiprocessing.get_context("fork")


class Counting(Handler):
    """Counts requests and bytes for another process; loses one request in ten where asked to."""

    def do_GET(self):
        with self.server.counts.get_lock():
            self.server.counts[0] += 1
            self.server.counts[1] += 1
        super().do_GET()

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.files[self.path])))
        self.send_header("ETag", '"1"')
        self.end_headers()

    def answer(self, status, body, half=False, **headers):
        self.server.counts[2] += len(body)
        super().answer(status, body, half, **headers)


def run_server(data, counts, port):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    server.daemon_threads = True
    server.files, server.ranges, server.counts = {"/s.zip": data}, True, counts
    server.fate = lambda number: 503 if counts[3] and counts[0] % 10 == 0 else ""
    server.requests, server.lost, server.lock = [], 0, threading.Lock()
    server.password, server.sent = None, 0
    port.value = server.server_port
    server.serve_forever()


class Reader:
    """Reads any member by (offset, size), with the ways that are compared."""

    def __init__(self, way, url, folder):
        self.way = way
        if way == "blockcache":
            web = fsspec.filesystem("http", skip_instance_cache=True)
            system = fsspec.filesystem(
                "blockcache", fs=web, cache_storage=str(folder), skip_instance_cache=True
            )
            self.file = system.open(url, block_size=BLOCK)
        elif way == "fsspec":
            self.system, self.url = fsspec.filesystem("http", skip_instance_cache=True), url
        else:
            cache = BlockCache(folder, 10**9) if way == "BlockCache" else None
            self.file = remote.RemoteFile(url, cache)

    def __call__(self, offset, size):
        if self.way == "fsspec":
            return self.system.cat_file(self.url, start=offset, end=offset + size)
        if self.way == "blockcache":
            self.file.seek(offset)
            return self.file.read(size)
        return self.file.read(size, offset)

    def close(self):
        """What a process that ends in peace does; no worker of a loader does it."""
        if self.way == "blockcache":
            self.file.close()


def read_all(reader, spans, crcs):
    """Reads that gave other bytes, and attempts that raised."""
    wrong = failed = 0
    for (offset, size), crc in zip(spans, crcs, strict=True):
        for _ in range(remote.ATTEMPTS):
            try:
                data = reader(offset, size)
                break
            except Exception:  # each library has errors of its own
                failed += 1
        wrong += zlib.crc32(data) != crc
    return wrong, failed


def read_and_die(way, url, folder, spans, crcs):
    read_all(Reader(way, url, folder), spans, crcs)
    os._exit(0)  # as a worker of a loader


@pytest.mark.parametrize("case", ["first", "again", "lost", "killed"])
@pytest.mark.parametrize("way", ["plain", "fsspec", "BlockCache", "blockcache"])
def test_remote(way, case, bench, tmp_path, monkeypatch):
    """Random reads of members of 42 kB over HTTP on one machine"""
    if case == "killed" and way in ("plain", "fsspec"):
        pytest.skip("keeps nothing")
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    num, rng = 2000 if bench.full else 20, np.random.default_rng(0)
    write_zip(tmp_path / "s.zip", ((f"{i:05d}.bin", rng.bytes(MEMBER)) for i in range(num)))
    (store,) = open_stores([tmp_path / "s.zip"])
    order = rng.permutation(num)
    spans = [(int(at), MEMBER) for at in store.columns["places"]["offset"][order]]
    data = (tmp_path / "s.zip").read_bytes()
    crcs = [zlib.crc32(data[at : at + size]) for at, size in spans]
    counts, port = FORK.Array("q", 4), FORK.Value("i", 0)
    server = FORK.Process(target=run_server, args=(data, counts, port), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.01)
    url, folder = f"http://127.0.0.1:{port.value}/s.zip", tmp_path / "cache"
    try:
        counts[3] = case == "lost"
        if case == "again":
            before = Reader(way, url, folder)
            read_all(before, spans, crcs)
            before.close()
        if case == "killed":
            reads = FORK.Process(target=read_and_die, args=(way, url, folder, spans, crcs))
            reads.start()
            reads.join()
        counts[1] = counts[2] = 0
        reader, found = Reader(way, url, folder), []

        def read():
            found.append(read_all(reader, spans, crcs))

        (seconds,) = bench.measure(read, rounds=1, warm=0)
        wrong, failed = found[0]
        facts = {"reads/s": num / seconds, "requests": counts[1], "MB": counts[2] / 1e6}
        bench.row(None, way=way, reads=case, **facts, failed=failed, wrong=wrong)
        assert wrong == 0 or way == "blockcache"
    finally:
        server.terminate()
