"""A report is one page that says what was found, needs no network, and is well-formed."""

import math
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from examples import EXAMPLES
from PIL import Image

from datasets.task import KINDS, Classes, Depth, Mask, Normals, Task
from models.heads import HEADS
from utils.metrics import metrics_of, picking_scores
from utils.pictures.gallery import SIDE, EvalSample, Gallery
from utils.run import page
from utils.run.page import Result, tag, write_page

SIZE = (11, 13)
EVIL = "<script>alert(1)</script>\"\n'&\u2028\x1b[2J"


class Page(HTMLParser):
    """Elements, text by the element that holds it, and mistakes of nesting."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], {}
        text = path.read_text(encoding="utf-8")
        self.size = path.stat().st_size
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        keys = [key for key, _ in attributes]
        assert len(keys) == len(set(keys))
        self.elements.append((name, dict(attributes)))
        if name not in ("meta", "img", "input"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if data.strip():
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, name):
        return [attributes for element, attributes in self.elements if element == name]


def results_of(output, num=12, size=SIZE, key="{}"):
    """A task of one output, and what noise scores on it."""
    example = EXAMPLES[output.kind](output)
    torch.manual_seed(0)
    rng, head = np.random.default_rng(0), HEADS[output.kind](4, output)
    best = f"{output.name}/{picking_scores(output)[0]}"
    task = Task("one", "img/{key}.png", (output,), best, metadata="m.csv")
    metrics, gallery, scores = metrics_of([output]), Gallery(best, num), []
    for i in range(num):
        target = torch.from_numpy(example.target(rng, size))
        said = head.to_labels(torch.randn(1, output.channels, *(() if target.ndim == 0 else size)))
        counts = metrics_of([output])
        counts[output.name].update(said, target[None])
        metrics[output.name].add(counts[output.name])
        scores.append(counts[output.name].compute()[best.partition("/")[2]])
        image = torch.from_numpy(rng.integers(0, 256, (3, *size), np.uint8))
        sample = EvalSample(key.format(i), image, {output.name: target}, {output.name: said[0]})
        gallery.offer(sample, counts)
    return Result(task, metrics, gallery), scores


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_scores_and_its_layers(kind, tmp_path):
    output = EXAMPLES[kind]().output
    result, _ = results_of(output)
    chart = {"val/x/y": ([1, 2, 9], [0.1, 0.3, 0.2]), "val/x/baseline_y": ([1, 9], [0.1, 0.1])}
    write_page(tmp_path / "a.html", "title", {"seed": 3}, [result], [chart], result.metrics)
    found = Page(tmp_path / "a.html")
    assert found.size < 1_000_000
    scores = result.metrics[output.name].compute()
    for name, value in scores.items():
        if name.startswith("baseline_"):
            continue
        assert name in found.texts["th"]
        assert math.isnan(value) or f"{value:.4f}" in found.texts["td"]
    assert "val/x/y: best 0.3 at step 2" in found.texts["figcaption"]
    layers = [image["alt"] for image in found.all("img")]
    name = output.name
    expected = ["image", f"{name}: truth", f"{name}: prediction", f"{name}: error"]
    assert layers[:4] == expected == found.texts["button"]
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in found.all("img"))
    picture = Image.open(BytesIO(b64decode(found.all("img")[0]["src"].partition(",")[2])))
    assert picture.size == SIZE[::-1]
    assert len(found.all("input")) == len(layers) / 4 == 8 + 6


def test_nothing_in_a_name_becomes_markup_or_leaves_the_machine(tmp_path):
    output = Classes("c", "c/{key}.png", classes=(EVIL, "b", f"{EVIL}2"))
    result, _ = results_of(output, key=EVIL + "{}")
    write_page(tmp_path / "a.html", EVIL, {EVIL: EVIL}, [result], [{EVIL: ([1], [2.0])}])
    found = Page(tmp_path / "a.html")
    assert len(found.all("script")) == 1
    assert not [a for _, each in found.elements for a in each if a.startswith("on")]
    shown = "<script>alert(1)</script>\"\\n'&\\u2028\\x1b[2J"
    assert shown in found.texts["title"]
    assert shown in found.texts["dd"]
    for _, attributes in found.elements:
        for key in ("src", "href", "action", "data", "xlink:href", "srcset"):
            assert attributes.get(key, "data:").startswith("data:")
    text = re.sub(r"base64,[^\"]*", "", (tmp_path / "a.html").read_text())
    assert not re.search(r"https?://|@import|url\(", text)
    policy = next(m["content"] for m in found.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'")


def test_a_page_has_room_for_so_much(tmp_path, monkeypatch):
    """Noise is what JPEG holds worst; samples are left out in turn, none is half there."""
    result, _ = results_of(Classes("c", "c/{key}.png", classes=("a", "b")), num=14, size=(120, 120))
    whole = page.LARGEST
    write_page(tmp_path / "a.html", "t", {}, [result])
    monkeypatch.setattr(page, "LARGEST", 300_000)
    write_page(tmp_path / "b.html", "t", {}, [result])
    assert (tmp_path / "b.html").stat().st_size <= 300_000
    assert whole < 5_000_000
    few, many = (Page(tmp_path / f"{name}.html").all("img") for name in "ba")
    assert 4 <= len(few) < len(many) == 4 * 14
    assert len(few) % 4 == 0


def test_a_gallery_keeps_the_ends_and_places_far_apart():
    output = Mask("m", "m/{key}.png")
    result, scores = results_of(output, num=50)
    groups = result.gallery.groups()
    assert [sample.score for sample in groups["worst"]] == sorted(scores)[:3]
    assert [sample.score for sample in groups["best"]] == sorted(scores)[:-4:-1]
    assert all(scores[int(s.key)] == s.score for s in [*groups["worst"], *groups["best"]])
    places = [int(sample.key) for sample in groups["spread over all"]]
    assert len(places) == 8
    assert max(np.diff(places)) <= 7
    assert min(places) < 7
    assert max(places) > 43
    few = results_of(output, num=2)[0].gallery.groups()
    assert [len(each) for each in few.values()] == [1, 1, 2]


def test_an_unlabelled_sample_is_neither_best_nor_worst_and_large_ones_are_kept_small():
    output = Depth("d", "d/{key}.png", max_depth=3.0)
    gallery, counts = Gallery("d/delta1", 1), metrics_of([output])
    size = (2, 3 * SIDE + 1)
    image = torch.zeros(3, *size, dtype=torch.uint8)
    depth = torch.full(size, -1.0)
    gallery.offer(EvalSample("a", image, {"d": depth}, {"d": depth}), counts)
    assert [len(each) for each in gallery.groups().values()] == [0, 0, 1]
    (kept,) = gallery.spread
    assert kept.image.shape[1:] == kept.targets["d"].shape == (1, -(-size[1] // 4))


def test_several_outputs_share_a_slider(tmp_path):
    outputs = (Classes("c", "c/{key}.png", classes=("a", "b")), Normals("n", "n/{key}.png"))
    both = [results_of(output)[0] for output in outputs]
    sample = both[0].gallery.spread[0]
    other = both[1].gallery.spread[0]
    merged = sample._replace(
        targets={"c": sample.targets["c"]}, predictions=sample.predictions | other.predictions
    )
    task = Task("two", "img/{key}.png", outputs, "c/miou")
    gallery = Gallery("c/miou", 1)
    gallery.spread.append(merged)
    metrics = {name: metric for each in both for name, metric in each.metrics.items()}
    write_page(tmp_path / "a.html", "t", {}, [Result(task, metrics, gallery)])
    found = Page(tmp_path / "a.html")
    layers = ["image", "c: truth", "c: prediction", "c: error", "n: prediction"]
    assert [image["alt"] for image in found.all("img")] == layers  # n has no truth here
    assert found.all("input")[0]["max"] == "400"


def test_attributes_and_text_are_escaped():
    assert tag("p", "<b>", tag("i", 1), class_='"x"') == (
        '<p class="&quot;x&quot;">&lt;b&gt;<i>1</i></p>'
    )


def test_a_run_keeps_a_report_and_a_resumed_one_goes_on(run_train, tiny_json, monkeypatch):
    path, data = tiny_json
    monkeypatch.setattr("utils.run.report.PLAN_SECONDS", 0)
    words = ("--task", path, "--data", data, "--eval-steps", "2", "--lr", "0.01")
    assert run_train(*words, "--steps", "4", "--out", "run").status == 0
    found = Page(Path("run/report.html"))
    facts = dict(zip(found.texts["dt"], found.texts["dd"], strict=True))
    assert facts["samples"] == "7 of tiny train, 3 of tiny val"
    assert facts["steps"].startswith("4 of 4 in ")
    assert facts["data"] == str(data)
    assert float(re.fullmatch(r"([\d.]+) GiB a step", facts["memory plan"])[1]) < 0.2
    assert float(re.match(r"([\d.]+) GiB at most", facts["memory used"])[1]) > 0.1
    best = torch.load("run/best.pt", weights_only=True)["scores"]["parts/miou"]
    assert f"{best:.4f}" in found.texts["td"]
    names = {image["alt"] for image in found.all("img")}
    assert {"parts: error", "edge: truth", "near: prediction"} < names
    drawn = ["train/loss, val/loss", "val/parts/miou: best", "val/edge/iou: best", "train/lr"]
    captions = " ".join(found.texts["figcaption"])
    assert all(title in captions for title in drawn)
    assert run_train("--resume", "run", "--steps", "6").status == 0
    assert "run: parts/miou" in Page(Path("run/report.html")).texts["title"][0]
    assert "6 of 6 in" in Path("run/report.html").read_text()
    Path("other").mkdir()
    Path("other/report.html").write_text("<!doctype html><p>mine")
    ran = run_train(*words, "--steps", "4", "--out", "other")
    assert ran.status == 2
    assert "other/report.html: is there already and no result of this program" in ran.err
    assert [path.name for path in Path("other").iterdir()] == ["report.html"]
