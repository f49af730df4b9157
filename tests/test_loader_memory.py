"""Workers that read for many epochs hold no more memory at the end than at the beginning."""

import gc
import multiprocessing
import os
import re
from itertools import islice
from pathlib import Path

import pytest
from conftest import members_of

from datasets.dataset import open_task
from datasets.loader import train_loader
from datasets.stores import write_hdf5, write_zip

WORKERS, BATCH = 4, 8


def held(pids):
    """Bytes of memory of their own, and their shares of what they have in common (Pss). Libraries,
    which are mapped from files, are left out: that share depends on who else runs on the machine.
    """
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    kinds = r"^Pss_(?:Anon|Shmem): +(\d+) kB"
    return 1024 * sum(int(size) for text in texts for size in re.findall(kinds, text, re.M))


def is_told():
    """Whether this system says what a process holds, and of which kind."""
    path = Path("/proc/self/smaps_rollup")
    return path.exists() and "Pss_Anon" in path.read_text()


@pytest.mark.skipif(not is_told(), reason="no Pss_Anon in /proc/self/smaps_rollup")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_fifty_epochs_hold_as_much_as_five(tiny_task, tmp_path):
    """2 % of some 500 MB: less than 2 kB for each sample that is read are seen, a tenth of what it
    decodes to."""
    members = members_of(tiny_task, 200)
    for half, write, name in ((0, write_zip, "a.zip"), (1, write_hdf5, "b.h5")):
        own = {n: data for n, data in members.items() if int(n[-6:-4]) % 2 == half}
        write(tmp_path / name, own.items())
    dataset = open_task(tiny_task, [tmp_path], (32, 32)).train
    assert len(dataset) == 140
    batches, found = train_loader(dataset, BATCH, WORKERS), []
    for epochs in (5, 45):
        for _ in islice(batches, epochs * len(dataset) // BATCH):
            pass
        gc.collect()
        workers = [process.pid for process in multiprocessing.active_children()]
        assert len(workers) >= WORKERS
        found.append(held([os.getpid(), *workers]))
    print(f"{found[0] / 1e6:.1f} MB after 5 epochs, {found[1] / 1e6:.1f} MB after 50")
    assert found[1] < 1.02 * found[0]
