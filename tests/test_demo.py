"""Demos: any task's own layout and classes, labels that are true of what is drawn, equal bytes."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from examples import encode

from datasets import TASKS, demo, load_task
from datasets.damage import CLASSES
from datasets.dataset import open_task
from datasets.decode import decode_target
from datasets.demo.damage import PAINTERS
from datasets.demo.flat import GROUND, draw_surface, lay_out
from datasets.demo.room import draw_room
from datasets.demo.scene import Scene, draw_depth, file_of, plain
from datasets.demo.street import draw_street
from datasets.demo.view import View
from datasets.photo import decode_image
from datasets.task import IGNORE, Classes, Depth, Mask, Task

FILES = sorted(Path(__file__).parents[1].glob("datasets/*.json"))
COLOURED = Task(
    name="leaves",
    image="{split}/photo/{plot}-{key}.jpg",
    outputs=(
        Classes(
            name="plant",
            files="{split}/label/{plot}-{key}_*.png",
            classes=("soil", "leaf", "pot"),
            colors=("102030", "30FF20", "FF0040"),
            ignored=(),
            ignored_colors=("FFFFFF",),
        ),
        Depth(
            name="height", files="{split}/z/{plot}-{key}.tif", scale=0.001, max_depth=2, unit="m"
        ),
        Mask(name="rust", files="{split}/rust/{plot}-{key}.bmp"),
    ),
    best="plant/miou",
    defaults={"size": [40, 56]},
)
SHARED = Task(  # files that several outputs share, the image's among them
    name="shared",
    image="photo/{key}.png",
    outputs=(
        Classes(
            name="part",
            files="all/{key}.png",
            classes=("wall", "floor", "chair"),
            colors=("102030", "30FF20", "FF0040"),
            ignored=(),
            ignored_colors=("FFFFFF",),
            channel="R",
        ),
        Mask("person", "all/{key}.png", channel="G"),
        Depth("far", "all/{key}.png", max_depth=9, scale=0.04, unit="m", missing=0, channel="B"),
        Mask("figure", "photo/{key}.png", channel="A"),
        Mask(
            "foreground", "red/{key}.png", colors=("000000", "FF0000"), ignored_colors=("010101",)
        ),
    ),
    best="part/miou",
    val_share=0.3,
    defaults={"size": [40, 56]},
)
EVERY = [*TASKS.values(), *(load_task(str(path)) for path in FILES), TINY, COLOURED, SHARED]


def small(task: Task, size: tuple[int, int] = (96, 128)) -> Task:
    """The task with small pictures, which are drawn fast."""
    return replace(task, defaults=task.defaults | {"size": list(size)})


@pytest.mark.parametrize("task", EVERY, ids=lambda task: task.name)
def test_a_demo_is_read_as_data_is(task, tmp_path):
    """Every sample decodes, so that every value is known; every output has something to learn."""
    task = small(task, (64, 80))
    data = open_task(task, demo.demo_shards(task, tmp_path, 12), (32, 40))
    assert len(data.train) + len(data.val) == 12
    for side in (data.train, data.val):
        assert len(side) > 0
    samples = [data.train[0, i] for i in range(len(data.train))]
    for output in task.outputs:
        seen = np.concatenate([sample.targets[output.name].numpy().ravel() for sample in samples])
        known = seen[seen != output.fill]
        assert len(known) > 0.5 * len(seen)
        assert len(np.unique(known)) > 1


@pytest.mark.parametrize("task", EVERY, ids=lambda task: task.name)
def test_every_class_occurs(task):
    task = small(task)
    scenes = [demo.draw_scene(task, seed) for seed in range(60)]
    for output in task.outputs:
        if isinstance(output, Classes):
            seen = {scene.names[i] for scene in scenes for i in np.unique(scene.ids) if i != IGNORE}
            assert {plain(name) for name in output.labels[1:]} <= seen | set(GROUND)


@pytest.mark.parametrize("name", ["damage", "cityscapes", "maskdepth"])
def test_the_same_seed_gives_the_same_bytes(name):
    task = small(TASKS[name])
    assert demo.draw_members(task, 3) == demo.draw_members(task, 3)
    first, other = (next(iter(demo.draw_members(task, i)[0].values())) for i in (3, 4))
    assert first != other


def test_a_demo_is_drawn_once_and_again_after_a_change(tmp_path, monkeypatch):
    task = small(TASKS["maskdepth"])
    (path,) = demo.demo_shards(task, tmp_path, 3)
    assert path == tmp_path / "maskdepth" / "output_1.zip"
    first, data = path.stat().st_mtime_ns, path.read_bytes()
    assert demo.demo_shards(replace(task, about="other words"), tmp_path, 3) == [path]
    assert path.stat().st_mtime_ns == first
    (path.parent / demo.NOTE).write_text("drawn by other code")
    demo.demo_shards(task, tmp_path, 3)
    assert path.stat().st_mtime_ns != first
    assert path.read_bytes() == data
    demo.demo_shards(small(task, (48, 48)), tmp_path, 3)
    assert path.read_bytes() != data


def test_an_interrupted_drawing_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    task = small(TASKS["cityscapes"])
    with monkeypatch.context() as patch:
        patch.setattr(demo, "write_zip", stopped)
        with pytest.raises(KeyboardInterrupt):
            demo.demo_shards(task, tmp_path, 2)
    assert not list(tmp_path.rglob("*.zip"))
    paths = demo.demo_shards(task, tmp_path, 7)
    paths[1].unlink()
    assert demo.demo_shards(task, tmp_path, 7) == paths
    assert all(path.is_file() for path in paths)


def test_both_cityscapes_tasks_read_the_same_files(tmp_path):
    paths = demo.demo_shards(small(TASKS["cityscapes24"]), tmp_path, 7)
    assert [path.name for path in paths] == ["leftImg8bit_demo.zip", "gtFine_demo.zip"]
    made = [path.stat().st_mtime_ns for path in paths]
    assert demo.demo_shards(TASKS["cityscapes"], tmp_path, 7) == paths
    assert made == [path.stat().st_mtime_ns for path in paths]


@pytest.mark.parametrize(
    ("task", "painter"),
    [
        (TASKS["damage"], "draw_photograph"),
        (TASKS["cityscapes"], "draw_street"),
        (TASKS["maskdepth"], "draw_room"),
        (load_task(str(FILES[0])), "draw_street"),  # CamVid
        (load_task(str(FILES[1])), "draw_surface"),  # DeepCrack
        (load_task(str(FILES[3])), "draw_room"),  # NYUv2
        (TINY, "draw_surface"),
    ],
)
def test_a_scene_is_chosen_by_what_a_task_names(task, painter):
    assert demo.choose_painter(task).__name__ == painter


def test_metadata_and_layout_of_artefact():
    members, row = demo.draw_members(small(TASKS["damage"]), 5)
    assert list(members) == ["image/demo0005.png", "annotation/demo0005.png"]
    assert list(row) == ["id", "material", "content"]


def test_coloured_labels_and_fields_of_any_name():
    members, _ = demo.draw_members(COLOURED, 0)
    names = [re.sub(r"\d", "0", name) for name in members]
    assert names[0] == "val/photo/00-demo0000.jpg"
    assert names[1] == "val/label/00-demo0000_00.png"
    target = decode_target(members[list(members)[1]], names[1], COLOURED.outputs[0])
    assert set(np.unique(target)) <= {0, 1, 2}


def test_outputs_that_share_a_file_have_a_channel_each():
    members, _ = demo.draw_members(SHARED, 1)
    assert list(members) == [f"{name}/demo0001.png" for name in ("photo", "all", "red")]
    scene, (photo, labels, red) = demo.draw_scene(SHARED, 1), members.values()
    assert np.array_equal(decode_target(red, "", SHARED.outputs[4]), scene.front)
    assert np.array_equal(decode_image(photo, "").permute(1, 2, 0), scene.image)
    for output, data in zip(SHARED.outputs[:4], (labels, labels, labels, photo), strict=True):
        alone = file_of(output).pixels(scene, output, True)
        found = decode_target(data, "", output)
        assert np.array_equal(
            found, decode_target(encode(alone, "a.png"), "", replace(output, channel=""))
        )


def test_every_damage_has_a_painter():
    assert {plain(name) for name in CLASSES} == {"clean", *PAINTERS}


@pytest.mark.parametrize("name", PAINTERS)
def test_what_is_labelled_looks_changed_and_nothing_else_does(name):
    changed, spoilt = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        canvas = lay_out(rng, (128, 160))
        before = canvas.image.copy()
        mask = PAINTERS[name](rng, canvas) > 0.5
        change = np.abs(canvas.image - before).max(2) > 0.05
        changed.append(change[mask])
        wide = np.pad(mask, 3, mode="edge")
        near = np.lib.stride_tricks.sliding_window_view(wide, (7, 7)).any((2, 3))
        spoilt.append(change[~near])
    assert np.concatenate(changed).mean() > 0.75
    assert np.concatenate(spoilt).mean() < 0.05


@pytest.mark.parametrize("draw", [draw_room, draw_street])
def test_depth_of_the_floor_is_height_over_slope(draw):
    """What touches the floor is y = 0 in the world: one plane through all of its pixels."""
    for seed in range(4):
        scene = draw(np.random.default_rng(seed), (97, 131), ())
        name = "floor" if draw is draw_room else "road"
        floor = scene.ids == scene.names.index(name)
        rows, columns = (np.indices(floor.shape)[:, floor].T + 0.5 - (48.5, 65.5)).T
        places = np.stack([columns, rows, np.ones(len(rows))], 1)
        inverse = np.linalg.lstsq(places, 1 / scene.depth_m[floor], rcond=None)[0]  # is affine
        assert np.abs(places @ inverse * scene.depth_m[floor] - 1).max() < 1e-3
        normals = scene.normals[floor]
        assert np.ptp(normals, axis=0).max() < 1e-5
        assert 1.2 < normals[0, 2] / inverse[2] < 1.9  # the height of the eye, in metres
        assert normals[0, 1] > 0.9  # below it


def eye(names: tuple[str, ...]) -> View:
    """A camera 1 m above the ground that looks straight ahead."""
    view = View(np.random.default_rng(0), (33, 33), names, 0.0)
    view.position[1] = 1
    return view


@pytest.mark.parametrize(("shape", "near"), [("box", 4.0), ("ball", 4.0), ("shell", 6.0)])
def test_a_solid_straight_ahead(shape, near):
    view = eye(("sky", "thing"))
    view.put("thing", shape, (0, 1, 5), (0.5, 0.5, 1), 0, (1, 1, 1))
    assert view.depth_m[16, 16] == pytest.approx(near, abs=1e-4)
    half = (view.ids[16] == 1).sum() / 2  # 0.5 m at the front of a box
    assert half == pytest.approx(
        view.focal * 0.5 / {"box": 4, "ball": 4.9, "shell": 4}[shape], abs=1.01
    )


def test_the_nearest_solid_shows_in_any_order():
    images = []
    for order in ((0, 1), (1, 0)):
        view = eye(("sky",))
        for i in order:
            view.put(f"thing {i}", "box", (0.1 * i, 1, 4 + i), (0.5,) * 3, 0, (i, 0.5, 1 - i))
        images.append(np.dstack([view.image, view.depth_m]))
    np.testing.assert_array_equal(images[0], images[1])


@pytest.mark.parametrize("seed", range(6))
def test_somebody_is_in_every_room(seed):
    scene = draw_room(np.random.default_rng(seed), (97, 131), ())
    assert 0.005 < scene.front.mean() < 0.6
    assert 0.3 < scene.depth_m.min() < scene.depth_m.max() < 12


def test_a_surface_is_smooth():
    scene = draw_surface(np.random.default_rng(1), (64, 96), ("crack", "leaf"))
    assert np.abs(np.diff(scene.depth_m, axis=1)).max() < 0.03
    assert scene.depth_m.min() > 0.3


def flat(depth_m: list[float]) -> Scene:
    depth = np.array([depth_m], np.float32)
    nothing = np.zeros(depth.shape, np.uint8)
    return Scene(nothing, nothing, ("",), nothing > 0, {}, depth)


@pytest.mark.parametrize(
    ("keys", "lossy", "expected"),
    [
        ({}, True, [0, 51, 255]),  # relative: each picture spans its own range
        ({}, False, [0, 13107, 65535]),
        ({"unit": "m", "scale": 0.001, "max_depth": 10, "missing": 0}, False, [1000, 2000, 6000]),
        ({"unit": "m", "scale": 0.001, "max_depth": 4, "missing": 0}, False, [1000, 2000, 0]),
        ({"unit": "m", "scale": 0.001, "max_depth": 4}, False, [1000, 2000, 4000]),
        ({"missing": 0}, True, [1, 51, 255]),
        ({"unit": "m", "scale": 0.1, "max_depth": 1}, True, [2, 3, 10]),  # shrunk as a whole
    ],
)
def test_depth_in_files(keys, lossy, expected):
    output = Depth(name="depth", files="{key}.png", **keys)
    assert draw_depth(flat([1.0, 2.0, 6.0]), output, lossy).tolist() == [expected]


def test_a_task_file_without_data_trains_on_its_demo(run_train, monkeypatch, tmp_path):
    few = partial(demo.demo_shards, num=8)
    monkeypatch.setattr("train.demo_shards", few)
    ran = run_train("--task", str(FILES[1]), "--steps", "1")
    assert ran.status == 0, ran.err
    assert (tmp_path / "data" / "demo" / "deepcrack" / "demo.zip").is_file()
