"""The C library's memory on Linux, made fit for training on a CPU; elsewhere nothing happens.

A step asks for the same large tensors again and again. Fresh pages, which the system must clear
first, made half of its time, so freed memory is kept. And what is kept should stay whole: where
something small that lasts comes to lie behind a large tensor, its place is a little too small for
the next one of the same size, and the process grows, up to twice as far as its tensors need.
"""

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h of glibc
LARGE = 1 << 16  # bytes of what may lie apart from the heap; also how many may
# Without them what is small is put where a large tensor just was. Read when a program starts.
TUNABLES = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
SMALL = range(32, 2305, 16)  # bytes, with their heads, of what a step has beside tensors


def start_with_tunables() -> None:
    """Start this script again as it was called, with TUNABLES beside the user's own. Not where
    there is a GPU or a debugger, or where the user has set the first of them."""
    own = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or TUNABLES.partition("=")[0] in own or sys.gettrace():
        return
    if any(Path("/dev").glob("nvidia[0-9]*")) or not Path(sys.argv[0]).is_file():
        return
    os.environ["GLIBC_TUNABLES"] = f"{own}:{TUNABLES}".lstrip(":")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_freed_memory(first_step: bool = False) -> None:
    """Let the C library keep freed memory instead of giving it back to the system.

    first_step: not yet. What a first step leaves for good, such as moments and prepared
    convolutions, would lie between its large tensors and cut the heap into pieces for all steps.
    """
    libc: Any = _libc()
    if hasattr(libc, "mallopt"):
        if first_step:
            _reserve_small()
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(M_MMAP_MAX, LARGE if first_step else 0)  # large blocks come from the heap ...
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # ... which never shrinks


def give_back_memory() -> None:
    """Give the system what is free and kept: other threads take their memory from elsewhere."""
    libc: Any = _libc()
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None


@cache
def _reserve_small() -> None:
    """Places for what is small (12 MB), that each size is found elsewhere than behind a tensor: as
    many as building two networks and their steps take. Between them something stays, or they would
    become one."""
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    places = []
    for size in SMALL:
        for _ in range(3000 if size <= 256 else 40_000 // size):
            places.append(libc.malloc(size - 16))
            libc.malloc(24)
    for place in places:
        libc.free(place)
