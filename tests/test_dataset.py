"""What a run sees: every sample once an epoch, whoever reads it, wherever it began."""

import json
import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import TASKS, dataset, load_task, loader
from datasets.class_weights import class_histogram, class_weights
from datasets.dataset import BadMember, open_split, open_task, overfit
from datasets.loader import eval_batches, train_loader
from datasets.task import IGNORE, Classes, Task

DATASETS = Path(__file__).parents[1] / "datasets"
EVERY_TASK = [*TASKS.values(), *(load_task(str(path)) for path in sorted(DATASETS.glob("*.json")))]


def same(a, b):
    return (
        a.keys == b.keys
        and torch.equal(a.image, b.image)
        and a.targets.keys() == b.targets.keys()
        and all(torch.equal(a.targets[name], b.targets[name]) for name in a.targets)
    )


@pytest.mark.parametrize("task", EVERY_TASK, ids=lambda task: task.name)
def test_every_task_reads_its_layout(task, make_data):
    data = open_task(task, [make_data(task, num=6)], (32, 40))
    assert len(data.train) > len(data.val) or "{split}" in task.image
    for split in (data.train, data.val):
        sample = split[0, 0]
        assert sample.image.dtype == torch.uint8
        assert set(sample.targets) == {output.name for output in task.outputs}
        for output in task.outputs:
            target = sample.targets[output.name]
            assert target.shape == output.target_shape(tuple(sample.image.shape[1:]))
            assert str(target.dtype) == f"torch.{output.dtype}"
            if output.kind == "depth":
                assert 0 <= target[target >= 0].min() <= target.max() <= output.max_depth
            elif output.labels:
                known = {*range(len(output.labels)), IGNORE}
                assert set(target.unique().tolist()) <= known
    assert data.train[0, 0].image.shape == (3, 32, 40)
    assert data.val[0, 0].image.shape == (3, 40, 48)


def test_stores_of_any_kind_give_the_same_samples(tiny_task, make_data):
    opened = [
        open_task(tiny_task, [make_data(tiny_task, name)], (32, 32))
        for name in ("data", "data.zip", "data.h5")
    ]
    for i in range(len(opened[0].train)):
        first, *others = [next(iter(train_loader(data.train, 2, 0, i))) for data in opened]
        assert all(same(first, other) for other in others)


def test_a_sample_is_a_function_of_seed_epoch_and_index(tiny_task, make_data):
    path = make_data(tiny_task)
    first, again = (open_task(tiny_task, [path], (32, 32), seed=5).train for _ in range(2))
    other = open_task(tiny_task, [path], (32, 32), seed=6).train
    assert torch.equal(first[3, 1].image, again[3, 1].image)
    assert not torch.equal(first[3, 1].image, first[4, 1].image)
    assert not torch.equal(first[3, 1].image, other[3, 1].image)
    copy = pickle.loads(pickle.dumps(first))
    assert torch.equal(copy[3, 1].image, first[3, 1].image)


def test_workers_change_nothing(tiny_task, make_data):
    train = open_task(tiny_task, [make_data(tiny_task)], (32, 32)).train
    torch.manual_seed(1)
    state = torch.get_rng_state()
    alone, helped, later = (
        list(islice(train_loader(train, 3, workers, start), 12 - start))
        for workers, start in ((0, 0), (2, 0), (2, 5))
    )
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))
    assert all(same(a, b) for a, b in zip(alone[5:], later, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_sample_once(tiny_task, make_data, workers, world):
    folder = make_data(tiny_task)
    for path in folder.rglob("*.png"):  # every third sample is of another size
        if int(path.stem[1:]) % 3 == 0:
            with Image.open(path) as image:
                cut = image.crop((0, 0, 33, 35))
            cut.save(path)
    val = open_split(tiny_task, [folder], "train")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    parts = [list(eval_batches(val, 4, workers, (rank, world))) for rank in range(world)]
    keys = [key for batches in parts for batch in batches for key in batch.keys]
    assert sorted(keys) == [val.table.key(i) for i in range(len(val))]
    sizes = {tuple(batch.image.shape[2:]) for batches in parts for batch in batches}
    assert sizes == {(40, 48), (35, 33)}
    assert torch.equal(torch.get_rng_state(), state)
    for batches in parts:
        for batch in batches:
            assert batch.batch_size == len(batch.keys) == len(batch.image) <= 4
            for i, key in enumerate(batch.keys):
                index = [val.table.key(j) for j in range(len(val))].index(key)
                assert torch.equal(batch.image[i], val[0, index].image)
                assert torch.equal(batch.targets["near"][i], val[0, index].targets["near"])


def test_validation_is_never_augmented(tiny_task, make_data):
    val = open_task(tiny_task, [make_data(tiny_task)], (32, 32)).val
    assert torch.equal(val[0, 0].image, val[9, 0].image)
    assert torch.equal(val[0, 0].image, val.load(0).image)


def test_train_and_val_are_apart(tiny_task, make_data):
    data = open_task(tiny_task, [make_data(tiny_task)], (32, 32))
    keys = [{split.table.key(i) for i in range(len(split))} for split in (data.train, data.val)]
    assert not keys[0] & keys[1]
    assert len(keys[0] | keys[1]) == 10


def test_a_split_by_a_field(make_data):
    path = make_data(TASKS["damage"], "data.h5")
    data = open_task(TASKS["damage"], [path], (32, 32), ("material", "glass"))
    assert (len(data.train), len(data.val)) == (5, 5)
    with pytest.raises(ValueError, match="split by 'colour': no such field, expected one of key"):
        open_task(TASKS["damage"], [path], (32, 32), ("colour", "red"))
    with pytest.raises(ValueError, match="no sample has the value 'gold'"):
        open_task(TASKS["damage"], [path], (32, 32), ("material", "gold"))


@pytest.mark.parametrize("num", [1, 4, 100])
def test_overfitting_sees_the_same_samples_alike(tiny_task, make_data, num):
    data = open_task(tiny_task, [make_data(tiny_task)], (32, 32), seed=3)
    whole = len(data.train)
    few = overfit(data, num)
    assert len(few.train) == len(few.val) == min(num, whole)
    for i in range(len(few.train)):
        first = few.train[0, i]
        for other in (few.train[5, i], few.val[0, i], few.val[2, i]):
            assert other.key == first.key
            assert torch.equal(other.image, first.image)
            assert torch.equal(other.targets["parts"], first.targets["parts"])


def two_classes(name="two", ignored=(255,)):
    output = Classes("two", "l/{key}.png", classes=("a", "b", "c"), ignored=ignored)
    return Task(name, "i/{key}.png", (output,), "two/miou", val_share=0.5)


def known_labels(folder, counts, num=4):
    """`num` samples of 10x10, the first classes of each with so many pixels, 255 elsewhere."""
    labels = np.full(100, 255, np.uint8)
    labels[: sum(counts)] = np.repeat(np.arange(len(counts)), counts)
    for i in range(num):
        for name, pixels in (("i", np.zeros((10, 10, 3), np.uint8)), ("l", labels.reshape(10, 10))):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"k{i}.png")
    return folder


def test_class_weights_are_the_root_of_median_frequency(tmp_path):
    folder = known_labels(tmp_path / "data", (72, 18, 0))
    train = open_task(two_classes(), [folder], (8, 8)).train
    assert class_histogram(train, tmp_path / "cache") == {"two": [144, 36, 0]}
    (weights,) = class_weights(train, tmp_path / "cache").values()
    median = (0.8 + 0.2) / 2
    assert weights == pytest.approx([(median / 0.8) ** 0.5, (median / 0.2) ** 0.5, 1.0])


def test_class_weights_without_a_label_are_equal(tmp_path):
    folder = known_labels(tmp_path / "data", (0, 0, 0))
    train = open_task(two_classes(), [folder], (8, 8)).train
    assert class_weights(train, tmp_path / "cache") == {"two": (1.0, 1.0, 1.0)}


def test_rare_classes_have_a_limit(tmp_path, monkeypatch):
    folder = known_labels(tmp_path / "data", (99, 1))
    train = open_task(two_classes(), [folder], (8, 8)).train
    (weights,) = class_weights(train, tmp_path / "cache").values()
    assert weights[1] == pytest.approx((0.5 / 0.01) ** 0.5)
    monkeypatch.setattr("datasets.class_weights.MAX_WEIGHT", 3.0)
    (weights,) = class_weights(train, tmp_path / "cache").values()
    assert max(weights) == 3.0


def test_the_histogram_is_counted_once(tmp_path, monkeypatch):
    folder, cache = known_labels(tmp_path / "data", (72, 18, 0)), tmp_path / "cache"
    task = two_classes()
    train = open_task(task, [folder], (8, 8)).train
    expected = class_histogram(train, cache)
    assert [path.suffix for path in cache.iterdir()] == [".json"]

    def refuse(self, index):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(dataset.DenseDataset, "load", refuse)
        assert class_histogram(open_task(task, [folder], (16, 16)).train, cache) == expected
        # another task, other samples: counted anew
        with pytest.raises(AssertionError):
            class_histogram(open_task(two_classes(ignored=(255, 9)), [folder], (8, 8)).train, cache)
        with pytest.raises(AssertionError):
            class_histogram(overfit(open_task(task, [folder], (8, 8)), 1).train, cache)


def test_changed_labels_are_counted_anew(tmp_path):
    """A folder's own time says nothing of the files below it."""
    folder, cache = known_labels(tmp_path / "data", (72, 18, 0)), tmp_path / "cache"
    assert class_histogram(open_task(two_classes(), [folder], (8, 8)).train, cache) == {
        "two": [144, 36, 0]
    }
    known_labels(folder, (10, 20, 30))
    assert class_histogram(open_task(two_classes(), [folder], (8, 8)).train, cache) == {
        "two": [20, 40, 60]
    }


def test_tasks_without_classes_have_no_weights(make_data, tmp_path):
    train = open_task(TASKS["maskdepth"], [make_data(TASKS["maskdepth"])], (32, 32)).train
    assert class_weights(train, tmp_path / "cache") == {}
    assert not (tmp_path / "cache").exists()


def test_errors_name_shard_and_member(tiny_task, make_data):
    def cut(members):
        return {n: d[: len(d) // 2] if n == "parts/k03.png" else d for n, d in members.items()}

    path = make_data(tiny_task, "data.zip", change=cut)
    train = open_task(tiny_task, [path], (32, 32)).train
    index = next(i for i in range(len(train)) if "k03" in train.table.key(i))
    with pytest.raises(ValueError, match=r"data.zip: parts/k03.png: cannot be decoded"):
        train[0, index]


def test_the_cache_is_readable(tmp_path):
    folder = known_labels(tmp_path / "data", (72, 18, 0))
    class_histogram(open_task(two_classes(), [folder], (8, 8)).train, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    assert json.loads(path.read_text())["two"] == [144, 36, 0]


@pytest.mark.parametrize("large", ["img", "parts"])
def test_sizes_are_compared_before_anything_is_decoded(tiny_task, make_data, monkeypatch, large):
    folder = make_data(tiny_task)
    for path in (folder / large).iterdir():
        Image.new("1", (300, 200)).save(path)
    train = open_task(tiny_task, [folder], (32, 32)).train
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    with pytest.raises(BadMember, match=r"parts/k\d+.png: .*300x200.*same size as img/k"):
        train[0, 0]


def test_a_photograph_on_its_side_fits_its_upright_target(tiny_task, make_data):
    folder = make_data(tiny_task)
    for path in (folder / "img").iterdir():
        with Image.open(path) as image:
            exif = Image.Exif()
            exif[0x0112] = 6  # a quarter turn
            turned = image.transpose(Image.Transpose.ROTATE_90)
        turned.save(path, exif=exif)
    upright = open_task(tiny_task, [make_data(tiny_task, "upright")], (32, 32)).train
    turned = open_task(tiny_task, [folder], (32, 32)).train
    assert torch.equal(turned.load(0).image, upright.load(0).image)


@pytest.mark.parametrize("pin", [False, True])
def test_a_run_on_the_cpu_opens_no_cuda_context(tmp_path, monkeypatch, pin):
    """Pinning does, so a loader pins where it is told to, not wherever there is a GPU."""
    folder = known_labels(tmp_path / "data", (72, 18, 0))
    made, build = [], loader.DataLoader
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loader, "DataLoader", lambda *a, **k: made.append(k) or build(*a, **k))
    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", lambda _: iter(()))
    train_loader(open_task(two_classes(), [folder], (8, 8)).train, 2, 0, pin=pin)
    assert [settings["pin_memory"] for settings in made] == [pin]
