"""The index: each image of a split with its own targets, the same from any store, or an error."""

import pickle
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from datasets import TASKS, load_task
from datasets.dataset import BadMember, DenseDataset
from datasets.index import compile_template, find_samples
from datasets.index.left_out import left_out
from datasets.index.sources import ImageSource, result_paths
from datasets.stores import open_stores, write_hdf5, write_zip
from datasets.task import Mask, Task, UserError

DATA = Path(__file__).parents[2] / "shared" / "data"
CITYSCAPES, DAMAGE, MASKDEPTH = TASKS["cityscapes"], TASKS["damage"], TASKS["maskdepth"]


def real(*parts):
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return open_stores([path])


def task_of(image, *files, **settings):
    """A task with one mask output a template."""
    outputs = tuple(Mask(name=f"mask{i}", files=f) for i, f in enumerate(files))
    return Task(name="t", image=image, outputs=outputs, best="mask0/iou", **settings)


PLAIN = task_of("image/{key}.*", "mask/{key}.png")


def zip_of(path, *names, **contents):
    write_zip(path, [(name, contents.get(name, name.encode())) for name in names])
    return path


def rows(table):
    """(image, targets...) as (shard, name), in the table's order."""
    fields = [name[7:] for name in table.columns if name.startswith("member:")]
    places = [tuple(table.target(i, name) for name in fields) for i in range(len(table))]
    return [tuple((s, table.stores[s].names()[m]) for s, m in place) for place in places]


def both(stores, task, split_by=None):
    return [find_samples(stores, task, split, split_by) for split in ("train", "val")]


def assert_apart(train, val):
    """Neither side is empty, nor does any image occur on both."""
    sides = [{table.image(i) for i in range(len(table))} for table in (train, val)]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert [len(side) for side in sides] == [len(train), len(val)]


def assert_same_keys(table):
    """Each target's file is named like its image's."""
    stems = [[Path(name).stem for _, name in row] for row in rows(table)]
    assert all(len(set(row)) == 1 for row in stems)


@pytest.mark.parametrize(
    ("template", "name", "fields"),
    [
        ("image/{key}.*", "image/a.png", {"key": "a"}),
        ("image/{key}.*", "any/folders/image/a.b.png", {"key": "a.b"}),
        ("image/{key}.*", "myimage/a.png", None),
        ("image/{key}.*", "image/sub/a.png", None),
        ("image/{key}.*", "image/a.png/b", None),
        ("{city}_x/{key}.png", "bonn_x_x/1.png", {"city": "bonn_x", "key": "1"}),
        ("{city}_{key}_x.png", "bonn_1_2_x.png", {"city": "bonn", "key": "1_2"}),
        ("{key}_x*.png", "1_x.png", {"key": "1"}),
        ("{key}_x*.png", "1_xyz.png", {"key": "1"}),
        ("{city}/{city}_{key}.png", "bonn/bonn_1.png", {"city": "bonn", "key": "1"}),
        ("{city}/{city}_{key}.png", "bonn/berlin_1.png", None),
        ("*/r*_{key}.png", "cam2/run_7.png", {"key": "7"}),
        ("a+(b)/{key}.png", "a+(b)/ä.png", {"key": "ä"}),
        ("{key}.png", "1xpng", None),
        ("photos/{key}.png", "photos/a.PNG", {"key": "a"}),
        ("photos/{key}.png", "Photos/a.png", None),
        ("image/{key}.*", "image/a.TIFF", {"key": "a"}),
        ("image/{key}.*", "image/notes.txt", None),
        ("a\u0308/{key}.png", "\u00e4/1.png", {"key": "1"}),
    ],
)
def test_templates(template, name, fields):
    match = compile_template(template).fullmatch(name)
    assert (match and match.groupdict()) == fields


@pytest.mark.parametrize("template", ["", "/a/{key}", "{key", "{k-y}.png", "{a}{b}.png", "{a}*"])
def test_bad_templates(template):
    with pytest.raises(ValueError, match="template"):
        compile_template(template)


@pytest.mark.parametrize("kind", ["folder", "zip", "h5"])
def test_order_and_split_do_not_depend_on_the_store(kind, tmp_path):
    names = [f"{f}/{k:02d}.png" for k in np.random.default_rng(0).permutation(30)
             for f in ("mask", "image")]  # fmt: skip
    members = [(name, name.encode()) for name in names]
    for name, data in members:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(data)
    write_zip(tmp_path / "s.zip", members)
    write_hdf5(tmp_path / "s.h5", members)
    paths = {"folder": tmp_path / "folder", "zip": tmp_path / "s.zip", "h5": tmp_path / "s.h5"}
    train, val = both(open_stores([paths[kind]]), PLAIN)
    assert_apart(train, val)
    # The three keys whose BLAKE2b hash comes first: no change of code may move samples across.
    assert [val.key(i)[6:8] for i in range(len(val))] == ["17", "18", "29"]
    assert len(train) == 27
    assert [train.key(i) for i in range(27)] == sorted(train.key(i) for i in range(27))
    for table in (train, val, pickle.loads(pickle.dumps(val))):
        assert_same_keys(table)
        shard, member = table.target(0, "mask0")
        assert table.stores[shard].read_at(member) == b"mask/" + table.key(0)[6:].encode()


def test_no_group_on_both_sides(tmp_path):
    names = [f"{f}/scene{s}_{k}.png" for f in ("image", "mask") for s in range(7) for k in range(5)]
    stores = open_stores([zip_of(tmp_path / "s.zip", *names)])
    task = task_of("image/{group}_{key}.png", "mask/{group}_{key}.png", val_share=0.3)
    train, val = both(stores, task)
    scenes = [{t.key(i).split("_")[0] for i in range(len(t))} for t in (train, val)]
    assert not scenes[0] & scenes[1]
    assert [len(side) for side in scenes] == [5, 2]
    assert [len(train), len(val)] == [25, 10]


def test_tail_takes_the_last_names(tmp_path):
    names = [f"{f}/{k}.png" for f in ("image", "mask") for k in range(10)]
    task = task_of("image/{key}.png", "mask/{key}.png", split="tail", val_share=0.2)
    val = find_samples(open_stores([zip_of(tmp_path / "s.zip", *names)]), task, "val")
    assert [val.key(i) for i in range(len(val))] == ["image/8.png", "image/9.png"]


@pytest.mark.parametrize("split", ["hash", "tail"])
@pytest.mark.parametrize("val_share", [0.001, 0.5, 0.999])
def test_two_samples_are_enough_and_one_is_not(split, val_share, tmp_path):
    task = task_of("image/{key}.png", "mask/{key}.png", split=split, val_share=val_share)
    two = zip_of(tmp_path / "two.zip", "image/a.png", "image/b.png", "mask/a.png", "mask/b.png")
    train, val = both(open_stores([two]), task)
    assert_apart(train, val)
    one = open_stores([zip_of(tmp_path / "one.zip", "image/a.png", "mask/a.png")])
    with pytest.raises(ValueError, match="at least two"):
        find_samples(one, task, "train")


def test_cityscapes_images_and_labels_in_two_zips(tmp_path):
    frames = [
        ("train", "bonn", 1),
        ("train", "aachen", 1),
        ("val", "lindau", 2),
        ("test", "ulm", 3),
    ]
    images = [f"leftImg8bit/{s}/{c}/{c}_{n}_leftImg8bit.png" for s, c, n in frames]
    labels = [f"gtFine/{s}/{c}/{c}_{n}_gtFine_labelIds.png" for s, c, n in frames[:3]]
    extra = [f"gtFine/train/bonn/bonn_1_gtFine_{what}" for what in ("color.png", "polygons.json")]
    zip_of(tmp_path / "leftImg8bit_trainvaltest.zip", *images, "README")
    zip_of(tmp_path / "gtFine_trainvaltest.zip", *extra, *labels, "README")
    stores = open_stores([tmp_path])
    assert rows(find_samples(stores, CITYSCAPES, "train")) == [
        ((1, images[1]), (0, labels[1])),
        ((1, images[0]), (0, labels[0])),
    ]
    assert rows(find_samples(stores, CITYSCAPES, "val")) == [((1, images[2]), (0, labels[2]))]
    with pytest.raises(ValueError, match="leftImg8bit_trainvaltest.zip: leftImg8bit/test/ulm/ulm_3_"
                       "leftImg8bit.png: no target for cityscapes, expected gtFine/test/ulm/ulm_3_"
                       "gtFine_labelIds.png"):  # fmt: skip
        find_samples(stores, CITYSCAPES, "test")
    assert len(find_samples(stores, CITYSCAPES, "val", ("city", "aachen"))) == 1


def test_split_values_are_the_tasks_own(tmp_path):
    names = ("training/i/a.png", "training/m/a.png", "testing/i/b.png", "testing/m/b.png")
    stores = open_stores([zip_of(tmp_path / "s.zip", *names)])
    splits = {"train": "training", "val": "validation", "test": "testing"}
    task = task_of("{split}/i/{key}.png", "{split}/m/{key}.png", splits=splits)
    assert find_samples(stores, task, "test").key(0) == "testing/i/b.png"
    with pytest.raises(ValueError, match="'val' has no sample.*'validation', found testing, train"):
        find_samples(stores, task, "val")
    with pytest.raises(ValueError, match="'dev': expected one of train, val, test"):
        find_samples(stores, task, "dev")


def course_zip(path, part, keys=("img_0001", "img_0002"), without=()):
    folders = (f"bg_fg_{part}", f"bg_fg_mask_{part}", "depthMap")
    names = [f"{folder}/{key}.jpg" for folder in folders for key in keys]
    return zip_of(path, *(name for name in names if name not in without))


def test_course_zips_repeat_names_and_each_means_its_own(tmp_path):
    for n in (1, 2, 3):
        course_zip(tmp_path / f"output_{n}.zip", n)
    train, val = both(open_stores([tmp_path]), MASKDEPTH)
    assert_apart(train, val)
    assert len(train) + len(val) == 6  # masks fit the image template too, yet are no images
    for table in (train, val):
        assert_same_keys(table)
        for (shard, image), (of_mask, mask), (of_depth, depth) in rows(table):
            assert shard == of_mask == of_depth
            assert mask.replace("_mask", "") == image
            assert depth.startswith("depthMap/")


def test_course_zips_unpacked_side_by_side(tmp_path):
    for n in (1, 2):
        course_zip(tmp_path / "z.zip", n)
        shutil.unpack_archive(tmp_path / "z.zip", tmp_path / "all" / f"output_{n}")
    train, val = both(open_stores([tmp_path / "all"]), MASKDEPTH)
    for row in rows(train) + rows(val):
        assert len({name.split("/")[0] for _, name in row}) == 1


def test_a_missing_target_is_not_borrowed_from_another_shard(tmp_path):
    course_zip(tmp_path / "output_1.zip", 1, without=("depthMap/img_0002.jpg",))
    course_zip(tmp_path / "output_2.zip", 2)
    stores = open_stores([tmp_path])
    with pytest.raises(
        ValueError,
        match="output_1.zip: bg_fg_1/img_0002.jpg: no target .* expected depthMap/img_0002.jpg",
    ):
        find_samples(stores, MASKDEPTH, "val", ("part", "1"))
    assert len(find_samples(stores, MASKDEPTH, "train", ("part", "1"))) == 2  # shard 2 is whole


def test_two_targets_that_fit_are_both_named(tmp_path):
    zip_of(tmp_path / "a.zip", "image/1.png", "image/2.png")
    zip_of(tmp_path / "b.zip", "mask/1.png", "mask/2.png")
    zip_of(tmp_path / "c.zip", "mask/1.png", "mask/2.png")
    stores = open_stores([tmp_path])
    with pytest.raises(ValueError, match=r"image/.\.png: two targets .*b.zip: mask.*c.zip: mask"):
        find_samples(stores, PLAIN, "val")
    own = zip_of(tmp_path / "d.zip", "image/1.png", "image/2.png", "mask/1.png", "mask/2.png")
    stores = open_stores([own, tmp_path / "b.zip"])
    assert {shard for row in rows(find_samples(stores, PLAIN, "train")) for shard, _ in row} == {0}


def test_no_image_names_paths_and_template_and_what_lies_there(tmp_path):
    names = [f"images/{k}.jpg" for k in range(3)] + ["labels/0.PNG", "labels/1.PNG", "a.csv"]
    stores = open_stores([zip_of(tmp_path / "s.zip", *names)])
    said = r"s\.zip: no image fits image/\{key\}\.\*; there are 3 images/\*.jpg, 2 labels/\*.PNG, 1"
    with pytest.raises(ValueError, match=said):
        find_samples(stores, PLAIN, "train")


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["masks/0.png", "masks/1.png"], "; 2 of 2 images have none; near it lies masks/0.png"),
        (["mask/0_m.png", "mask/1.png"], "expected mask/0.png; near it lies mask/0_m.png"),
        (["mask/1.png"], "expected mask/0.png; there are "),
    ],
)
def test_no_target_tells_how_many_and_what_is_near(targets, said, tmp_path):
    images = ("image/0.png", "image/1.png")
    stores = open_stores([zip_of(tmp_path / "s.zip", *images, *targets, "x/y.txt")])
    task = task_of("{split}/{key}.png", "mask/{key}.png", splits={"train": "image"})
    with pytest.raises(ValueError, match=re.escape(said)):
        find_samples(stores, task, "train")


def test_so_many_images_may_have_no_target(tmp_path):
    names = [f"image/{k}.png" for k in range(4)] + ["mask/1.png", "mask/3.png"]
    stores = open_stores([zip_of(tmp_path / "s.zip", *names)])
    task = task_of("{split}/{key}.png", "mask/{key}.png", splits={"train": "image"})
    table = find_samples(stores, task, "train", unlabelled=2)
    assert [table.target(i, "mask0")[1] for i in range(4)] == [-1, 4, -1, 5]
    with pytest.raises(ValueError, match=r"image/0\.png: no target .*2 of 4 images have none"):
        find_samples(stores, task, "train", unlabelled=1)
    with pytest.raises(BadMember, match=r"image/2\.png: no target for mask0, expected mask/2\.png"):
        DenseDataset(table, task).read(2, "mask0")


def test_what_nobody_reads_is_counted_with_an_example_each(tmp_path):
    task = task_of("photos/{key}.png", "masks/{key}.png", metadata="metadata.csv")
    names = [f"{f}/{k}.png" for f in ("photos", "masks") for k in range(3)]
    known = ["metadata.csv", "photos/0.json", "README.md", "other/0.png", "photos/._0.heic"]
    stores = open_stores([zip_of(tmp_path / "s.zip", *names, *known)])
    assert left_out(stores, task) == left_out(stores) == ""
    more = ["photos/a.heic", "photos/b.jpg", "masks/7.png", "masks/0.npy"]
    stores = open_stores([zip_of(tmp_path / "s.zip", *names, *known, *more)])
    assert left_out(stores, task) == (
        "left out: 3 of a suffix that is not read (photos/a.heic), "
        "1 targets without an image (masks/7.png)"
    )
    assert left_out(stores) == "left out: 2 of a suffix that is not read (photos/a.heic)"


def test_pictures_beside_a_shard_are_counted(tmp_path):
    names = [f"{f}/{k}.png" for f in ("image", "mask") for k in range(3)]
    path = zip_of(tmp_path / "s.zip", *names)
    (tmp_path / "README.txt").write_text("read me")
    assert left_out(open_stores([tmp_path]), PLAIN) == ""
    for name in ("a.PNG", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    said = "left out: 2 pictures beside a shard (a.PNG)"
    assert [left_out(open_stores([tmp_path]), each) for each in (PLAIN, None)] == [said, said]
    assert left_out(open_stores([path]), PLAIN) == ""
    assert left_out(open_stores([str(tmp_path / "sub")]), None) == ""


@pytest.mark.parametrize(
    "name", ["eva4_sample", "camvid", "nyuv2", "damage/neu_seg", "damage/deepcrack",
             "damage/artefact_layout"])  # fmt: skip
def test_nothing_of_real_sets_is_said_to_be_left_out(name):
    tasks = {"eva4_sample": "maskdepth", "damage/artefact_layout": "damage"}
    known = Path(__file__).parents[1] / "datasets" / f"{Path(name).name}.json"
    assert left_out(real(name), load_task(tasks.get(name, str(known)))) == ""


def test_long_names_are_cut_and_stay_apart(tmp_path):
    long = ["ä" * 100 + str(k) for k in range(2)]
    sources = [ImageSource(f"sub/{name}.png", name, bytes) for name in ("a.b", *long)]
    short, *cut = result_paths(sources, tmp_path)
    assert short == tmp_path / "sub/a.b"
    assert len(set(cut)) == 2
    for path in cut:
        assert path.parent == tmp_path / "sub"
        assert path.name.startswith("ä" * 90 + "~")
        path.parent.mkdir(exist_ok=True)
        path.with_name(f".{path.name}_damage_view.png.4194304.part").write_bytes(b"")


def test_who_has_no_target_is_not_drawn_to_validate(tmp_path):
    for absent in range(4):
        names = [f"{f}/{k}.png" for f in ("image", "mask") for k in range(4)]
        names.remove(f"mask/{absent}.png")
        stores = open_stores([zip_of(tmp_path / f"{absent}.zip", *names)])
        train, val = (find_samples(stores, PLAIN, s, unlabelled=1) for s in ("train", "val"))
        assert_apart(train, val)
        assert len(train) + len(val) == 4
        assert f"image/{absent}.png" in [train.key(i) for i in range(len(train))]


def test_no_test_split_without_one_in_the_names(tmp_path):
    names = ("image/a.png", "image/b.png", "mask/a.png", "mask/b.png")
    stores = open_stores([zip_of(tmp_path / "s.zip", *names)])
    with pytest.raises(ValueError, match="'test' has no sample"):
        find_samples(stores, PLAIN, "test")
    with pytest.raises(ValueError, match="'test' has no sample"):
        find_samples(stores, PLAIN, "test", ("key", "a"))


def test_templates_that_share_no_field_are_refused(tmp_path):
    stores = open_stores([zip_of(tmp_path / "s.zip", "image/a.png", "image/b.png", "mask/a.png")])
    with pytest.raises(ValueError, match=r"mask0: mask/\{other\}.png shares no field"):
        find_samples(stores, task_of("image/{key}.png", "mask/{other}.png"), "train")


CSV = '\ufeffid,material,content\r\na,Wood,Line art\r\nb,Wood,"Maps, plans"\r\nc,Glass,Line art\r\n'


def artefacts(path, table=CSV, name="metadata.csv"):
    names = [f"{folder}/{key}.png" for folder in ("image", "annotation") for key in "abc"]
    write_zip(path, [(n, b"") for n in names] + [(name, table.encode())])
    return open_stores([path])


@pytest.mark.parametrize("name", ["metadata.csv", "artefact/metadata.csv"])
def test_leave_one_value_out(name, tmp_path):
    stores = artefacts(tmp_path / "s.zip", name=name)
    train, val = both(stores, DAMAGE, ("content", "Line art"))
    assert [val.key(i) for i in range(len(val))] == ["image/a.png", "image/c.png"]
    assert [train.key(i) for i in range(len(train))] == ["image/b.png"]
    train, val = both(stores, DAMAGE, ("content", "Maps, plans"))
    assert [len(train), len(val)] == [2, 1]


@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_as_spreadsheets_write_them(sign, encoding, tmp_path):
    rows = [("id", "content"), ("a", "Gema\u0308lde"), ("b", "x, y; z"), ("c", "Gem\u00e4lde")]
    lines = [sign.join(f'"{value}"' for value in row) for row in rows]
    members = [(f"{folder}/{k}.png", b"") for folder in ("image", "annotation") for k in "abc"]
    members.append(("metadata.csv", "\r\n".join(lines).encode(encoding)))
    write_zip(tmp_path / "s.zip", members)
    val = find_samples(open_stores([tmp_path]), DAMAGE, "val", ("content", "Gema\u0308lde"))
    assert [val.key(i) for i in range(len(val))] == ["image/a.png", "image/c.png"]


@pytest.mark.parametrize(
    ("split_by", "what"),
    [
        (("colour", "red"), "'colour': no such field, expected one of key, id, material, content"),
        (("content", "Poster"), "'Poster', expected one of Line art, Maps, plans"),
    ],
)
def test_split_by_what_is_not_there(split_by, what, tmp_path):
    with pytest.raises(ValueError, match=what):
        find_samples(artefacts(tmp_path / "s.zip"), DAMAGE, "val", split_by)


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ("id,content\na,x\nb,y\n", "image/c.png: metadata.csv has no row with the id 'c'"),
        ("key,content\na,x\n", "expected a column id, found key, content"),
        ("id,content\na,x,z\n", "the row of 'a' has too many"),
        ("id,content\na\n", "the row of 'a' has too many or few"),
        ("id,content\na,x\na,y\n", "'a' has two different rows"),
        ('id,content\na,"x\n', "not a CSV"),
    ],
)
def test_metadata_that_does_not_fit(table, what, tmp_path):
    with pytest.raises(ValueError, match=what):
        find_samples(artefacts(tmp_path / "s.zip", table), DAMAGE, "val", ("content", "x"))


def test_metadata_that_is_missing(tmp_path):
    stores = artefacts(tmp_path / "s.zip", name="other.csv")
    with pytest.raises(ValueError, match="'content': no such field.* key .metadata.csv was not f"):
        find_samples(stores, DAMAGE, "val", ("content", "x"))
    names = ("image/a.png", "mask/a.png")
    with pytest.raises(ValueError, match="'content': no such field, expected one of key$"):
        find_samples(
            open_stores([zip_of(tmp_path / "t.zip", *names)]), PLAIN, "val", ("content", "")
        )


def test_split_by_a_field_of_the_names_ignores_their_split(tmp_path):
    takes = (("train", "sun"), ("train", "rain"), ("val", "rain"))
    names = [f"{s}/{k}/{w}_{c}.png" for s, w in takes for k in ("i", "m") for c in "12"]
    stores = open_stores([zip_of(tmp_path / "s.zip", *names)])
    task = task_of("{split}/i/{weather}_{key}.png", "{split}/m/{weather}_{key}.png")
    train, val = both(stores, task, ("weather", "rain"))
    assert [train.key(i) for i in range(len(train))] == ["train/i/sun_1.png", "train/i/sun_2.png"]
    assert [val.key(i)[:4] for i in range(len(val))] == ["trai", "trai", "val/", "val/"]


def test_split_by_leaves_the_test_split_alone(tmp_path):
    takes = [(s, w) for s in ("train", "val", "test") for w in ("sun", "rain")]
    names = [f"{s}/{k}/{w}_{c}.png" for s, w in takes for k in ("i", "m") for c in "12"]
    stores = open_stores([zip_of(tmp_path / "s.zip", *names)])
    task = task_of("{split}/i/{weather}_{key}.png", "{split}/m/{weather}_{key}.png")
    seen = [t.key(i) for t in both(stores, task, ("weather", "rain")) for i in range(len(t))]
    assert len(seen) == 8
    assert not [name for name in seen if name.startswith("test/")]
    assert len(find_samples(stores, task, "test")) == 4
    with pytest.raises(ValueError, match="no sample has the value 'test', expected one of train"):
        find_samples(stores, task, "val", ("split", "test"))


def test_a_split_by_value_that_all_have(tmp_path):
    stores = artefacts(tmp_path / "s.zip", "id,content\na,x\nb,x\nc,x\n")
    with pytest.raises(ValueError, match="'train' has no sample"):
        find_samples(stores, DAMAGE, "train", ("content", "x"))


def test_real_course_zip():
    stores = real("eva4_sample")
    train, val = both(stores, MASKDEPTH)
    assert [len(train), len(val)] == [9, 1]
    for table in (train, val):
        assert_same_keys(table)
        for i in range(len(table)):
            for shard, member in (
                table.image(i),
                table.target(i, "mask"),
                table.target(i, "depth"),
            ):
                assert stores[shard].read_at(member)[:3] == b"\xff\xd8\xff"  # a JPEG


def test_real_artefact_layout():
    stores = real("damage", "artefact_layout")
    train, val = both(stores, DAMAGE)
    assert_apart(train, val)
    assert len(train) + len(val) == 1458
    assert len(val) == round(0.15 * 1458)
    lines = stores[0].read("metadata.csv").decode().splitlines()[1:]
    left_out = lines[0].split(",")[1]
    train, val = both(stores, DAMAGE, ("material", left_out))
    assert len(train) + len(val) == 1458
    material = {line.split(",")[0]: line.split(",")[1] for line in lines}
    for table, expected in ((train, False), (val, True)):
        assert_same_keys(table)
        keys = [Path(table.key(i)).stem for i in range(len(table))]
        assert {material[key] == left_out for key in keys} == {expected}


@pytest.mark.parametrize(
    ("name", "folder", "numbers"),
    [
        ("camvid", ("camvid",), (367, 101)),
        ("nyuv2", ("nyuv2",), (928, 232)),
        ("neu_seg", ("damage", "neu_seg"), (1500, 300)),
        ("deepcrack", ("damage", "deepcrack"), (255, 45)),
    ],
)
def test_real_sets_of_the_task_files(name, folder, numbers):
    stores = real(*folder)
    path = Path(__file__).parents[1] / "datasets" / f"{name}.json"
    task = load_task(str(path))
    train, val = both(stores, task)
    assert_apart(train, val)
    assert (len(train), len(val)) == numbers
    assert_same_keys(train)
    assert_same_keys(val)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{a}_{b}_{c}_{d}_{e}_{f}_{g}_{h}_{key}.jpg", "_" * 900 + ".png"),
        ("{a}-{b}-{c}-{d}-{e}-{key}-x.*", "-" * 900 + ".png"),
        ("*_{key}_{b}/{b}.png", "_" * 300 + "/_.jpg"),
    ],
)
def test_no_name_keeps_a_template_busy(template, name):
    start = time.perf_counter()
    assert compile_template(template).match(name) is None
    assert time.perf_counter() - start < 5  # years, where every division of the name is tried


def test_fields_take_as_little_as_they_can():
    def fields(template, name):
        found = compile_template(template).match(name)
        return found and found.groupdict()

    assert fields("{a}_{key}.png", "x_y_z.png") == {"a": "x", "key": "y_z"}
    assert fields("*_{key}.png", "x_y_z.png") == {"key": "z"}
    assert fields("{a}_{b}/{b}.png", "x_y_z/z.png") == {"a": "x_y", "b": "z"}
    assert fields("{a}_{b}-{a}.png", "x_y_z-x_y.png") == {"a": "x_y", "b": "z"}
    assert fields("{a}_{b}.png", "_.png") is None


def test_a_template_of_too_many_choices_is_refused():
    with pytest.raises(UserError, match="expected at most 3"):
        compile_template("*a*b*c*d{key}")
