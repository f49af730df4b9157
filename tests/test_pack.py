"""Packing: any store becomes one shard with the same bytes each time, or nothing is left."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import load_task
from datasets.index import find_samples
from datasets.pack import packing
from datasets.pack.__main__ import main
from datasets.pack.packing import pack, reencode_image, reencode_target
from datasets.pack.plan import PackRecipe
from datasets.stores import open_stores, parse_path, write_hdf5, write_zip
from datasets.task import Mask, Task

RNG = np.random.default_rng(1)
MEMBERS = {f"image/{i}.png": RNG.integers(0, 256, 500, np.uint8).tobytes() for i in range(9)}
WRITERS = {"s.zip": write_zip, "s.h5": write_hdf5}


def contents(path):
    return {name: store.read(name) for store in open_stores([path]) for name in store.names()}


@pytest.mark.parametrize("shard", WRITERS)
def test_equal_members_give_equal_files(shard, tmp_path):
    for folder in ("one", "two"):
        WRITERS[shard](tmp_path / folder / shard, iter(MEMBERS.items()))
    assert (tmp_path / "one" / shard).read_bytes() == (tmp_path / "two" / shard).read_bytes()
    assert contents(tmp_path / "one" / shard) == MEMBERS
    assert list((tmp_path / "one").iterdir()) == [tmp_path / "one" / shard]


def test_hdf5_costs_little_more_than_its_bytes(tmp_path):
    write_hdf5(tmp_path / "s.h5", ((f"{i}.jpg", bytes(20_000)) for i in range(100)))
    assert (tmp_path / "s.h5").stat().st_size < 1.01 * 100 * 20_000


def test_hdf5_headers_have_checksums(tmp_path):
    write_hdf5(tmp_path / "s.h5", MEMBERS.items())
    raw = bytearray((tmp_path / "s.h5").read_bytes())
    assert raw[8] in (2, 3)  # version of the superblock; the older ones have none
    raw[9] ^= 1
    (tmp_path / "s.h5").write_bytes(raw)
    with pytest.raises(ValueError, match="not an HDF5 file, cut short or damaged"):
        open_stores([tmp_path / "s.h5"])


@pytest.mark.parametrize("shard", WRITERS)
def test_members_of_no_bytes(shard, tmp_path):
    WRITERS[shard](tmp_path / shard, [("a", b""), ("b", b"")])
    assert contents(tmp_path / shard) == {"a": b"", "b": b""}


@pytest.mark.parametrize("shard", WRITERS)
@pytest.mark.parametrize(
    ("members", "what"),
    [
        ([("a", b"1"), ("b", b"2"), ("a", b"3")], "a: the name occurs twice"),
        ([("../a", b"1")], "relative name"),
        ([("a\udcff", b"1")], "not UTF-8"),
        ([], "no members"),
    ],
)
def test_a_failed_write_leaves_what_was_there(shard, members, what, tmp_path):
    (tmp_path / shard).write_bytes(b"before")
    with pytest.raises(ValueError, match=what) as caught:
        WRITERS[shard](tmp_path / shard, members)
    assert str(caught.value).startswith(str(tmp_path / shard))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


@pytest.mark.parametrize("shard", WRITERS)
def test_an_interrupted_write_leaves_nothing(shard, tmp_path):
    def members():
        yield "a", b"1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WRITERS[shard](tmp_path / shard, members())
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"s\.zip: cannot be written"):
        write_zip(tmp_path / "file" / "s.zip", MEMBERS.items())


def fill(folder):
    for name, data in MEMBERS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_folder_to_zip_to_hdf5_and_back(tmp_path, capsys):
    source = fill(tmp_path / "source")
    assert main([str(source), str(tmp_path / "a.zip")]) == 0
    assert "a.zip: 9 members, 4500 bytes before," in capsys.readouterr().out
    assert main([str(tmp_path / "a.zip"), str(tmp_path / "b.h5")]) == 0
    assert main([str(tmp_path / "b.h5"), str(tmp_path / "c.zip")]) == 0
    assert contents(tmp_path / "b.h5") == MEMBERS
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "c.zip").read_bytes()


def test_several_sources_in_one_shard(tmp_path):
    write_zip(tmp_path / "a.zip", [("a", b"1")])
    write_hdf5(tmp_path / "b.h5", [("b", b"22")])
    packed = pack([tmp_path / "a.zip", tmp_path / "b.h5"], tmp_path / "both.zip")
    assert contents(tmp_path / "both.zip") == {"a": b"1", "b": b"22"}
    assert packed == (2, 3, (tmp_path / "both.zip").stat().st_size, 1, 0, 0)


def test_command_refuses_in_one_line(tmp_path, capsys):
    source, target = fill(tmp_path / "source"), tmp_path / "t.zip"
    write_zip(target, [("image/1.png", b"old")])
    for arguments, what in (
        ([source, target], "t.zip: already there; --force"),
        ([source, tmp_path / "t.tar"], "t.tar: expected"),
        ([tmp_path / "absent", tmp_path / "u.zip"], "absent: no such file or folder"),
        ([target, target, "--force"], "t.zip: is a source and would be written"),
        ([source, target, "--size", 8, 8, "--force"], "--size and --quality need --task"),
        ([source, target, "--quality", 101, "--force"], "--quality 101: expected 1 to 100"),
        ([source, target, tmp_path / "u.h5"], "image/1.png: is in"),
    ):
        assert main([str(a) for a in arguments]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert what in printed.err
        assert printed.err.count("\n") == 1
    assert contents(target) == {"image/1.png": b"old"}
    assert not (tmp_path / "u.h5").exists()
    assert main([str(source), str(target), "--force"]) == 0
    assert contents(target) == MEMBERS


def test_a_damaged_source_is_named(tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x.bin", b"payload")
    raw = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(raw.replace(b"payload", b"paxload"))
    assert main([str(tmp_path / "a.zip"), str(tmp_path / "b.h5")]) == 2
    assert "a.zip: x.bin: damaged" in capsys.readouterr().err
    assert not (tmp_path / "b.h5").exists()


def test_a_shard_that_reads_back_wrong_is_an_error(tmp_path, monkeypatch, capsys):
    def flaky_disk(path, members):
        write_hdf5(path, members)
        path.write_bytes(path.read_bytes().replace(b"payload", b"paxload"))

    monkeypatch.setattr(packing, "write_hdf5", flaky_disk)
    write_zip(tmp_path / "a.zip", [("x.bin", b"payload")])
    assert main([str(tmp_path / "a.zip"), str(tmp_path / "b.h5")]) == 2
    assert "b.h5: x.bin: damaged" in capsys.readouterr().err


def test_the_module_runs_as_a_command(tmp_path):
    source = fill(tmp_path / "source")
    command = [sys.executable, "-m", "datasets.pack", str(source), str(tmp_path / "a.h5")]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert contents(tmp_path / "a.h5") == MEMBERS


PAIRS = Task("t", "image/{key}.*", (Mask("m", "mask/{key}.png"),), "m/iou")


def pairs(path, keys, size=1000, extra=()):
    """A zip with all images before all masks, a table and what no task reads."""
    data = [(f"{f}/{key}.png", RNG.bytes(size)) for f in ("image", "mask") for key in keys]
    write_zip(path, [*data, *((name, b"x") for name in extra)])
    return dict(data)


def shards(folder):
    return sorted(path for path in folder.iterdir() if "-0" in path.name)


@pytest.mark.parametrize("suffix", ["zip", "h5"])
@pytest.mark.parametrize("workers", [1, 2])
def test_shards_of_a_size_keep_samples_whole(suffix, workers, tmp_path):
    members = pairs(tmp_path / "s.zip", range(10), extra=["README", "mask/none.png"])
    recipe = PackRecipe(PAIRS, shard_bytes=6500)
    target = tmp_path / "out" / f"t.{suffix}"
    packed = pack([tmp_path / "s.zip"], target, False, recipe, workers)
    assert [path.name for path in shards(target.parent)] == [
        f"t-{i:05d}.{suffix}" for i in range(4)
    ]
    assert sorted(target.parent.iterdir()) == shards(target.parent)
    assert packed[:2] == (20, 20_000)
    assert packed[3:] == (4, 0, 2)
    assert [len(contents(path)) for path in shards(target.parent)] == [6, 6, 6, 2]
    assert contents(target.parent) == members
    table = find_samples(open_stores([target.parent]), PAIRS, "train")
    assert all(table.image(i)[0] == table.target(i, "m")[0] for i in range(len(table)))


def test_shards_of_a_number_of_samples(tmp_path):
    pairs(tmp_path / "s.zip", range(7))
    pack([tmp_path / "s.zip"], tmp_path / "t.zip", recipe=PackRecipe(PAIRS, shard_samples=3))
    assert [len(contents(path)) for path in shards(tmp_path)] == [6, 6, 2]
    pack([tmp_path / "s.zip"], tmp_path / "u.zip", recipe=PackRecipe(shard_samples=5))
    assert [len(contents(tmp_path / f"u-0000{i}.zip")) for i in range(3)] == [5, 5, 4]


def test_a_sample_larger_than_a_shard_has_one_of_its_own(tmp_path):
    pairs(tmp_path / "s.zip", range(3))
    pack([tmp_path / "s.zip"], tmp_path / "t.zip", recipe=PackRecipe(PAIRS, shard_bytes=10))
    assert [len(contents(path)) for path in shards(tmp_path)] == [2, 2, 2]


def test_a_file_that_two_outputs_share_is_packed_once(tmp_path):
    members = pairs(tmp_path / "s.zip", range(3))
    outputs = [Mask(name, "mask/{key}.png", channel=name) for name in ("R", "G")]
    task = Task("t", "image/{key}.png", tuple(outputs), "R/iou")
    pack([tmp_path / "s.zip"], tmp_path / "t.zip", recipe=PackRecipe(task))
    assert contents(tmp_path / "t.zip") == members
    table = find_samples(open_stores([tmp_path / "t.zip"]), task, "train")
    assert [table.target(0, "R"), len(table.stores[0])] == [table.target(0, "G"), 6]


def test_metadata_goes_along(tmp_path):
    names = [f"{f}/{k}.png" for f in ("image", "annotation", "annotation_rgb") for k in "abcd"]
    write_zip(tmp_path / "s.zip", [(name, b"x") for name in names] + [("metadata.csv", b"id,a")])
    recipe = PackRecipe(load_task("damage"), shard_samples=2)
    packed = pack([tmp_path / "s.zip"], tmp_path / "t.zip", recipe=recipe)
    assert packed.left_out == 4
    assert list(contents(tmp_path / "t-00000.zip")) == ["metadata.csv", "image/a.png",
                                                        "annotation/a.png"]  # fmt: skip


def test_course_zips_need_a_prefix_and_then_join(tmp_path, capsys):
    task = load_task("maskdepth")
    for n in (1, 2):
        names = [
            f"{f}/{k}.jpg" for f in (f"bg_fg_{n}", f"bg_fg_mask_{n}", "depthMap") for k in "ab"
        ]
        write_zip(tmp_path / f"output_{n}.zip", [(name, f"{n}{name}".encode()) for name in names])
    command = [str(tmp_path / f"output_{n}.zip") for n in (1, 2)] + [str(tmp_path / "all.h5")]
    assert main([*command, "--task", "maskdepth"]) == 2
    assert "depthMap/a.jpg: is in" in capsys.readouterr().err
    assert main([*command, "--task", "maskdepth", "--prefix"]) == 0
    table = find_samples(open_stores([tmp_path / "all.h5"]), task, "train")
    assert len(table) + len(find_samples(table.stores, task, "val")) == 4
    for i in range(len(table)):
        image = table.read(*table.image(i)).decode()
        assert table.read(*table.target(i, "depth")).decode()[0] == image[0]


def interrupt_at(monkeypatch, number):
    """Writing the shard of this number is interrupted, as by ^C."""
    write, done = packing.write_zip, []

    def stop(path, members):
        if len(done) == number:
            raise KeyboardInterrupt
        done.append(path.name)
        write(path, members)

    monkeypatch.setattr(packing, "write_zip", stop)
    return done


def test_an_interrupted_call_goes_on(tmp_path, monkeypatch):
    members = pairs(tmp_path / "s.zip", range(8))
    source, target, recipe = [tmp_path / "s.zip"], tmp_path / "t.zip", PackRecipe(PAIRS, 0, 2)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            pack(source, target, recipe=recipe)
    assert len(shards(tmp_path)) == 3
    raw = bytearray(shards(tmp_path)[1].read_bytes())
    raw[100] ^= 1
    shards(tmp_path)[1].write_bytes(raw)  # found when it is read back
    (tmp_path / ".t-00003.zip.77.part").write_bytes(b"of a call that was killed")
    with pytest.raises(ValueError, match="t-00000.zip: begun with other --shard-samples; --force"):
        pack(source, target, recipe=PackRecipe(PAIRS, 0, 3))
    with monkeypatch.context() as patch:
        done = interrupt_at(patch, 9)
        packed = pack(source, target, recipe=recipe)
    assert done == ["t-00001.zip", "t-00003.zip"]
    assert (packed.shards, packed.finished) == (4, 2)
    assert {k: v for path in shards(tmp_path) for k, v in contents(path).items()} == members
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ValueError, match="t-00000.zip: already there"):
        pack(source, target, recipe=recipe)
    assert pack(source, target, True, PackRecipe(PAIRS, 0, 5)).shards == 2
    assert len(shards(tmp_path)) == 2  # none is left of the four


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def opened(data):
    return Image.open(io.BytesIO(data))


def test_smaller_images_and_labels_that_stay_labels(tmp_path):
    labels = RNG.choice(np.array([0, 3, 255], np.uint8), (48, 64))
    photo = Image.fromarray(RNG.integers(0, 256, (48, 64, 3), np.uint8))
    jpeg = io.BytesIO()
    photo.save(jpeg, "JPEG", quality=98)
    write_zip(tmp_path / "s.zip", [
        ("image/a.jpg", jpeg.getvalue()), ("mask/a.png", png(Image.fromarray(labels))),
        ("image/b.png", png(photo)), ("mask/b.png", png(Image.fromarray(labels))),
    ])  # fmt: skip
    arguments = [tmp_path / "s.zip", tmp_path / "t.zip", "--size", 24, 32, "--quality", 80]
    task = tmp_path / "task.json"
    task.write_text(json.dumps(PAIRS.to_json()))
    assert main([*map(str, arguments), "--task", str(task)]) == 0
    small = contents(tmp_path / "t.zip")
    assert {opened(data).size for data in small.values()} == {(32, 24)}
    assert opened(small["image/a.jpg"]).format == "JPEG"
    assert opened(small["image/b.png"]).format == "PNG"
    assert np.array_equal(np.array(opened(small["mask/a.png"])), labels[1::2, 1::2])


@pytest.mark.parametrize("mode", ["P", "I;16", "L", "1", "RGBA", "LA"])
def test_targets_keep_their_mode_and_values(mode):
    values = RNG.integers(0, 250, (6, 10))
    image = {
        "P": lambda: Image.fromarray(values.astype(np.uint8)).convert("P"),
        "I;16": lambda: Image.fromarray((values * 200).astype(np.uint16)),
    }.get(mode, lambda: Image.fromarray(values.astype(np.uint8)).convert(mode))()
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    small = opened(reencode_target(png(image), "x", (3, 5)))
    assert small.mode == mode
    assert np.array_equal(np.array(small), np.array(image)[1::2, 1::2])
    if mode == "P":
        assert small.getpalette() == image.getpalette()


def test_images_are_made_upright_and_stay_as_they_are_without_need():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(buffer, "JPEG", exif=exif)
    upright = opened(reencode_image(buffer.getvalue(), "x", None, 90))
    assert upright.size == (4, 8)
    assert not upright.getexif()
    flat = png(Image.new("P", (8, 4)))
    assert reencode_image(flat, "x", None, 90) == flat
    assert opened(reencode_image(flat, "x", (2, 2))).mode == "RGB"
    with pytest.raises(ValueError, match="x: not an image"):
        reencode_image(b"no image", "x", (2, 2))


def test_an_address_stays_text():
    assert parse_path("https://host/x.zip") == "https://host/x.zip"
    assert parse_path("some/x.zip") == Path("some/x.zip")


def parquet(path, keys):
    """Rows as the hub has them, two to a row group; the members they stand for."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as file

    rows = [
        {
            **{c: {"bytes": f"{c}{k}".encode(), "path": None} for c in ("image", "annotation")},
            "annotation_rgb": {"bytes": b"rgb", "path": None},
            **{"id": k, "material": "Wood", "content": 'Maps, "plans"'},
        }
        for k in keys
    ]
    file.write_table(arrow.Table.from_pylist(rows), path, row_group_size=2)
    return {f"{c}/{k}.png": f"{c}{k}".encode() for c in ("image", "annotation") for k in keys}


def test_parquet_of_the_hub(tmp_path):
    members = parquet(tmp_path / "a.parquet", "pqr") | parquet(tmp_path / "b.parquet", "s")
    recipe = PackRecipe(load_task("damage"), shard_samples=3)
    sources = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    packed = pack(sources, tmp_path / "t.zip", recipe=recipe)
    assert (packed.members, packed.shards) == (9, 2)
    found = {k: v for path in shards(tmp_path) for k, v in contents(path).items()}
    table = found.pop("metadata.csv").decode().splitlines()
    assert found == members
    assert table[:2] == ["id,material,content", 'p,Wood,"Maps, ""plans"""']
    stores = open_stores(shards(tmp_path))
    assert len(find_samples(stores, recipe.task, "val", ("material", "Wood"))) == 4


@pytest.mark.parametrize("content", [b"", b"hello" * 100])
def test_parquet_that_is_none_or_cannot_be_read(content, tmp_path, capsys):
    (tmp_path / "a.parquet").write_bytes(content)
    assert main([str(tmp_path / "a.parquet"), str(tmp_path / "t.zip")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'a.parquet'}: ")
    assert error.count("\n") == 1
    assert "not a parquet file" in error or "pip install pyarrow" in error
