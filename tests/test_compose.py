"""Composites: the figure stands on the floor at its size, mask and depth are exact, the split leaks
nothing, and neither processes nor interruptions change a byte."""

import io
import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import encode
from PIL import Image

from datasets import load_task
from datasets.check import __main__ as check
from datasets.check.checking import list_samples
from datasets.compose import __main__ as compose
from datasets.compose import composite
from datasets.compose.composing import (
    PARTS,
    ComposePlan,
    ComposeRecipe,
    make_composite,
    relative_depth,
)
from datasets.compose.composing import encode as encode_composite
from datasets.compose.composite import View, trim
from datasets.compose.floor import Floor, Pinhole, find_floor
from datasets.compose.ingredients import BLOCKS, GUARD, Kit, Survey, divide, open_kit, survey
from datasets.index import find_samples
from datasets.pack import __main__ as pack
from datasets.stores import open_stores
from datasets.stores.write import write_zip
from losses.weighted import OutputLoss

ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared" / "data"
SIZE = 96, 128  # of a room
CAMERA = Pinhole(compose.NYU_FOCAL * SIZE[1], SIZE[1] / 2, SIZE[0] / 2)


def plane(pitch: float, height_m: float = 1.5, roll: float = 0.0) -> Floor:
    down = np.sin(roll), np.cos(roll) * np.cos(pitch), np.cos(roll) * np.sin(pitch)
    return Floor(tuple(map(float, down)), height_m)


def room_depth(floor: Floor, wall_m: float = 4.0) -> np.ndarray:
    """Depth in mm, uint16: a floor up to a wall that faces the camera."""
    depth_m = floor.depth(CAMERA, *SIZE)
    return np.where((depth_m > 0) & (depth_m < wall_m), depth_m * 1000, wall_m * 1000).astype(
        np.uint16
    )


def figure(width: int = 24, height: int = 60, shade: int = 200) -> Image.Image:
    """An upright cut-out, a body with soft sides and a head, on a transparent ground."""
    pixels = np.zeros((height + 6, width + 8, 4), np.uint8)
    pixels[..., :3] = shade, 40, 255 - shade
    pixels[3 : height + 3, 4 : width + 4, 3] = 255
    pixels[3 : height + 3, [4, width + 3], 3] = 140
    pixels[3 : height // 4, 4 : width // 3 + 4, 3] = 60
    pixels[3 : height // 4, width - width // 3 + 4 : width + 4, 3] = 0
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def sources(tmp_path) -> Path:
    """rooms/{rgb,depth_mm}: 12 rooms, cutouts/: 6 figures."""
    rng = np.random.default_rng(3)
    for folder in ("rooms/rgb", "rooms/depth_mm", "cutouts"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(12):
        depth_mm = room_depth(plane(0.15 + 0.02 * i, 1.4 + 0.02 * i))
        image = rng.integers(60, 200, (*SIZE, 3), np.uint8)
        (tmp_path / f"rooms/rgb/{i:03d}.jpg").write_bytes(encode(image, "a.jpg"))
        (tmp_path / f"rooms/depth_mm/{i:03d}.png").write_bytes(encode(depth_mm, "a.png"))
    for i in range(6):
        (tmp_path / f"cutouts/f{i}.png").write_bytes(png(figure(14 + 6 * i, shade=60 + 20 * i)))
    return tmp_path


@pytest.fixture
def run_compose(run, sources):
    """run_compose("--num", ...): into `out` unless a later word says otherwise."""
    words = ["--backgrounds", sources / "rooms", "--cutouts", sources / "cutouts"]
    words += ["--out", sources / "out", "--size", 64, 80, "--workers", 1]
    return lambda *more: run(compose, *words, *more)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.zip")}


def members(folder: Path, start: str) -> dict[str, bytes]:
    found = {n: s.read(n) for s in open_stores([folder]) for n in s.names()}
    return {name: data for name, data in found.items() if name.startswith(start)}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(("pitch", "roll"), [(0.0, 0.0), (0.3, 0.0), (0.45, 0.05), (0.1, -0.07)])
def test_a_floor_is_found_where_it_is(pitch, roll):
    floor = plane(pitch, 1.5, roll)
    found = find_floor(room_depth(floor, 8.0) / 1000, CAMERA)
    assert found.height_m == pytest.approx(1.5, abs=0.02)
    assert found.down == pytest.approx(floor.down, abs=0.01)
    on_floor = floor.depth(CAMERA, *SIZE)
    inner = (on_floor > 0) & (on_floor < 7.5)
    assert found.mask(room_depth(floor, 8.0) / 1000, CAMERA)[inner].all()


@pytest.mark.parametrize(
    "depth_m",
    [
        np.full(SIZE, 3.0),  # a wall
        np.zeros(SIZE),  # nothing known
        room_depth(plane(0.3, 0.9)) / 1000,  # a table
        room_depth(plane(0.3))[::-1] / 1000,  # a ceiling
    ],
)
def test_no_floor_is_made_up(depth_m):
    assert find_floor(depth_m, CAMERA) is None


def compose_whole(monkeypatch, room: View, seed: int, height_m: float = 1.5, width: int = 24):
    """A composite of the whole room at its own size."""
    monkeypatch.setattr(composite, "_crop", lambda rng, room, size: room)
    rng = np.random.default_rng(seed)
    return composite.compose(rng, room, trim(figure(width)), height_m, SIZE)


def test_the_floor_is_what_is_lowest():
    depth_mm = room_depth(plane(0.3, 1.8))
    depth_mm[:, :90] = np.minimum(depth_mm, room_depth(plane(0.3, 1.25)))[:, :90]  # a table
    assert find_floor(depth_mm / 1000, CAMERA).height_m == pytest.approx(1.8, abs=0.05)


@pytest.mark.parametrize("pitch", [0.1, 0.35])
@pytest.mark.parametrize("seed", range(4))
def test_a_figure_stands_at_its_size_and_depth(monkeypatch, seed, pitch):
    floor = plane(pitch)
    depth_mm = room_depth(floor)
    image = np.full((*SIZE, 3), 120, np.uint8)
    made = compose_whole(monkeypatch, View(image, depth_mm, CAMERA, floor), seed, 1.2)
    row, column = made.contact
    contact = depth_mm[row, column]
    assert np.array_equal(made.mask == 255, made.alpha >= 128)
    assert set(np.unique(made.mask)) == {0, 255}
    assert made.mask[row, column] == 255
    assert not made.mask[row + 1 :].any()
    assert (made.depth_mm[made.mask == 255] == contact).all()
    assert np.array_equal(made.depth_mm[made.mask == 0], depth_mm[made.mask == 0])
    foot = contact / 1000 * np.array([0, (row + 1 - CAMERA.center_y) / CAMERA.focal, 1])
    head = foot - 1.2 * np.array(floor.down)
    top = CAMERA.center_y + CAMERA.focal * head[1] / head[2]
    assert max(np.flatnonzero(made.mask.any(axis=1))[0], 1) == pytest.approx(max(top, 1), abs=1.5)


def test_edges_are_blended_and_the_rest_is_the_room(monkeypatch):
    floor = plane(0.1)
    image = np.random.default_rng(0).integers(90, 160, (*SIZE, 3), np.uint8)
    made = compose_whole(monkeypatch, View(image, room_depth(floor), CAMERA, floor), 1)
    wall = (floor.depth(CAMERA, *SIZE) > 4.2) | (floor.depth(CAMERA, *SIZE) <= 0)
    assert np.array_equal(made.image[wall & (made.alpha == 0)], image[wall & (made.alpha == 0)])
    soft = (made.alpha > 30) & (made.alpha < 225)
    assert soft.any()
    full = made.image[(made.alpha == 255)].astype(float).mean(axis=0)
    share = made.alpha[soft & wall].astype(float)[:, None] / 255
    expected = image[soft & wall] * (1 - share) + full * share
    assert np.abs(made.image[soft & wall] - expected).max() <= 3
    foot = made.alpha == 0
    foot[: made.contact[0] - 2] = False
    assert made.image[foot].mean() < image[foot].mean() - 1  # a shadow


def test_what_is_nearer_hides_the_figure(monkeypatch):
    floor = plane(0.1)
    depth_mm = room_depth(floor)
    depth_mm[:, 58:66] = np.minimum(depth_mm[:, 58:66], 1000)  # a pillar
    image = np.full((*SIZE, 3), 120, np.uint8)
    num_cut = 0
    for seed in range(20):
        made = compose_whole(monkeypatch, View(image, depth_mm, CAMERA, floor), seed, 1.2, 60)
        if made is None:
            continue
        assert depth_mm[made.contact] > 1200
        assert not made.mask[:, 59:65].any()
        assert np.array_equal(made.depth_mm[:, 59:65], depth_mm[:, 59:65])
        sides = made.mask[:, :58].any(axis=1) & made.mask[:, 66:].any(axis=1)
        num_cut += sides.any()
        whole = made.alpha[:, 59:65][sides]
        assert (whole < 128).all()
    assert num_cut  # some stand behind it


def test_files_are_exact_and_read_by_both_tasks(run_compose, sources):
    ran = run_compose("--num", 10, "--val-share", 0.3)
    assert ran.status == 0, ran.err
    out = sources / "out"
    assert {p.name for p in out.iterdir()} == {
        *("train_0000.zip", "val_0000.zip", "task.json", "compose.json")
    }
    stores = open_stores([out])
    course = load_task("maskdepth")
    sizes = [len(find_samples(stores, course, part, ("part", "val"))) for part in PARTS]
    assert sizes == [7, 3]
    relative = list_samples(stores, course, ("part", "val"))
    metric = list_samples(stores, load_task(str(out / "task.json")))
    assert np.bincount(metric.splits).tolist() == [7, 3]
    for i in range(10):
        course_sample, sample = relative.load(i), metric.load(i)
        assert course_sample.key == sample.key
        mask, depth_m = sample.targets["mask"].numpy(), sample.targets["depth_m"].numpy()
        assert 0 < mask.mean() < 0.8
        (contact,) = np.unique(depth_m[mask == 1])  # the figure is at one depth, to the millimetre
        span = (depth_m - depth_m.min()) / (depth_m.max() - depth_m.min())
        assert np.abs(course_sample.targets["depth"].numpy() - span).max() < 0.12
        assert np.abs(course_sample.targets["depth"].numpy() - span).mean() < 0.01


def test_their_loss_knows_the_scale_of_depth(run_compose, sources):
    """All of it 1.3 times too far costs about as much as errors as large that are too near on one
    side and too far on the other; `silog+grad`, with which depth was learnt to no scale, says a
    seventh."""
    assert run_compose("--num", 2).status == 0
    depth = load_task(str(sources / "out" / "task.json")).outputs[1]
    target = torch.full((2, 64, 80), 2.5)
    far = np.log(1.3)
    slope = target * (far * torch.linspace(-(3**0.5), 3**0.5, 80)).exp()
    loss = OutputLoss(depth)
    scale, shape = (float(loss(p[:, None], target)[0]) for p in (1.3 * target, slope))
    assert scale > 0.6 * shape > 0
    assert float(loss(target[:, None], target)[0]) < 1e-6


@pytest.mark.parametrize("size", [(64, 80), (33, 57)])
def test_a_mask_survives_its_jpeg(size):
    rng = np.random.default_rng(5)
    mask = np.where(rng.random(size) < 0.5, 255, 0).astype(np.uint8)  # the worst case
    made = composite.Composite(np.zeros((*size, 3), np.uint8), mask, mask, None, (0, 0))

    name, data = encode_composite(made, "val", 6)[1]
    assert name == "bg_fg_mask_val/img_000007.jpg"
    assert np.array_equal(pixels(data) >= 128, mask == 255)


def test_neither_processes_nor_calls_change_a_byte(run_compose, sources):
    seeds = {"one": (1, 7), "two": (2, 7), "other": (1, 8)}
    for name, (workers, seed) in seeds.items():
        words = ("--workers", workers, "--seed", seed, "--shard-size", 8)
        assert run_compose("--num", 20, *words, "--out", sources / name).status == 0
    assert sorted(contents(sources / "one")) == [
        *("train_0000.zip", "train_0001.zip", "train_0002.zip", "val_0000.zip")
    ]
    assert contents(sources / "one") == contents(sources / "two")
    one, other = (members(sources / name, "bg_fg_train") for name in ("one", "other"))
    assert not set(one.values()) & set(other.values())
    assert len(set(one.values())) == len(one) == 18


def test_an_interrupted_call_is_continued(run_compose, sources):
    out, words = sources / "out", ("--num", 20, "--shard-size", 5)
    assert run_compose(*words).status == 0
    before = contents(out)
    (out / "train_0001.zip").unlink()
    (out / "train_0002.zip").write_bytes(before["train_0002.zip"][:5000])
    (out / ".val_0000.zip.17.part").write_bytes(b"half")
    kept = (out / "train_0000.zip").stat().st_mtime_ns
    ran = run_compose(*words)
    assert ran.status == 0
    assert "5 shards (3 found finished)" in ran.out
    assert contents(out) == before
    assert (out / "train_0000.zip").stat().st_mtime_ns == kept
    assert not list(out.glob(".*"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_call_may_be_killed(run_compose, sources, number):
    words = ["--num", "60", "--shard-size", "10", "--workers", "2"]
    words += ["--size", "64", "80", "--cutouts", sources / "cutouts"]
    words += ["--backgrounds", sources / "rooms", "--out", sources / "out"]
    command = [sys.executable, "-m", "datasets.compose", *map(str, words)]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # in the background it is ignored
    called = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while not (sources / "out" / "train_0000.zip").exists():
        assert called.poll() is None
        time.sleep(0.005)
    children = Path(f"/proc/{called.pid}/task/{called.pid}/children").read_text().split()
    called.send_signal(number)
    err = called.communicate(timeout=30)[1]
    if number == signal.SIGINT:
        assert called.returncode == 130
        assert err.splitlines()[-1] == "stopped; the same command continues"
        assert "Traceback" not in err
    for _ in range(500):
        if not any(_is_running(child) for child in children):
            break
        time.sleep(0.02)
    assert not any(_is_running(child) for child in children)
    assert len(contents(sources / "out")) < 6
    assert run_compose(*words[:4]).status == 0
    assert run_compose(*words[:4], "--out", sources / "whole").status == 0
    assert contents(sources / "out") == contents(sources / "whole")


def _is_running(process: str) -> bool:
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--seed", 1), "--seed"),
        (("--size", 32, 32), "--size"),
        (("--val-share", 0.2, "--focal", 1), "--focal, --val-share"),
    ],
)
def test_other_flags_do_not_continue(run_compose, sources, words, what):
    assert run_compose("--num", 4).status == 0
    before = contents(sources / "out")
    ran = run_compose("--num", 4, *words)
    assert ran.status == 2
    shard = sources / "out" / "train_0000.zip"
    assert ran.err == f"error: {shard}: begun with other {what}; choose another --out\n"
    assert contents(sources / "out") == before


def test_other_sources_do_not_continue(run_compose, sources):
    assert run_compose("--num", 4).status == 0
    (sources / "cutouts" / "f9.png").write_bytes(png(figure(30)))
    assert "begun with other --cutouts" in run_compose("--num", 4).err
    (sources / "cutouts" / "f9.png").unlink()
    depth = sources / "rooms" / "depth_mm" / "000.png"
    other = np.asarray(Image.open(depth)) + 1
    depth.write_bytes(encode(other, "a.png"))
    assert "begun with other --backgrounds" in run_compose("--num", 4).err


def test_the_sides_share_no_room_and_no_figure(monkeypatch, sources):
    (sources / "cutouts" / "copy.png").write_bytes((sources / "cutouts" / "f0.png").read_bytes())
    kit = open_kit(sources / "rooms", None, sources / "cutouts", compose.NYU_FOCAL)
    seen = survey(kit, 1)
    names = [cutout.name for cutout in kit.cutouts]
    assert seen.cutouts[names.index("copy.png")] == seen.cutouts[names.index("f0.png")]
    assert len(set(seen.cutouts)) == 6
    plan = ComposePlan(kit, seen, divide(kit, seen, 0.3), ComposeRecipe(40, (48, 48), 0, 40, 0.3))
    used = {part: (set(), set()) for part in PARTS}
    view, cutout = Kit.view, Kit.figure
    for part in PARTS:
        rooms, figures = used[part]
        monkeypatch.setattr(Kit, "view", lambda kit, i, f, r=rooms: r.add(i) or view(kit, i, f))
        monkeypatch.setattr(Kit, "figure", lambda kit, i, s=figures: s.add(i) or cutout(kit, i))
        for number in range(40):
            make_composite(plan, part, number)
    for train, val in zip(*used.values(), strict=True):
        assert train
        assert val
        assert not train & val
    figures = {part: {kit.cutouts[i].read() for i in used[part][1]} for part in PARTS}
    assert not figures["train"] & figures["val"]  # not the copy either


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("num", [2, 19, 1160])
def test_rooms_are_divided_in_guarded_blocks(num, share):
    floors = [plane(0.2)] * num
    kit = Kit(None, True, None, 1.0, {})
    sides = divide(kit, Survey(floors, 4.0, [], [bytes([i]) * 8 for i in range(80)]), share)
    train, val = (set(sides[part].rooms.tolist()) for part in PARTS)
    assert train
    assert val
    assert not train & val
    assert len(val) / num == pytest.approx(share, abs=0.03 if num > 100 else 0.5)
    if num > 100:
        runs = np.flatnonzero(np.diff(sorted(val)) > 1)
        assert len(runs) + 1 <= round(BLOCKS * share)
        assert min(abs(a - b) for a in train for b in val) == GUARD + 1
        assert len(train) + len(val) >= num - 2 * GUARD * BLOCKS * share
    assert len(sides["val"].cutouts) == max(1, round(80 * share))


def test_without_depth_there_are_masks_only(run_compose, sources):
    words = ("--backgrounds", sources / "rooms" / "rgb", "--num", 8)
    ran = run_compose(*words)
    assert ran.status == 0, ran.err
    assert {n.split("/")[0] for n in members(sources / "out", "")} == {
        *("bg_fg_train", "bg_fg_mask_train", "bg_fg_val", "bg_fg_mask_val")
    }
    task = load_task(str(sources / "out" / "task.json"))
    assert [output.name for output in task.outputs] == ["mask"]
    sample = list_samples(open_stores([sources / "out"]), task).load(0)
    assert 0 < sample.targets["mask"].numpy().mean() < 0.8


def test_without_validation_all_is_training(run_compose, run, sources):
    assert run_compose("--num", 3, "--val-share", 0).status == 0
    assert list(contents(sources / "out")) == ["train_0000.zip"]
    task = load_task(str(sources / "out" / "task.json"))
    # The task divides them by hash instead.
    assert len(find_samples(open_stores([sources / "out"]), task, "train")) == 2


def test_shards_and_a_depth_of_their_own_are_sources_too(run_compose, run, sources):
    for name in ("rgb", "depth_mm"):
        assert run(pack, sources / "rooms" / name, sources / f"{name}.zip").status == 0
    words = ("--backgrounds", sources / "rgb.zip", "--depth", sources / "depth_mm.zip")
    assert run_compose(*words, "--num", 6, "--out", sources / "b").status == 0
    assert run_compose("--num", 6, "--out", sources / "a").status == 0
    assert contents(sources / "a") == contents(sources / "b")


def test_heights_are_obeyed(run_compose, sources):
    areas = {}
    for name, high in (("small", 0.5), ("tall", 1.6)):
        (sources / "heights.csv").write_text(f"f0.png,{high},{high}\n*,{high},{high}\n")
        words = ("--heights", sources / "heights.csv", "--out", sources / name)
        assert run_compose("--num", 12, *words).status == 0
        masks = members(sources / name, "bg_fg_mask").values()
        rows = [(pixels(mask) >= 128).any(axis=1).sum() for mask in masks]
        areas[name] = float(np.mean(rows))
    assert areas["tall"] > 1.5 * areas["small"]


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


BAD = {
    "a depth is missing": (
        lambda s: (s / "rooms/depth_mm/004.png").unlink(),
        "rgb: 004.jpg: no depth in",
    ),
    "a depth of another size": (
        lambda s: _put(s / "rooms/depth_mm/004.png", encode(np.ones((9, 9), np.uint16), "a.png")),
        "depth_mm: 004.png: is 9x9, its background 128x96",
    ),
    "a depth of 8 bits": (
        lambda s: _put(s / "rooms/depth_mm/004.png", encode(np.ones(SIZE, np.uint8), "a.png")),
        "depth_mm: 004.png: mode L, expected 16-bit",
    ),
    "a room cut short": (
        lambda s: _put(s / "rooms/rgb/004.jpg", (s / "rooms/rgb/004.jpg").read_bytes()[:500]),
        "rgb: 004.jpg: cannot be decoded",
    ),
    "a room that is no image": (
        lambda s: _put(s / "rooms/rgb/004.jpg", b"nothing"),
        "rgb: 004.jpg: not an image",
    ),
    "a figure without alpha": (
        lambda s: _put(s / "cutouts/f3.png", png(figure().convert("RGB"))),
        "cutouts: f3.png: expected a cut-out",
    ),
    "an opaque figure": (
        lambda s: _put(s / "cutouts/f3.png", png(figure().crop((6, 30, 20, 50)))),
        "cutouts: f3.png: expected a cut-out",
    ),
    "an invisible figure": (
        lambda s: _put(s / "cutouts/f3.png", png(Image.new("RGBA", (9, 9)))),
        "cutouts: f3.png: expected a cut-out",
    ),
    "no floor anywhere": (
        lambda s: [
            _put(path, encode(np.full(SIZE, 3000, np.uint16), "a.png"))
            for path in (s / "rooms/depth_mm").iterdir()
        ],
        "no background for train in which a floor was found",
    ),
    "one figure": (
        lambda s: [path.unlink() for path in (s / "cutouts").iterdir() if "f0" not in path.name],
        "expected two cut-outs to split",
    ),
    "foreign shards": (
        lambda s: (s / "out").mkdir() or _put(s / "out/mine.zip", b""),
        "mine.zip: already there; choose another --out",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("workers", [1, 2])
def test_bad_sources_are_named(run_compose, sources, case, workers):
    spoil, what = BAD[case]
    spoil(sources)
    ran = run_compose("--num", 6, "--workers", workers)
    assert ran.status == 2
    lines = [line for line in ran.err.replace("\r", "\n").splitlines() if "error" in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert what in lines[0]
    assert "train_0000.zip" not in contents(sources / "out")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--num", 0), "--num"),
        (("--num", "x"), "--num: 'x', expected a whole number from 1"),
        (("--num", 1), "--num 1: expected at least two"),
        (("--num", 4, "--size", 1, 1), "--size 1: expected at least 16"),
        (("--num", 4, "--val-share", 1), "expected a number from 0 to less than 1"),
        (("--num", 4, "--focal", 0), "--focal 0: expected a number above 0"),
        (("--num", 4, "--backgrounds", "nowhere"), "nowhere: no such file or folder"),
        (("--num", 4, "--heights", "nowhere.csv"), "nowhere.csv: cannot be read"),
    ],
)
def test_bad_words_are_named(run_compose, words, what):
    ran = run_compose(*words)
    assert ran.status == 2
    assert what in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("line", ["f0.png,1", "f0.png,2,1", "f0.png,a,b", "f0.png,0,nan"])
def test_bad_heights_are_named(run_compose, sources, line):
    (sources / "h.csv").write_text(f"*,1,2\n{line}\n")
    ran = run_compose("--num", 4, "--heights", sources / "h.csv")
    assert ran.err.endswith("h.csv: line 2: expected NAME,LOWEST,HIGHEST in metres\n")


@pytest.mark.skipif(not (SHARED / "nyuv2").is_dir(), reason="real rooms and figures not here")
def test_real_rooms_and_figures(run, tmp_path):
    for folder in ("rgb", "depth_mm"):
        files = sorted((SHARED / "nyuv2" / folder).iterdir())[::40]
        write_zip(tmp_path / f"{folder}.zip", [(file.name, file.read_bytes()) for file in files])
    words = ["--backgrounds", tmp_path / "rgb.zip", "--depth", tmp_path / "depth_mm.zip"]
    words += ["--cutouts", SHARED / "cutouts", "--out", tmp_path / "out", "--workers", 1]
    ran = run(compose, *words, "--num", 16)
    assert ran.status == 0, ran.err
    ran = run(check, tmp_path / "out", "--task", tmp_path / "out" / "task.json", "--workers", 1)
    assert ran.status == 0
    assert "members that cannot be used: 0" in ran.out
    assert json.loads((tmp_path / "out" / "task.json").read_text())["outputs"][1]["unit"] == "m"


def test_relative_depth_is_dark_near_bright_far_and_spans_the_range():
    depth_m = np.array([[1.0, 2.0, 3.0], [5.0, 1.5, 2.0]], np.float32)
    np.testing.assert_array_equal(relative_depth(depth_m), [[0, 64, 128], [255, 32, 64]])
    assert relative_depth(depth_m).dtype == np.uint8
    assert not relative_depth(np.full((3, 5), 2.5, np.float32)).any()
