"""A folder is predicted to its end: what is damaged is named, what is done is kept."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from PIL import Image
from test_infer import OUTPUTS, keep, opened, picture

from datasets import images
from utils.maps import results

BAD = (3, 50, 199)  # of 200, by number


@pytest.fixture
def scans(tmp_path):
    """Six pictures, two of which are cut, and a network in tiny.pt."""
    keep(tmp_path / "tiny.pt", TINY)
    (tmp_path / "scans").mkdir()
    for i in range(6):
        picture("RGB", (16, 16), i).save(tmp_path / "scans" / f"{i:02d}.png")
    for i in (0, 5):
        path = tmp_path / "scans" / f"{i:02d}.png"
        path.write_bytes(path.read_bytes()[:99])
    return "--weights", "tiny.pt", "--input", "scans"


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_damaged_files_are_listed_at_the_end_and_the_status_is_1(run_infer, scans, tmp_path):
    ran = run_infer(*scans)
    assert ran.status == 1
    *listed, last = ran.err.splitlines()[-3:]
    for line, name in zip(listed, ("00.png", "05.png"), strict=True):
        assert line.startswith(f"skipped scans: {name}: cannot be decoded")
    assert last == "4 images predicted, 2 cannot be read, see predictions"
    assert len(list((tmp_path / "predictions").glob("*_parts.png"))) == 4
    assert run_infer(*scans, "--skip-bad", "2", "--out", "expected").status == 0


def test_more_pixels_are_opened_where_they_are_allowed(run_infer, scans, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", images.MAX_PIXELS)  # as it was, afterwards
    ran = run_infer(*scans, "--skip-bad", "2", "--max-pixels", "255")
    assert ran.status == 2
    assert "expected at most 255; infer.py --max-pixels allows more" in ran.err
    assert run_infer(*scans, "--skip-bad", "2", "--max-pixels", "256").status == 0


def test_a_folder_without_one_whole_file_is_an_error(run_infer, scans, tmp_path):
    for path in (tmp_path / "scans").iterdir():
        path.write_bytes(b"text")
    ran = run_infer(*scans)
    assert ran.status == 2
    assert ran.err.count("\n") == 2  # the first tells which weights
    assert "error: scans: 00.png: not an image" in ran.err
    assert "; and 5 more cannot be read" in ran.err


def test_what_is_done_is_kept_while_nothing_has_changed(run_infer, scans, tmp_path):
    out, folder = tmp_path / "predictions", tmp_path / "scans"
    run_infer(*scans)
    before = times(out)
    ran = run_infer(*scans)
    assert (ran.status, times(out)) == (1, before)
    assert "0 images predicted, 4 predicted before, 2 cannot be read" in ran.err

    picture("RGB", (20, 20), 99).save(folder / "02.png")
    (out / "03_edge.png").unlink()
    (out / "04_near.png").write_bytes((out / "04_near.png").read_bytes()[:40])
    assert "04_near.png: is there already" in run_infer(*scans).err
    (out / "04_near.png").unlink()
    assert "0 images predicted" not in run_infer(*scans).err
    changed = {name[:2] for name, when in times(out).items() if before.get(name) != when}
    assert changed == {"02", "03", "04"}
    assert opened(out / "02_parts.png").shape == (20, 20)


@pytest.mark.parametrize("change", ["weights", "--tta", "--tta scales", "--tile"])
def test_another_way_to_predict_keeps_nothing(run_infer, scans, tmp_path, change):
    run_infer(*scans)
    if change == "weights":
        keep(tmp_path / "tiny.pt", TINY, seed=1)
    words = {"--tile": ["--tile", "8", "--overlap", "4"], "weights": []}.get(change, change.split())
    assert "4 images predicted, 2 cannot" in run_infer(*scans, *words).err


def test_parts_of_other_pictures_stay(tmp_path):
    names = (".a_b.png.12.part", ".a_c_view.png.3.part", ".b_a.png.12.part", ".a.png.12.part")
    for name in names:
        (tmp_path / name).touch()
    results.remove_parts([tmp_path / "a", tmp_path / "x"])
    assert {path.name for path in tmp_path.iterdir()} == set(names[2:])


KILLED_TWICE = """
import os, signal, sys, time
from pathlib import Path
import torch
import infer
torch.set_num_threads(1)
out = Path("predictions")

def predict():
    pid = os.fork()
    if not pid:
        os._exit(infer.main())
    return pid

for num in (30, 120):
    pid = predict()
    while not out.is_dir() or sum("_near.png" in name for name in os.listdir(out)) < num:
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    print(*(path.name for path in out.glob("[!.]*_near.png")))
print(os.waitstatus_to_exitcode(os.waitpid(predict(), 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_folder_of_200_that_is_killed_twice(tmp_path):
    """The 197 that can be read are there once, whole; three are named."""
    keep(tmp_path / "tiny.pt", TINY)
    (tmp_path / "scans").mkdir()
    for i in range(200):
        path = tmp_path / "scans" / f"{i:03d}.png"
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[: 40 if i in BAD else None])
    words = ("--weights", "tiny.pt", "--input", "scans", "--device", "cpu")
    ran = subprocess.run(
        [sys.executable, "-c", KILLED_TWICE, *words], capture_output=True, text=True, cwd=tmp_path,
        timeout=120, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    first, second, status = ran.stdout.splitlines()
    assert status == "1", ran.stderr
    kept = len(second.split())
    *listed, last = ran.stderr.splitlines()[-4:]
    assert [line.split(": ")[1] for line in listed] == [f"{i:03d}.png" for i in BAD]
    numbers = [int(word) for word in last.split() if word.isdigit()]
    assert sum(numbers[:2]) == 197
    assert kept - 1 <= numbers[1] <= kept
    assert len(first.split()) < kept < 197
    expected = {f"{i:03d}_{name}{view}.png" for i in range(200) if i not in BAD
                for name in OUTPUTS for view in ("", "_view")}  # fmt: skip
    assert {path.name for path in (tmp_path / "predictions").iterdir()} == expected
    for name in expected:
        height = opened(tmp_path / "predictions" / name).shape[0]
        assert height > 8 if "_view" in name else height == 8


PEAKS = """
import os, sys
import torch
import infer
from utils.maps import results
from utils.memory.heap import keep_freed_memory
torch.set_num_threads(1)
keep_freed_memory()
results.LARGE = 2**17
for name in ("small.tif", "large.tif"):
    pid = os.fork()
    if not pid:
        sys.argv[sys.argv.index("--input") + 1] = name
        os._exit(infer.main())
    _, status, used = os.wait4(pid, 0)
    print(status, used.ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units")
def test_memory_of_a_scan_is_few_bytes_a_pixel(tmp_path):
    """At most 12 for each of 7 million pixels: 3 of the image and 1 of labels, held to the end,
    and 4 of the view. As float32, the image alone has 12 more."""
    keep(tmp_path / "tiny.pt", replace(TINY, outputs=TINY.outputs[:1]))
    for name, height in (("small.tif", 500), ("large.tif", 4000)):
        Image.effect_noise((2000, height), 50).convert("RGB").save(tmp_path / name)
    words = ("--weights", "tiny.pt", "--device", "cpu", "--tile", "256", "--overlap", "16")
    ran = subprocess.run(
        [sys.executable, "-c", PEAKS, *words, "--input", ""], capture_output=True, text=True,
        cwd=tmp_path, timeout=300, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    (first, small), (second, large) = (map(int, line.split()) for line in ran.stdout.splitlines())
    assert first == second == 0, ran.stderr
    assert (large - small) * 1024 <= 12 * 7_000_000
