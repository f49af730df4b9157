"""Writes a report of a run, or of an evaluation, as one HTML page that needs nothing else."""

import io
import math
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.task import Output, Task
from utils.command import printable
from utils.files import write_whole
from utils.maps.results import refuse_others
from utils.metrics.sums import Metrics
from utils.pictures.gallery import EvalSample, Gallery
from utils.pictures.visualize import maps_of, picture_of, pixels_of
from utils.run.charts import Chart

LARGEST = 4_900_000  # bytes of a page; samples for which there is no room are left out
CLASSES = 40  # of a confusion matrix: the most frequent ones
POINTS = 300  # of a curve, means of more
WIDTH, HEIGHT, LEFT, BOTTOM = 420, 190, 46, 20  # pixels of a chart, and of what stands beside it
COLORS = ("#1f77b4", "#ff7f0e")
RED = "#ff2020"  # of errors
TEMPLATE = Path(__file__).with_suffix(".html")


class Result(NamedTuple):
    """What was found of a task: counts by output name, and samples to look at."""

    task: Task
    metrics: Mapping[str, Metrics]
    gallery: Gallery


class Html(str):
    """Text that is markup already; any other is escaped."""


def tag(name: str, *content: object, **attributes: object) -> Html:
    """An element of HTML. A trailing _ of an attribute's name is left out."""
    inner = "".join(each if isinstance(each, Html) else _escaped(each) for each in content)
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    head = "".join([name, *(f' {key}="{_escaped(value)}"' for key, value in pairs)])
    return Html(f"<{head}>" if name in ("img", "input") else f"<{head}>{inner}</{name}>")


def _escaped(text: object) -> str:
    return escape(printable(str(text)))


def refuse_other_page(path: Path) -> None:
    """UserError: a file is there, and `write_page` has not made it."""
    refuse_others(path, TEMPLATE.read_bytes().partition(b"$title")[0])


def write_page(
    path: Path,
    title: str,
    facts: Mapping[str, object],
    results: Sequence[Result],
    charts: Sequence[Chart] = (),
    best: Mapping[str, Metrics] | None = None,
) -> None:
    """One page of at most LARGEST bytes. facts: for the head. charts: as `read_charts` gives them.
    best: what the best checkpoint has counted, by output name, beside what was counted last."""
    lower = {
        f"val/{name}/{score}"
        for result in results
        for name, metric in result.metrics.items()
        for score in metric.LOWER
    }
    parts = {
        "title": _escaped(title),
        "facts": "".join(tag("dt", name) + tag("dd", fact) for name, fact in facts.items()),
        "charts": tag("div", *(_chart(each, lower) for each in charts), class_="grid"),
        "tables": "".join(part for result in results for part in _tables(result, best or {})),
    }
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    room = LARGEST - len(template.substitute(parts, samples="").encode())
    page = template.substitute(parts, samples=_samples(results, room))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode())


def _chart(chart: Chart, lower: set[str]) -> Html:
    """A figure of curves over the steps; a constant's is dashed, a score's best is marked."""
    low, high = (f(v for _, values in chart.values() for v in values) for f in (min, max))
    last = max(steps[-1] for steps, _ in chart.values()) or 1
    log = any(key.endswith("/loss") for key in chart) and 0 < 10 * low <= high
    level = math.log if log else float
    span = level(high) - level(low) or 1.0

    def place(step: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT) * step / last
        return round(x, 1), round(
            8 + (HEIGHT - BOTTOM - 16) * (level(high) - level(value)) / span, 1
        )

    score, *_ = chart
    marks, title = [], ", ".join(key for key in chart if "/baseline_" not in key)
    for share in (0, 0.5, 1):
        value = low * (high / low) ** share if log else low + (high - low) * share
        y = place(0, value)[1]
        marks.append(tag("line", x1=LEFT, x2=WIDTH, y1=y, y2=y, stroke="#e0e0e0"))
        marks.append(tag("text", f"{value:.3g}", x=LEFT - 4, y=y + 4, text_anchor="end"))
    for step, anchor in ((0, "start"), (last, "end")):
        marks.append(tag("text", step, x=place(step, low)[0], y=HEIGHT - 2, text_anchor=anchor))
    for color, (key, (steps, values)) in zip(COLORS, chart.items(), strict=False):
        name, look = key, {"stroke": color}
        if "/baseline_" in key:
            name, look = "constant", {"stroke": "#707070", "stroke_dasharray": "5 4"}
        points = " ".join("{},{}".format(*place(*pair)) for pair in _thinned(steps, values))
        marks.append(tag("polyline", tag("title", name), points=points, **look))
    if score.startswith("val/") and score != "val/loss":
        steps, values = chart[score]
        at = int((np.argmin if score in lower else np.argmax)(values))
        title = f"{score}: best {values[at]:.4g} at step {steps[at]}"
        x, y = place(steps[at], values[at])
        marks.append(tag("circle", cx=x, cy=y, r=3.5, fill="#c0392b"))
    drawn = tag("svg", *marks, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    return tag("figure", tag("figcaption", title), drawn)


def _thinned(steps: Sequence[float], values: Sequence[float]) -> Iterable[tuple[float, float]]:
    """Points, or the means of neighbours where there are many."""
    if len(steps) <= POINTS:
        return zip(steps, values, strict=True)
    parts = (np.array_split(np.asarray(each, float), POINTS) for each in (steps, values))
    return [(float(s.mean()), float(v.mean())) for s, v in zip(*parts, strict=True)]


def _tables(result: Result, best: Mapping[str, Metrics]) -> Iterator[Html]:
    """Scores of each output; of its classes, and where their pixels went."""
    for output in result.task.outputs:
        metric = result.metrics[output.name]
        scores, known = metric.compute(), best.get(output.name)
        highest = known.compute() if known else {}
        rows = [
            (
                name,
                _number(value),
                _number(scores.get(f"baseline_{name}")),
                _number(highest.get(name)),
            )
            for name, value in scores.items()
            if not name.startswith("baseline_")
        ]
        yield tag("h2", f"{result.task.name}: {output.name}")
        yield _table(("", "score", "constant", "best step"), rows)
        classes = metric.per_class()
        if classes:
            yield tag("h3", f"classes, % (share: of the {metric.UNIT})")
            yield _table(*_class_table(output, metric, known))
        if metric.confusion is not None and metric.confusion.sum():
            yield tag("h3", f"where the {metric.UNIT} of each class went, %: truth in rows")
            yield _confusion(np.asarray(metric.confusion.cpu(), float), output.labels)


def _class_table(
    output: Output, metric: Metrics, best: Metrics | None
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows: each class, and the IoU that the constant answer has."""
    rows, most = [], max(row.share for row in metric.per_class())
    colors = dict(picture_of(output).legend([np.arange(len(output.labels))]))
    before = {row.name: row.iou for row in best.per_class()} if best else {}
    for row in metric.per_class():
        chip = _chip(colors[row.name]) if row.name in colors else Html("")
        constant = math.nan if math.isnan(row.iou) else row.share if row.share == most else 0.0
        values = (
            row.iou,
            constant,
            before.get(row.name),
            row.f1,
            row.precision,
            row.recall,
            row.share,
        )
        rows.append((Html(chip + _escaped(row.name)), *(_number(v, 100) for v in values)))
    return ("", "IoU", "constant", "best step", "F1", "precision", "recall", "share"), rows


def _confusion(counts: np.ndarray, names: Sequence[str]) -> Html:
    """A table of the most frequent classes: darker cells hold more of their row."""
    shown = np.sort(np.argsort(-counts.sum(1), kind="stable")[:CLASSES])
    head = tag("thead", tag("tr", tag("th"), *(tag("th", names[i]) for i in shown)))
    rows = []
    for i in shown:
        shares = counts[i] / max(counts[i].sum(), 1)
        cells = [
            tag("td", f"{100 * share:.0f}" if share >= 0.005 else "", style=_shade(share),
                title=f"{names[i]} as {names[j]}: {counts[i, j]:.0f}")
            for j, share in zip(shown, shares[shown], strict=True)
        ]  # fmt: skip
        rows.append(tag("tr", tag("th", names[i]), *cells))
    return tag("div", tag("table", head, tag("tbody", *rows), class_="confusion"), class_="wide")


def _shade(share: float) -> str:
    return f"background:rgba(8,81,156,{share:.2f});color:{'#fff' if share > 0.5 else '#202020'}"


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    top = tag("tr", *(tag("th", cell) for cell in head))
    body = (
        tag("tr", tag("th", name), *(tag("td", cell) for cell in cells)) for name, *cells in rows
    )
    return tag("div", tag("table", top, *body), class_="wide")


def _number(value: float | None, times: float = 1) -> str:
    if value is None or math.isnan(value):
        return "" if value is None else "-"
    return f"{times * value:.2f}" if times > 1 else f"{value:.4f}"


def _chip(color: str) -> Html:
    return tag("span", class_="chip", style=f"background:#{color}")


def _samples(results: Sequence[Result], room: int) -> Html:
    """Samples of every task by why they are shown, as many as `room` bytes hold."""
    parts = []
    for result in results:
        figures: dict[str, list[Html]] = {}
        groups, names = result.gallery.groups(), dict[str, None]()
        share = room // len(results)
        rows = zip_longest(*([(why, each) for each in some] for why, some in groups.items()))
        turns = (pair for row in rows for pair in row if pair)  # so that each has its share of room
        for why, sample in turns:
            figure, layers = _figure(sample, result)
            share -= len(figure) + 200
            if share < 0:
                break
            figures.setdefault(why, []).append(figure)
            names |= dict.fromkeys(layers)
        if figures:
            parts.append(tag("h2", f"{result.task.name}: samples"))
            parts += [_legend(result), tag("p", *(tag("button", name) for name in names))]
        for why, shown in figures.items():
            parts += [tag("h3", why), tag("div", *shown, class_="grid")]
    return Html("".join(parts))


def _legend(result: Result) -> Html:
    """What the colours of each output's pictures mean."""
    lines = []
    for output in result.task.outputs:
        picture = picture_of(output)
        maps = [
            maps_of(sample, output) for each in result.gallery.groups().values() for sample in each
        ]
        said = picture.legend([values for each in maps for values in each.values()])
        said = said or picture.key(maps[0]["prediction"])
        if said:
            chips = (tag("span", Html(_chip(color) + _escaped(name))) for name, color in said)
            lines.append(tag("p", tag("span", f"{output.name}:"), *chips, class_="legend"))
    return Html("".join(lines))


def _figure(sample: EvalSample, result: Result) -> tuple[Html, list[str]]:
    """A sample under a slider that uncovers its layers one after the other; their names."""
    layers = dict(_layers(sample, result.task.outputs))
    pictures = (
        tag("img", src=f"data:image/jpeg;base64,{b64encode(data).decode()}", alt=name)
        for name, data in layers.items()
    )
    first = next((i for i, name in enumerate(layers) if name.endswith("prediction")), 0)
    steps = {"min": 0, "max": 100 * len(layers) - 100, "value": 100 * first}
    slider = tag("input", type="range", **steps, aria_label=f"layers of {sample.key}")
    score = "" if math.isnan(sample.score) else f": {result.gallery.by} {sample.score:.3f}"
    caption = tag("figcaption", sample.key, score, ", ", tag("output"))
    stack = tag("div", *pictures, class_="stack")
    return tag("figure", stack, slider, caption, class_="sample"), list(layers)


def _layers(sample: EvalSample, outputs: Sequence[Output]) -> Iterator[tuple[str, bytes]]:
    """Names and JPEGs: the image; of each output truth, prediction and error."""
    pixels = np.ascontiguousarray(pixels_of(sample))
    yield "image", _jpeg(Image.fromarray(pixels))
    for output in outputs:
        picture, maps = picture_of(output), maps_of(sample, output)
        truth = next(iter(maps.values()))
        for what, values in maps.items():
            yield (
                f"{output.name}: {what}",
                _jpeg(Image.fromarray(picture.view(pixels, values, truth))),
            )
        if "truth" in maps:
            error = np.broadcast_to(picture.error(maps["prediction"], truth), pixels.shape[:2])
            yield f"{output.name}: error", _jpeg(_heat(pixels, error))


def _heat(pixels: np.ndarray, error: np.ndarray) -> Image.Image:
    """Errors in red over the image in grey; black where nobody knows."""
    grey = np.asarray(Image.fromarray(pixels).convert("L").point([3 * v // 5 for v in range(256)]))
    below = Image.fromarray(np.where(np.isnan(error), np.uint8(0), grey)).convert("RGB")
    share = Image.fromarray((255 * np.nan_to_num(error)).astype(np.uint8))
    return Image.composite(Image.new("RGB", below.size, RED), below, share)


def _jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()
