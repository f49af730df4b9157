"""Truths over inputs that nobody thought of: hypothesis makes them, and shrinks what breaks one.

The same inputs each time. A failure prints the smallest input that it found: name it in the test of
its subject when it is mended.
"""

import contextlib
import json
import re
import tempfile
import zipfile
from collections import Counter
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_regions import CLASSES, painted

from datasets.dataset import InfiniteBatchSampler
from datasets.index.templates import compile_lines, compile_template, fill_template
from datasets.shapes import filled, parse_shapes
from datasets.stores import index_cache, open_stores, write_hdf5, write_zip
from datasets.task import IGNORE, KINDS, Classes, Depth, Sample, Task, UserError, read_task
from datasets.transforms import TrainTransform
from losses import TERMS
from utils.command import printable
from utils.maps.regions import find_regions
from utils.maps.shapes import run_lengths
from utils.metrics.classes import ClassMetrics
from utils.predict import spans

few = settings(derandomize=True, deadline=None, max_examples=60, database=None)

WORDS = st.text("abcXYZ019", min_size=1, max_size=4)
MARKS = st.text("/_-. +()[]^$|?\u00e4#", min_size=1, max_size=3).filter(lambda t: t != "." * len(t))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(("a.png", "{key}", "x/{key}.png", "classes", "depth", "ce")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
MAPS = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3))


@contextlib.contextmanager
def refusal():
    """Nothing else is raised than a UserError of one line, as it is shown."""
    try:
        yield
    except UserError as error:
        line = printable(str(error))
        assert line
        assert len(line) < 4000


@contextlib.contextmanager
def place():
    """A folder for one example: pytest's own is one for all of them."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@few
@given(st.text())
def test_what_is_printed_stays_in_its_line_and_says_the_same_twice(text):
    shown = printable(text)
    assert shown.splitlines() in ([shown], [])
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", shown)
    shown.encode()  # no half of a character
    assert printable(shown) == shown


@few
@given(st.lists(st.tuples(WORDS, MARKS), min_size=1, max_size=4), st.sampled_from((".png", ".*")))
def test_a_template_finds_the_names_that_it_makes(parts, suffix):
    names = ["key", "city", "part", "run"]
    template = "".join(f"{{{n}}}{mark}" for n, (_, mark) in zip(names, parts, strict=False))
    name = "".join(word + mark for word, mark in parts)
    body = template[: -len(parts[-1][1])] + suffix
    name = name[: -len(parts[-1][1])] + ".png"
    for pattern in (compile_template("in/" + body), compile_template("in\\" + body)):
        match = pattern.fullmatch("out/in/" + name)
        assert match
        assert match.groupdict() == {n: w for n, (w, _) in zip(names, parts, strict=False)}
    match = compile_lines("in/" + body).search(f"a/b.txt\nout/in/{name}\n".encode())
    assert fill_template("in/" + body.replace(".*", ".png"), match) == "out/in/" + name


PIECES = ("{key}", "{city}", "*", "{", "}", "/", "_", "a", ".png", ".*", "..", "\\", "\n", "\0")


@few
@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(max_size=6), WORDS)
def test_any_text_is_a_template_or_refused(template, name):
    with refusal():
        compile_template(template).fullmatch(name)


@few
@given(WORDS, WORDS)
def test_a_field_that_occurs_twice_is_the_same_text(city, other):
    match = compile_template("{city}/{city}_{key}.png").fullmatch(f"{city}/{other}_1.png")
    assert bool(match) == (city == other)


OUTPUTS = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("classes"), "classes": st.lists(WORDS, min_size=2, unique=True)},
        optional={"loss": st.sampled_from(("ce", "ce+2*dice")), "ignored": st.just([254, 255])},
    ),
    st.fixed_dictionaries(
        {"kind": st.just("mask")}, optional={"threshold": st.integers(0, 255), "decoder": WORDS}
    ),
    st.fixed_dictionaries(
        {"kind": st.just("depth"), "max_depth": st.floats(0.1, 1e6)},
        optional={"scale": st.floats(0, 1e3), "missing": st.integers(-1, 65535)},
    ),
    st.fixed_dictionaries({"kind": st.just("normals")}, optional={"weight": st.floats(0, 9)}),
    st.fixed_dictionaries({"kind": st.just("label"), "field": WORDS}),
)


@few
@given(
    st.lists(st.tuples(WORDS, OUTPUTS), min_size=1, max_size=4, unique_by=lambda each: each[0]),
    st.fixed_dictionaries(
        {},
        optional={
            "about": st.text(st.characters(exclude_categories=["Cs"])),
            "split": st.sampled_from(("hash", "tail")),
            "val_share": st.floats(0.01, 0.99),
            "zoom": st.tuples(st.floats(0.1, 1), st.floats(1, 9)).map(list),
            "flip": st.booleans(),
            "defaults": st.just({"size": [32, 48], "bs": 2}),
        },
    ),
)
def test_a_task_is_what_its_json_says(outputs, more):
    rows = [
        {"name": name}
        | ({} if output["kind"] == "label" else {"files": f"{name}/{{key}}.png"})
        | output
        for name, output in outputs
    ]
    value = {"name": "t", "image": "i/{key}.*", "outputs": rows, "best": f"{rows[0]['name']}/x"}
    task = Task.from_json(value | more)
    with place() as folder:
        (folder / "t.json").write_text(json.dumps(task.to_json()))
        assert read_task(folder / "t.json") == task
    for name, given_ in more.items():
        assert getattr(task, name) == (tuple(given_) if isinstance(given_, list) else given_)
    for row, output in zip(rows, task.outputs, strict=True):
        assert output.to_json().items() >= {
            (key, tuple(item) if isinstance(item, list) else item) for key, item in row.items()
        }


TASK_KEYS = st.sampled_from([*TINY.to_json(), "outputs", "kind"])
OUTPUT_KEYS = st.sampled_from(["name", "kind", "files", "classes", "colors", "threshold", "field"])


@few
@given(
    JSON
    | st.dictionaries(TASK_KEYS, JSON).map(lambda more: TINY.to_json() | more)
    | st.tuples(st.sampled_from(list(KINDS)), st.dictionaries(OUTPUT_KEYS, JSON)).map(
        lambda each: TINY.to_json() | {"outputs": [{"name": "parts", "kind": each[0]} | each[1]]}
    )
)
def test_any_json_is_a_task_or_refused(value):
    with place() as folder:
        (folder / "t.json").write_text(json.dumps(value))
        with refusal():
            task = read_task(folder / "t.json")
            assert Task.from_json(task.to_json()) == task


NAMES = st.lists(
    st.text("a/\\.:\n\0\x1bC \u00e4", min_size=1, max_size=8)
    | st.sampled_from(("../up", "a/../../b", "/root", "C:/x", "a//b", "./c", "..", "a/.."))
    | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
    min_size=1,
    max_size=4,
    unique=True,
)


@few
@given(NAMES)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_a_zip_lists_stays_below_any_folder_and_is_read_back(names):
    with place() as folder:
        path = folder / "z.zip"
        with zipfile.ZipFile(path, "w") as file:
            for i, name in enumerate(names):
                info = zipfile.ZipInfo("x")
                info.filename = name  # as it is: the constructor cuts it
                file.writestr(info, f"data {i}")
        with refusal():
            (store,) = open_stores([path])
            for name in store.names():
                assert not re.search(r"[\x00-\x1f\x7f]", name)
                assert not PurePosixPath(name).is_absolute()
                assert ".." not in PurePosixPath(name).parts
                assert not re.match("[A-Za-z]:/", name)
                assert store.read(name).startswith(b"data ")


@few
@given(
    st.dictionaries(
        st.text("abc_\u00e4.", min_size=1, max_size=6).filter(lambda name: name[0] != "."),
        st.binary(max_size=40),
        min_size=1,
    ),
    st.sampled_from(((write_zip, "s.zip"), (write_hdf5, "s.h5"))),
)
def test_a_shard_gives_back_its_bytes(members, kind):
    write, name = kind
    with place() as folder, refusal():
        write(folder / name, members.items())
        (store,) = open_stores([folder / name])
        assert {name: store.read(name) for name in store.names()} == members


@few
@given(st.lists(st.integers(0, 2**40), min_size=1), st.data())
def test_an_index_is_whole_or_none(numbers, data):
    with place() as folder:
        path, columns = folder / "i", {"a": np.array(numbers, np.uint64), "b": np.uint8([1, 2])}
        index_cache.save(path, "key", columns)
        found = index_cache.load(path, "key")
        assert all(np.array_equal(found[name], columns[name]) for name in columns)
        raw = bytearray(path.read_bytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(raw)
        assert index_cache.load(path, "key") is None


@few
@given(MAPS)
def test_regions_give_back_their_map_and_hang_together(labels):
    found = find_regions(labels, CLASSES, tolerance=0)
    assert np.array_equal(painted(found, labels.shape), labels)
    assert sum(region.area for region in found) == (labels > 0).sum()
    assert len(found) == num_connected(labels)
    for region in found:
        inside = painted([region], labels.shape) > 0
        runs = run_lengths(region, *labels.shape)
        flags = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        assert np.array_equal(flags.reshape(labels.shape[::-1]).T, inside)


def num_connected(labels):
    """How many there are of pixels above 0 that touch pixels of their label, by a corner too."""
    left, count = {tuple(at) for at in np.argwhere(labels).tolist()}, 0
    while left:
        near, count = [left.pop()], count + 1
        while near:
            y, x = near.pop()
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            same = {at for at in around if labels[at] == labels[y, x]}
            left -= same
            near += same
    return count


POINTS = st.lists(
    st.tuples(*[st.floats(-3, 12, width=16) | st.integers(-2, 10).map(lambda i: i / 2)] * 2),
    min_size=3,
    max_size=6,
)


@few
@given(st.lists(POINTS, min_size=1, max_size=3), st.integers(1, 9), st.integers(1, 9))
def test_a_pixel_is_painted_whose_centre_is_inside_an_odd_number_of_rings(rings, height, width):
    expected = np.zeros((height, width), bool)
    for ring in map(np.float64, rings):
        for (x, y), (end_x, end_y) in zip(ring, np.roll(ring, -1, 0), strict=True):
            if y > end_y:
                x, y, end_x, end_y = end_x, end_y, x, y
            for row in range(height):
                if y <= row + 0.5 < end_y:
                    at = x + (row + 0.5 - y) * ((end_x - x) / (end_y - y))
                    expected[row] ^= np.arange(width) + 0.5 >= at
    assert np.array_equal(filled([np.float64(ring) for ring in rings], (height, width)), expected)


@few
@given(JSON | st.dictionaries(st.sampled_from(("type", "features", "images", "annotations")), JSON))
def test_any_json_is_shapes_or_refused(value):
    with refusal():
        parse_shapes(json.dumps(value).encode())


@few
@given(st.integers(1, 500), st.integers(0, 90), st.integers(0, 40), st.sampled_from((1, 8, 32)))
def test_tiles_answer_each_pixel_once_and_overlap(length, tile, overlap, stride):
    found = spans(length, tile, overlap, stride)
    answered = Counter(at for span in found for at in range(*span[2:]))
    assert answered == Counter(range(length))
    for start, stop, first, last in found:
        assert 0 <= start <= first < last <= stop <= length
        assert start % stride == 0
    for before, after in zip(found, found[1:], strict=False):
        assert before.stop - after.start >= min(overlap, after.stop - after.start)


@few
@given(st.integers(1, 40), st.integers(1, 4), st.sampled_from((1, 2, 3, 5, 7)), st.integers(1, 3))
def test_ranks_see_together_what_one_process_sees(num, batch, ranks, accum):
    def drawn(steps, part, start=0, accum=accum):
        sampler = InfiniteBatchSampler(num, batch, 5, start * accum, part, accum=accum)
        return [each for one in islice(sampler, (steps - start) * accum) for each in one]

    steps = 1 + num // batch
    alone = drawn(steps, (0, 1), accum=ranks * accum)
    shared = [drawn(steps // 2, (rank, ranks)) for rank in range(ranks)]
    rest = drawn(steps, (0, 1), steps // 2, accum=ranks * accum)  # it goes on as one process
    assert sorted(sum(shared, []) + rest) == sorted(alone)
    epochs = Counter(index for epoch, index in alone if epoch == 0)
    assert epochs == Counter(dict.fromkeys(range(num), 1))


PIXELS = arrays(np.uint8, (2, 5, 4), elements=st.sampled_from((0, 1, 2, IGNORE)))


@few
@given(PIXELS, arrays(np.uint8, (2, 5, 4), elements=st.integers(0, 2)), st.integers(0, 20))
def test_metrics_of_parts_are_those_of_the_whole(target, ids, cut):
    whole, streamed = (ClassMetrics(("a", "b", "c")) for _ in range(2))
    truth, said = torch.from_numpy(target), torch.from_numpy(ids).long()
    whole.update(said, truth)
    flat, flat_said = truth.reshape(1, -1), said.reshape(1, -1)
    streamed.update(flat_said[:, :cut], flat[:, :cut])
    other = ClassMetrics(("a", "b", "c"))
    other.update(flat_said[:, cut:], flat[:, cut:])
    streamed.add(other)
    expected = np.zeros((3, 3), np.int64)
    np.add.at(expected, (target[target < 3], ids[target < 3]), 1)
    assert np.array_equal(whole.confusion.numpy(), expected)
    np.testing.assert_equal(streamed.compute(), whole.compute())


@few
@given(PIXELS, st.sampled_from(sorted(TERMS["classes"])), st.integers(0, 99), st.floats(-50, 50))
def test_no_term_looks_at_ignored_pixels(target, term, seed, value):
    torch.manual_seed(seed)
    logits, truth = torch.randn(2, 3, 5, 4), torch.from_numpy(target)
    ignored = (truth == IGNORE)[:, None].expand_as(logits)
    costs = []
    for given_ in (logits, logits.masked_fill(ignored, value)):
        given_.requires_grad_()
        cost = TERMS["classes"][term](given_, truth, None)
        cost.backward()
        assert not given_.grad[ignored].any()
        assert given_.grad.isfinite().all()
        costs.append(cost.item())
    assert costs[0] == costs[1]


MOVED = Task(
    name="moved",
    image="{key}.png",
    outputs=(
        Classes("ids", "a/{key}.png", classes=tuple(map(str, range(200)))),
        Depth("depth", "b/{key}.png", max_depth=1e6),
    ),
    best="ids/miou",
)


@few
@given(
    st.tuples(st.integers(1, 13), st.integers(1, 13)),
    st.tuples(st.integers(3, 12), st.integers(3, 12)),
    st.tuples(st.floats(0.5, 1), st.floats(1, 2)),
    st.fixed_dictionaries(
        {
            "rotate": st.sampled_from((0.0, 10.0, 45.0)),
            "flip": st.booleans(),
            "upright": st.booleans(),
            "resize": st.booleans(),
        }
    ),
    st.integers(0, 10**6),
)
def test_image_and_targets_move_alike(full, size, zoom, how, seed):
    ids = torch.arange(full[0] * full[1], dtype=torch.uint8).reshape(full)
    image = torch.zeros(3, *full, dtype=torch.uint8)
    task = Task(**{**vars(MOVED), "zoom": zoom, **how})
    sample = Sample(image, {"ids": ids, "depth": ids.float()}, "a")
    moved = TrainTransform(task, size)(sample, seed)
    known = moved.targets["ids"] != IGNORE
    assert moved.image.shape[1:] == moved.targets["ids"].shape == moved.targets["depth"].shape
    assert torch.equal(known, moved.targets["depth"] >= 0)
    assert torch.equal(moved.targets["ids"][known].float(), moved.targets["depth"][known])
    if not how["rotate"] and zoom == (1, 1) and not how["resize"]:  # each pixel once at most
        assert len(moved.targets["ids"][known].unique()) == known.sum()
