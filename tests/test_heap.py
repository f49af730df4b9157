"""A script starts again as it was called, once, and memory that is kept stays usable."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.memory.heap import TUNABLES, give_back_memory, keep_freed_memory

linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
SCRIPT = """import os, sys
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], sys.flags.dev_mode, flush=True)
from utils.memory.heap import start_with_tunables
start_with_tunables()
print("went on")
"""


def started(path: Path, **variables: str) -> tuple[int, list[str]]:
    """The number of the process that was started, and what it said."""
    path.write_text(SCRIPT)
    root = str(Path(__file__).parents[1])
    given = {name: v for name, v in os.environ.items() if name != "GLIBC_TUNABLES"}
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", path, "--name", "two words"],
        env=given | variables | {"PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    )
    return process.pid, process.communicate()[0].splitlines()


@linux
@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="tensors are on a GPU")
def test_a_script_starts_again_as_it_was_called_beside_other_tunables(tmp_path):
    own, words = "glibc.malloc.hugetlb=0", "['--name', 'two words'] True"
    pid, lines = started(tmp_path / "script.py", GLIBC_TUNABLES=own)
    assert lines == [f"{pid} {own} {words}", f"{pid} {own}:{TUNABLES} {words}", "went on"]


@linux
@pytest.mark.parametrize("own", ["glibc.malloc.tcache_count=7", f"x.y=1:{TUNABLES}"])
def test_what_the_user_has_set_stays(tmp_path, own):
    pid, lines = started(tmp_path / "script.py", GLIBC_TUNABLES=own)
    assert lines == [f"{pid} {own} ['--name', 'two words'] True", "went on"]


def test_memory_is_kept_and_given_back():
    keep_freed_memory(first_step=True)
    keep_freed_memory()
    assert sum(bytes(1 << 20)) == 0
    give_back_memory()
