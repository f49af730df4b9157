"""Systems that lack what POSIX has, as Windows does, train all the same."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import QUIET, SMALL, members_of

from datasets import TASKS
from datasets.stores import files, open_stores, write_zip

ROOT = Path(__file__).parents[1]
ABSENT = ("pread", "pwrite", "setpgid", "getpgid", "setsid", "killpg", "sched_getaffinity")
SCRIPT = """
import os, runpy, signal, sys
import torch, wandb  # they know what their systems have
for name in ("fcntl", "resource"):
    sys.modules[name] = None
for name in {absent!r}:
    delattr(os, name)
for name in ("SIGHUP", "SIGUSR1"):
    delattr(signal, name)
sys.argv = ["train.py", *{words!r}]
runpy.run_path("train.py", run_name="__main__")
"""


def test_a_run_without_posix(tmp_path):
    path = tmp_path / "output_1.zip"
    write_zip(path, members_of(TASKS["maskdepth"], 6).items())
    words = ["--task", "maskdepth", "--data", str(path), "--steps", "2", *SMALL, *QUIET]
    words += ["--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(absent=ABSENT, words=words)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "last.pt").exists()


def test_members_without_pread(tmp_path, monkeypatch):
    members = {f"{i}.bin": bytes([i]) * 37 * i for i in range(9)}
    write_zip(tmp_path / "a.zip", members.items())
    monkeypatch.delattr(os, "pread")
    (store,) = open_stores([tmp_path / "a.zip"])
    for name in sorted(members, reverse=True):
        assert store.read(name) == members[name]
    file = files.LocalFile(tmp_path / "a.zip")
    whole = (tmp_path / "a.zip").read_bytes()
    assert file.read(10**6, 5) == whole[5:]
    assert file.read(7, 3) == whole[3:10]
