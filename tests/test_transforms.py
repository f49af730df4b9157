"""One draw moves the image and every target alike, and nothing else moves."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from datasets import TASKS, load_task, transforms
from datasets.decode import decode_target
from datasets.photo import decode_image
from datasets.task import IGNORE, NO_DEPTH, Classes, Depth, Mask, Sample, Task
from datasets.transforms import Box, Move, TrainTransform

DATASETS = Path(__file__).parents[1] / "datasets"
DATA = Path(__file__).parents[2] / "shared" / "data"
EVERY_TASK = [*TASKS.values(), *(load_task(str(path)) for path in sorted(DATASETS.glob("*.json")))]

ROW = Classes("row", "r/{key}.png", classes=tuple(map(str, range(200))))
SIDE = Mask("side", "s/{key}.png")
COLUMN = Depth("column", "c/{key}.png", max_depth=1000.0)


def coordinates_task(**settings) -> Task:
    return Task("where", "i/{key}.png", (ROW, SIDE, COLUMN), "row/miou", **settings)


def coordinates(height: int, width: int) -> Sample:
    """Red is the row, green the column, and so are the targets; the mask is the right half."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8)[None].expand(height, width)
    image = torch.stack([rows, columns, torch.full_like(rows, 255)])
    side = (columns >= width // 2).to(torch.uint8)
    return Sample(image, {"row": rows, "side": side, "column": columns.float()}, "key")


@pytest.fixture
def no_colour(monkeypatch):
    monkeypatch.setattr(transforms, "JITTER_SHARE", 0.0)
    monkeypatch.setattr(transforms, "BLUR_SHARE", 0.0)


def same(a: Sample, b: Sample) -> bool:
    targets_equal = (torch.equal(a.targets[name], b.targets[name]) for name in a.targets)
    return torch.equal(a.image, b.image) and all(targets_equal)


@pytest.mark.usefixtures("no_colour")
@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("size", [(64, 48), (33, 71)])
def test_image_and_targets_move_alike(resize, size):
    task = coordinates_task(resize=resize, rotate=30.0, zoom=(0.7, 1.5))
    transform, sample = TrainTransform(task, size), coordinates(121, 90)
    shifts = []
    for seed in range(60):
        moved = transform(sample, seed)
        row, side, column = (moved.targets[name] for name in ("row", "side", "column"))
        known = column >= 0
        assert torch.equal(known, row != IGNORE)
        assert torch.equal(known, side != IGNORE)
        assert torch.equal(side[known], (column[known] >= 45).to(torch.uint8))
        # Next to the filled area, even one just out of sight, the image blends with black.
        around = nnf.pad((~known).float()[None], (4, 4, 4, 4), value=1.0)
        inside = ~nnf.max_pool2d(around, 9, 1)[0].bool()
        apart_row = moved.image[0][inside].float() - row[inside]
        apart_column = moved.image[1][inside].float() - column[inside]
        step = max(121 / size[0], 90 / size[1]) / 0.7 if resize else 1 / 0.7  # source pixels
        assert max(apart_row.abs().max(), apart_column.abs().max()) <= 1.25 * step + 0.5
        shifts += [apart_row.mean(), apart_column.mean()]
    assert max(map(abs, shifts)) < 0.5
    assert abs(sum(shifts) / len(shifts)) < 0.1


@pytest.mark.usefixtures("no_colour")
def test_a_crop_at_native_scale_is_a_part_of_the_image():
    task = coordinates_task(flip=False)
    for seed in range(10):
        moved = TrainTransform(task, (32, 40))(coordinates(80, 90), seed)
        top, left = int(moved.targets["row"][0, 0]), int(moved.targets["column"][0, 0])
        part = coordinates(80, 90).image[:, top : top + 32, left : left + 40]
        assert torch.equal(moved.image, part)
        assert torch.equal(moved.targets["row"], part[0])
        assert torch.equal(moved.targets["column"], part[1].float())


@pytest.mark.usefixtures("no_colour")
@pytest.mark.parametrize("shape", [(5, 7), (5, 50), (40, 7), (1, 1)])
def test_around_small_images_everything_is_filled(shape):
    moved = TrainTransform(coordinates_task(), (16, 12))(coordinates(*shape), seed=3)
    real = min(shape[0], 16) * min(shape[1], 12)
    outside = moved.targets["column"] == NO_DEPTH
    assert int((~outside).sum()) == real
    assert torch.equal(outside, moved.targets["row"] == IGNORE)
    assert torch.equal(outside, moved.targets["side"] == IGNORE)
    assert torch.equal(outside, (moved.image == 0).all(0))


def test_small_images_land_anywhere_in_the_crop():
    transform = TrainTransform(coordinates_task(), (16, 12))
    moved = [transform(coordinates(5, 7), seed).targets["row"] for seed in range(60)]
    corners = {tuple((row != IGNORE).nonzero()[0].tolist()) for row in moved}
    assert {top for top, _ in corners} == set(range(12))
    assert {left for _, left in corners} == set(range(6))


def test_a_quarter_turn_is_exact():
    pixels = coordinates(9, 9).image
    move = Move(Box(0, 0, 9, 9), (0, 0), 90.0, False, 1.0)
    assert torch.equal(move.apply(pixels, (9, 9), True, 0), torch.rot90(pixels, 1, (1, 2)))
    assert torch.equal(move.apply(pixels, (9, 9), False, 255), torch.rot90(pixels, 1, (1, 2)))


@pytest.mark.parametrize("size", [(20, 20), (12, 40), (41, 13)])
def test_a_rotation_inside_the_image_fills_nothing(size):
    task = coordinates_task(rotate=180.0)
    ones = torch.ones(3, 300, 300, dtype=torch.uint8)
    inside = 0
    for seed in range(60):
        sample = Sample(ones, {"side": ones[0]}, "key")
        move = TrainTransform(task, size)._draw(sample, np.random.default_rng(seed))
        box = move.box
        if min(box.top, box.left) < 0 or max(box.top + box.height, box.left + box.width) > 300:
            continue
        inside += move.angle != 0
        assert bool((move.apply(ones, size, False, IGNORE) == 1).all())
    assert inside > 10


def test_labels_and_depths_are_copied_never_mixed():
    task = coordinates_task(rotate=45.0, zoom=(0.3, 3.0))
    image = torch.zeros(3, 50, 60, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 7, 150, IGNORE], dtype=torch.uint8)
    depths = torch.tensor([NO_DEPTH, 0.125, 0.5])
    for seed in range(30):
        row = labels[torch.randint(4, (50, 60), generator=generator)]
        column = depths[torch.randint(3, (50, 60), generator=generator)]
        moved = TrainTransform(task, (31, 33))(
            Sample(image, {"row": row, "column": column}, ""), seed
        )
        assert moved.targets["row"].dtype == torch.uint8
        assert set(moved.targets["row"].unique().tolist()) <= set(labels.tolist())
        assert set(moved.targets["column"].unique().tolist()) <= set(depths.tolist())


def test_metric_depth_is_divided_by_the_zoom():
    metres = Depth("metres", "d/{key}.png", unit="m", max_depth=3.0)
    relative = Depth("relative", "d/{key}.png")
    depth = torch.tensor([[2.0, NO_DEPTH]]).repeat(20, 10)
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    sample = Sample(image, {"metres": depth, "relative": depth.clone()}, "")

    def zoomed(zoom):
        task = Task("t", "i/{key}.png", (metres, relative), "metres/rmse", zoom=(zoom, zoom))
        return TrainTransform(task, (8, 8))(sample, 0).targets

    assert set(zoomed(2.0)["metres"].unique().tolist()) == {1.0, NO_DEPTH}
    assert set(zoomed(2.0)["relative"].unique().tolist()) == {2.0, NO_DEPTH}
    assert set(zoomed(0.5)["metres"].unique().tolist()) == {NO_DEPTH}  # 4 m, the head ends at 3 m


def test_a_zoom_enlarges():
    task = coordinates_task(zoom=(2.0, 2.0), flip=False)
    rows = TrainTransform(task, (40, 40))(coordinates(90, 90), 0).targets["row"][:, 0].int()
    assert int(rows[-1] - rows[0]) == 19


def test_the_seed_decides():
    task = coordinates_task(rotate=20.0, zoom=(0.8, 1.25))
    transform, sample = TrainTransform(task, (32, 32)), coordinates(80, 70)
    draws = [transform(sample, seed) for seed in (0, 1, 2, 1 << 32, 1 << 62)]
    assert same(draws[1], transform(sample, 1))
    for i, draw in enumerate(draws):
        assert not any(same(draw, other) for other in draws[:i])


def test_global_random_state_is_neither_read_nor_moved():
    transform, sample = TrainTransform(coordinates_task(rotate=20.0), (32, 32)), coordinates(80, 70)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = transform(sample, 5)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert same(first, transform(sample, 5))


def test_transforms_pickle():
    sample, transform = coordinates(40, 50), TrainTransform(coordinates_task(rotate=9.0), (16, 16))
    assert same(pickle.loads(pickle.dumps(transform))(sample, 7), transform(sample, 7))


def test_colour_changes_touch_the_image_alone(monkeypatch):
    transform, sample = TrainTransform(coordinates_task(rotate=20.0), (32, 32)), coordinates(80, 70)
    coloured = [transform(sample, seed) for seed in range(30)]
    monkeypatch.setattr(transforms, "JITTER_SHARE", 0.0)
    monkeypatch.setattr(transforms, "BLUR_SHARE", 0.0)
    plain = [transform(sample, seed) for seed in range(30)]
    changed = 0
    for a, b in zip(coloured, plain, strict=True):
        changed += not torch.equal(a.image, b.image)
        assert same(a._replace(image=b.image), b)
    assert 15 < changed < 30


def test_the_sample_is_not_changed():
    sample, untouched = coordinates(40, 30), coordinates(40, 30)
    for task in (coordinates_task(), coordinates_task(rotate=30.0, resize=True)):
        for seed in range(5):
            TrainTransform(task, (40, 30))(sample, seed)
        assert same(sample, untouched)


@pytest.mark.parametrize("flip", [False, True])
def test_flip_mirrors_half_of_the_samples_or_none(flip):
    transform = TrainTransform(coordinates_task(flip=flip), (20, 20))
    columns = [transform(coordinates(20, 20), seed).targets["column"][0] for seed in range(100)]
    flipped = sum(bool(column[0] > column[-1]) for column in columns)
    assert 30 < flipped < 70 if flip else flipped == 0


@pytest.mark.parametrize(("size", "views"), [((20, 20), 8), ((16, 20), 4)])
def test_what_is_seen_from_any_side_is_shown_in_each_way_as_often(size, views):
    """The eight symmetries of a square, four of another rectangle."""
    transform, sample = TrainTransform(coordinates_task(upright=False), size), coordinates(*size)
    seen = Counter()
    for seed in range(50 * views):
        row, column = (transform(sample, seed).targets[name] for name in ("row", "column"))
        seen[tuple(int(each[i, j]) for each in (row, column) for i, j in ((0, 0), (0, -1)))] += 1
    assert len(seen) == views
    assert all(25 < count < 80 for count in seen.values())


def test_crops_prefer_sparse_labels(monkeypatch):
    label = torch.zeros(200, 200, dtype=torch.uint8)
    label[90:94, 90:94] = 3
    sample = Sample(torch.zeros(3, 200, 200, dtype=torch.uint8), {"row": label}, "")
    transform = TrainTransform(coordinates_task(), (64, 64))

    def hits():
        return sum(bool((transform(sample, seed).targets["row"] == 3).any()) for seed in range(100))

    three = hits()
    monkeypatch.setattr(transforms, "CROP_TRIES", 1)
    assert three > 1.5 * hits()


def test_a_third_of_the_crops_hold_a_class_drawn_at_random(monkeypatch):
    label = torch.zeros(300, 300, dtype=torch.uint8)
    label[:, 150:], label[6:9, 288:291] = 1, 2  # so that nearly every crop holds two labels
    label[:, ::7] = IGNORE
    sample = Sample(torch.zeros(3, 300, 300, dtype=torch.uint8), {"row": label}, "")
    transform = TrainTransform(coordinates_task(), (64, 64))

    def hits():
        boxes = [transform._draw(sample, np.random.default_rng(s)).box for s in range(300)]
        return [bool((box.cut(label) == 2).any()) for box in boxes]

    share = sum(hits()) / 300  # one of three classes in a third of them, and few by chance
    monkeypatch.setattr(transforms, "RARE_SHARE", 0.0)
    by_chance = sum(hits()) / 300
    assert by_chance < 0.03
    assert abs(share - by_chance - 1 / 9) < 0.05
    monkeypatch.setattr(transforms, "RARE_SHARE", 1.0)
    monkeypatch.setattr(transforms, "RARE_PIXELS", 300 * 300 // 9)  # every third row and column
    assert 0.2 < sum(hits()) / 300 < 0.75


def test_crops_avoid_what_is_all_ignored():
    label = torch.full((200, 200), IGNORE, dtype=torch.uint8)
    label[:, :100] = 3
    sample = Sample(torch.zeros(3, 200, 200, dtype=torch.uint8), {"row": label}, "")
    transform = TrainTransform(coordinates_task(), (32, 32))
    moved = [transform(sample, seed).targets["row"] for seed in range(100)]
    assert sum(bool((target == 3).any()) for target in moved) > 80


def test_images_without_labels_are_augmented_too():
    moved = TrainTransform(coordinates_task(), (16, 16))(
        coordinates(30, 30)._replace(targets={}), 0
    )
    assert moved.image.shape == (3, 16, 16)
    assert moved.targets == {}


@pytest.mark.parametrize("task", EVERY_TASK, ids=lambda task: task.name)
@pytest.mark.parametrize("shape", [(61, 47), (9, 130)])
def test_every_task_gets_its_size_and_types(task, shape):
    image = torch.zeros(*shape, 3, dtype=torch.uint8).permute(2, 0, 1)  # as decoded: interleaved
    targets = {
        output.name: torch.zeros(output.target_shape(shape), dtype=getattr(torch, output.dtype))
        for output in task.outputs
    }
    sample = Sample(image, targets, "key")
    for seed in range(8):
        moved = TrainTransform(task, (33, 42))(sample, seed)
        assert moved.key == "key"
        assert moved.image.shape == (3, 33, 42)
        assert moved.image.dtype == torch.uint8
        assert moved.image.is_contiguous()
        assert list(moved.targets) == list(targets)
        for output in task.outputs:
            target = moved.targets[output.name]
            assert target.shape == output.target_shape((33, 42))
            assert target.dtype == targets[output.name].dtype


@pytest.mark.skipif(not DATA.is_dir(), reason="the real images are not here")
def test_real_cracks_stay_dark_under_every_draw():
    task = load_task(str(DATASETS / "deepcrack.json"))
    folder = DATA / "damage" / "deepcrack"
    transform, contrast = TrainTransform(task, (128, 160)), []
    for seed, path in enumerate(sorted((folder / "images").glob("*.jpg"))[:20]):
        mask_path = folder / "masks" / f"{path.stem}.png"
        target = decode_target(mask_path.read_bytes(), mask_path.name, task.outputs[0])
        sample = Sample(decode_image(path.read_bytes(), path.name), {"crack": target}, path.name)
        moved = transform(sample, seed)
        grey, crack = moved.image.float().mean(0), moved.targets["crack"]
        if (crack == 1).any():
            contrast.append(grey[crack == 0].mean() - grey[crack == 1].mean())
    assert len(contrast) > 10
    assert sum(contrast) / len(contrast) > 15  # levels of 255
