"""Work in several processes: the same results in order, one error, nothing that lives on."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from datasets.processes import run_in_order

ROOT = Path(__file__).parents[1]


def power(shared, item):
    if item == "die":
        os._exit(1)
    if item < 0:
        raise ValueError(f"{item}: negative")
    return os.getpid(), shared**item


@pytest.mark.parametrize(("workers", "start"), [(1, None), (3, None), (2, "spawn")])
def test_results_come_in_the_order_of_the_items(monkeypatch, workers, start):
    monkeypatch.setattr(multiprocessing, "get_context", partial(multiprocessing.get_context, start))
    pids, results = zip(*run_in_order(power, 2, range(40), workers), strict=True)
    assert list(results) == [2**i for i in range(40)]
    assert (os.getpid() in pids) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised_where_its_result_would_come(workers):
    results = run_in_order(power, 2, [1, 2, -3, 4], workers)
    assert [next(results)[1] for _ in range(2)] == [2, 4]
    with pytest.raises(ValueError, match="-3: negative"):
        next(results)


def test_a_killed_process_is_one_line():
    with pytest.raises(ValueError, match="a process was killed"):
        list(run_in_order(power, 2, [1, "die", 2], 2))


def slow(folder, item):
    """Half of the items take far longer than the test; each says when it begins and tidies up."""
    (folder / f"{item}.begun").touch()
    try:
        time.sleep(60 if item < 2 else 0)
    finally:
        (folder / f"{item}.tidied").touch()


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {root!r}]
from datasets.processes import run_in_order
from test_processes import slow
try:
    list(run_in_order(slow, Path({folder!r}), range(20), 2))
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_ends_what_is_in_hand_and_begins_nothing(tmp_path):
    script = SCRIPT.format(tests=str(ROOT / "tests"), root=str(ROOT), folder=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        start_new_session=True,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    limit = time.monotonic() + 60
    while len(list(tmp_path.glob("*.begun"))) < 2 and time.monotonic() < limit:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130, error
    assert error == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("0.begun", "0.tidied", "1.begun", "1.tidied")
    ]
