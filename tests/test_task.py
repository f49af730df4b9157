"""Tasks are plain values: they survive JSON, and a mistake in one is named by its key."""

import json
from pathlib import Path

import pytest
from cityscapesscripts.helpers.labels import labels

from datasets import TASKS, load_task
from datasets.cityscapes import NOT_IN_BENCHMARK, RARE
from datasets.task import IGNORE, Mask, Task, UserError, read_task

FILES = sorted((Path(__file__).parents[1] / "datasets").glob("*.json"))
EVERY_TASK = {**TASKS, **{path.stem: load_task(str(path)) for path in FILES}}


@pytest.mark.parametrize("name", EVERY_TASK)
def test_round_trip_through_json(name):
    task = EVERY_TASK[name]
    again = Task.from_json(json.loads(json.dumps(task.to_json())))
    assert again == task
    assert again.outputs == task.outputs
    assert again.to_json() == task.to_json()


def test_round_trip_through_a_file(tiny_task, tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny_task.to_json()))
    assert read_task(path) == tiny_task
    assert load_task(str(path)) == tiny_task


@pytest.mark.parametrize("name", EVERY_TASK)
def test_a_task_keeps_its_own_rules(name):
    task = EVERY_TASK[name]
    assert task.name == name
    for output in task.outputs:
        channels = {"classes": len(output.labels), "normals": 3}
        assert output.channels == channels.get(output.kind, 1)
        if output.kind == "classes":
            assert not set(output.values) & set(output.ignored)
            assert len(set(output.classes)) == len(output.classes)
            assert IGNORE in output.ignored


def test_output_names_are_unique_over_all_tasks():
    names = [output.name for task in EVERY_TASK.values() for output in task.outputs]
    assert len(set(names)) == len(names)


def test_the_19_classes_of_cityscapes():
    (output,) = TASKS["cityscapes"].outputs
    official = sorted((x for x in labels if 0 <= x.trainId < 255), key=lambda x: x.trainId)
    assert list(output.classes) == [label.name for label in official]
    assert list(output.values) == [label.id for label in official]
    assert list(output.colors) == ["{:02X}{:02X}{:02X}".format(*label.color) for label in official]
    others = {label.id for label in labels if label.ignoreInEval and label.id >= 0}
    assert set(output.ignored) == others | {255}


def test_24_of_the_30_annotated_classes():
    (output,) = TASKS["cityscapes24"].outputs
    annotated = {label.name: label for label in labels if label.id >= 4}
    assert len(annotated) == 30
    assert set(output.classes) == set(annotated) - set(RARE)
    assert len(output.classes) == 24
    for name, value, color in zip(output.classes, output.values, output.colors, strict=True):
        assert value == annotated[name].id
        assert color == "{:02X}{:02X}{:02X}".format(*annotated[name].color)
    assert set(NOT_IN_BENCHMARK) == {name for name, x in annotated.items() if x.trainId == 255}


def test_the_16_classes_of_damage():
    (output,) = TASKS["damage"].outputs
    assert len(output.classes) == 16
    assert output.values == tuple(range(16))
    assert output.ignored == (255,)
    assert (output.classes[0], output.classes[5], output.classes[15]) == (
        "Clean",
        "Hair",
        "Lightleak",
    )
    assert (output.colors[1], output.colors[15]) == ("1CE6FF", "F6FF1B")
    assert output.ignored_colors == ("5A0007",)


def test_mask_and_depth_have_a_decoder_each():
    mask, depth = TASKS["maskdepth"].outputs
    assert (mask.kind, depth.kind) == ("mask", "depth")
    assert mask.decoder != depth.decoder
    assert depth.weight == 2 * mask.weight


def test_example_tasks():
    (camvid,), (neu,) = EVERY_TASK["camvid"].outputs, EVERY_TASK["neu_seg"].outputs
    assert (len(camvid.classes), camvid.ignored) == (11, (11, 255))
    assert len(neu.classes) == 4
    (crack,) = EVERY_TASK["deepcrack"].outputs
    assert crack.kind == "mask"
    metres, nyu40 = EVERY_TASK["nyuv2"].outputs
    assert (metres.scale, metres.unit, metres.missing) == (0.001, "m", 0)
    assert not set(nyu40.ignored) & set(nyu40.values)


BASE = {
    "name": "t",
    "image": "i/{key}.png",
    "outputs": [{"name": "m", "kind": "mask", "files": "m/{key}.png"}],
    "best": "m/iou",
}


def test_the_least_that_makes_a_task():
    task = Task.from_json(BASE)
    assert task.outputs[0].loss == "bce"
    assert task.outputs[0].decoder == "m"


def test_a_task_written_before_a_key_was_there_loads(tiny_task):
    value = tiny_task.to_json()
    for each in value["outputs"]:
        del each["channel"]
        if each["kind"] == "mask":
            del each["colors"], each["ignored_colors"]
    assert Task.from_json(value) == tiny_task


def changed(**values):
    return {**BASE, **values}


def output(**values):
    return changed(outputs=[{**BASE["outputs"][0], **values}])


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({k: v for k, v in BASE.items() if k != "name"}, "'name' is missing"),
        ({k: v for k, v in BASE.items() if k != "image"}, "'image' is missing"),
        ({k: v for k, v in BASE.items() if k != "best"}, "'best' is missing"),
        ({k: v for k, v in BASE.items() if k != "outputs"}, "key 'outputs' is missing"),
        (changed(outputs=[]), "no outputs"),
        (changed(outputs={"m": {}}), "outputs: expected a list"),
        (changed(outputs=[7]), "expected an object for output"),
        (changed(colour="red"), "unknown key 'colour'"),
        (changed(val_share="0.1"), "val_share: expected a number"),
        (changed(val_share=1.0), "val_share is 1.0"),
        (changed(resize=1), "resize: expected true or false"),
        (changed(zoom=[1]), "zoom is (1,)"),
        (changed(zoom=[2, 1]), "zoom is (2, 1)"),
        (changed(zoom=["a", "b"]), "zoom: expected a list, each a number"),
        (changed(split="random"), "split is 'random'"),
        (changed(splits={"train": 1}), "splits"),
        (changed(image="i/{name}.png"), "has no {key}"),
        (changed(best="other/iou"), "best is 'other/iou'"),
        (changed(name="a/b"), "task name 'a/b'"),
        (changed(defaults=[1]), "defaults: expected an object"),
        (changed(outputs=BASE["outputs"] * 2), "same name: m, m"),
        (output(kind="boxes"), "kind is 'boxes'"),
        (output(kind="classes"), "0 classes"),
        (output(kind="classes", classes=["a"]), "1 classes"),
        (output(kind="classes", classes="abc"), "classes: expected a list, each text"),
        (output(kind="classes", classes=["a", "b"], colors=["000000"]), "1 colors for 2"),
        (output(kind="classes", classes=["a", "b"], colors=["000000", "red"]), "colour 'red'"),
        (output(kind="classes", classes=["a", "b"], values=[3, 3]), "stands for two classes"),
        (output(kind="classes", classes=["a", "b", "a"]), "two classes have one name: ('a', 'b'"),
        (
            output(kind="classes", classes=["a", "b"], values=["3", "4"]),
            "values: expected a list, each a whole number",
        ),
        (output(kind="depth", max_depth=0), "max_depth"),
        (output(kind="depth", scale=-1), "scale"),
        (output(weight="2"), "weight: expected a number"),
        (output(thresh=3), "unknown key 'thresh'"),
        (output(scale=0.5), "output m: scale is a key of depth, not of mask"),
        (output(kind="depth", ignored=[7]), "output m: ignored is a key of classes and mask, not"),
        (output(kind=None), "kind is None"),
        (
            output(kind="classes", classes=["a", "b"], values=[True, 2]),
            "values: expected a list, each a whole number",
        ),
        ({**BASE, "outputs": [{"name": "m", "files": "m/{key}.png"}]}, "'kind' is missing"),
        ({**BASE, "outputs": [{"name": "m", "kind": "mask"}]}, "'files' is missing"),
        (output(files=BASE["image"]), "which is the image: expected other"),
        (output(channel="r"), "output m: channel is 'r', expected R, G, B or A"),
        (output(channel=0), "channel: expected text"),
        (output(kind="normals", channel="R"), "output m: normals fill three channels, not R"),
        (output(kind="label", channel="R"), "output m: a label has no files or channels"),
        (
            output(kind="classes", classes=["a", "b"], values=[1, 256], channel="G"),
            "values (1, 256), expected 0 to 255",
        ),
        (output(colors=["FF000"]), "output m: colour 'FF000', expected six hex digits"),
        (output(colors="FF0000"), "colors: expected a list, each text"),
        (output(colors=["FF0000"], ignored_colors=["red"]), "output m: colour 'red'"),
        (output(colors=["FF0000"], threshold=1), "output m: expected colors or threshold, not"),
        (output(colors=["FF0000"], ignored=[7]), "output m: expected colors or ignored, not both"),
        (output(colors=["FF0000"], channel="A"), "output m: expected colors or channel, not both"),
        (output(ignored_colors=["FF0000"]), "output m: ignored_colors, but colors is missing"),
        (
            output(colors=["FF00aa"], ignored_colors=["ff00AA"]),
            "output m: colour FF00AA is in colors and ignored_colors",
        ),
        (output(kind="depth", colors=["FF0000"]), "colors is a key of classes and mask, not of"),
        (output(name="a.b"), "'a.b'"),
        (output(name="a/b"), "'a/b'"),
        (output(name=""), "output name"),
    ],
)
def test_mistakes_are_named(value, named, tmp_path):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError) as caught:
        read_task(path)
    assert named in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[1, 2]", b'"text"', b"\xff\xfe\x00", b"null"])
def test_files_that_are_no_tasks(data, tmp_path):
    path = tmp_path / "wrong.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="not a task") as caught:
        read_task(path)
    assert str(path) in str(caught.value)


def test_missing_and_unknown_tasks(tmp_path):
    with pytest.raises(ValueError, match="none.json: cannot be read"):
        read_task(tmp_path / "none.json")
    with pytest.raises(ValueError, match="--task street: expected one of damage, cityscapes"):
        load_task("street")


def test_an_output_says_its_own_keys_alone():
    """A file of one kind never shows settings that mean nothing there."""
    shared = {"name", "kind", "files", "decoder", "loss", "weight", "channel"}
    mask, depth = TASKS["maskdepth"].to_json()["outputs"]
    assert mask.keys() == shared | {"threshold", "ignored", "colors", "ignored_colors"}
    assert depth.keys() == shared | {"scale", "max_depth", "unit", "missing"}


def test_an_output_is_frozen():
    mask = Mask("m", "m/{key}.png")
    with pytest.raises(AttributeError):
        mask.name = "n"


HOSTILE = {
    "brackets": (b'{"name": ' + b"[" * 50_000, "brackets"),
    "a long number": (
        b'{"outputs": [], "rotate": 1' + b"0" * 400 + b"}",
        "rotate: expected a number",
    ),
    "longer than Python reads": (b'{"rotate": 1' + b"0" * 5000 + b"}", "not a task"),
    "in a list": (
        b'{"outputs": [], "zoom": [1, 1' + b"0" * 400 + b"]}",
        "zoom: expected a list, each a number",
    ),
    "half a character": (b'{"name": "t", "image": "\\ud800/{key}.png"}', "surrogate"),
    "half a character as a key": (b'{"\\udfff": 1}', "surrogate"),
    "megabytes": (b'{"name": "' + b"n" * 2_000_000 + b'"}', "larger than 1 MB"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_made_to_break_the_reader_is_named_in_a_short_line(what, tmp_path):
    data, named = HOSTILE[what]
    (tmp_path / "t.json").write_bytes(data)
    with pytest.raises(UserError, match=named) as caught:
        read_task(tmp_path / "t.json")
    assert str(tmp_path / "t.json") in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("key", ["weight", "threshold", "ignored", "scale", "max_depth"])
def test_no_number_of_an_output_is_beyond_arithmetic(key, tiny_task):
    value = tiny_task.to_json()
    output = next(output for output in value["outputs"] if key in output)
    output[key] = [10**400] if key == "ignored" else 10**400
    with pytest.raises(UserError, match=f"^{key}: expected"):
        Task.from_json(value)


def test_a_task_of_thousands_of_outputs_is_refused(tiny_task):
    value = tiny_task.to_json()
    value["outputs"] = [{**value["outputs"][1], "name": f"m{i}"} for i in range(5000)]
    with pytest.raises(UserError, match="5000 outputs, expected at most 64"):
        Task.from_json(value | {"best": "m0/iou"})
