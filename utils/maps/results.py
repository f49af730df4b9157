"""Writes what was predicted of an image, as files that are known again as results."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from datasets.photo import Photo
from datasets.task import MAX_UINT16, Classes, Mask, Output, UserError
from utils.files import write_whole, written_whole
from utils.maps.regions import each_region
from utils.maps.shapes import WRITERS, Map
from utils.maps.sheet import DPI, Sheet, draw_sheet
from utils.memory.heap import give_back_memory
from utils.pictures.legend import legend_below
from utils.pictures.png import write_png
from utils.pictures.visualize import Picture, Style, picture_of
from utils.predict import CONFIDENCE, PROBABILITY

Labels = dict[str, np.ndarray]
Maker = Callable[[Path, Photo, Any, Labels, "Form"], None]
LARGE = 2**23  # pixels of an image; what is free is given back after each work on a larger one
STRIP_PIXELS = 2**20  # painted at a time: blending takes ten times the room of what it gives
MM_PER_INCH = 25.4
UNMEASURED = (1, 72, 96)  # dpi
LINE = 1200  # an outline is one pixel of as many of the longer side
SIGNATURE = ("Software", "Manyhead")  # a text in every PNG
COMMENT = "<!-- {}: {} -->".format(*SIGNATURE)  # with which an SVG begins
PRODUCER = SIGNATURE[1]  # of a PDF
KEY = "Key"  # the name of another, in data
HEAD = 4096  # bytes in which both stand


class Form(NamedTuple):
    """What results look like. alpha: see `Style`. shapes: names of `WRITERS`; tolerance: of their
    outlines, see `each_region`. mm: of a pixel; None: as the dpi of each image say. sheet: whether
    there is a page of each image, see `draw_sheet`; model: a line on it. probabilities: whether
    they are written, too."""

    alpha: float = 0.4
    shapes: tuple[str, ...] = ()
    tolerance: float = 1.0
    mm: float | None = None
    sheet: bool = False
    model: str = ""
    probabilities: bool = False


PLAIN = Form()


def is_own(data: bytes) -> bool:
    """Whether a file, or one of this beginning, was written here: nothing to predict."""
    head = data[:HEAD].partition(b"IDAT")[0]
    if data.startswith((json.dumps(dict([SIGNATURE]))[:-1].encode(), COMMENT.encode())):
        return True
    if data.startswith(b"PK"):
        return f"{SIGNATURE[1]}.npy".encode() in head
    return data.startswith(b"\x89PNG") and "\0".join(SIGNATURE).encode() in head


def write(
    stem: Path,
    photo: Photo,
    predictions: Labels,
    outputs: Sequence[Output],
    key: str = "",
    form: Form = PLAIN,
) -> None:
    """STEM_OUTPUT.png (or .json, of whole images) as data and STEM_OUTPUT_view.png to look at, as
    `PICTURES` has them; of classes and masks, the shapes and the page that `form` asks for.

    photo: what was predicted; the pictures have its dpi. predictions: by output name what targets
    would say, as in `Sample`, and NAME_probability and NAME_confidence as `Predictor.labels` has
    them, of which the last is let go when its shapes are written. key: stands in the data, for
    `are_there`; data come last, so that where they are, all is.
    UserError: a file that somebody else has made is in the way.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    large = photo.pixels[0].numel() > LARGE

    def make(makers: Sequence[Maker], output: Output) -> None:
        for each in makers:  # what one has held is free before another begins
            each(stem, photo, output, predictions, form)
            if large:
                give_back_memory()

    for output in outputs:
        makers, beside = list[Maker]([_write_view]), list[Maker]()
        if isinstance(output, Classes | Mask):
            makers = [_write_sheet] * form.sheet + makers
            beside = [_write_shapes] * bool(form.shapes)
        makers += [_write_probabilities] * (output.name + PROBABILITY in predictions)
        if not (large and beside):
            make(beside + makers, output)
            continue
        with ThreadPoolExecutor(1) as other:  # outlines take as long as all the rest
            writing = other.submit(make, beside, output)
            make(makers, output)
            writing.result()
    for output in outputs:
        if not output.per_image:
            _save_place(data_path(stem, output), photo)
        _save(data_path(stem, output), _data(output, predictions[output.name]), photo.dpi, key)


def _write_view(stem: Path, photo: Photo, output: Any, predictions: Labels, form: Form) -> None:
    """STEM_OUTPUT_view.png."""
    path = stem.with_name(f"{stem.name}_{output.name}_view.png")
    pixels, values = photo.pixels.permute(1, 2, 0).numpy(), predictions[output.name]
    (height, width), line = pixels.shape[:2], max(1, round(max(pixels.shape) / LINE))
    picture = picture_of(output, Style(form.alpha, line))
    key = [] if output.per_image else picture.key(values)
    legend = legend_below(key, (width, height))
    strips = _painted(picture, pixels, values, legend)
    _save_picture(path, (legend.width, height + legend.height), strips, photo.dpi)
    _save_place(path, photo)


def _painted(
    picture: Picture, pixels: np.ndarray, values: np.ndarray, legend: Image.Image
) -> Iterator[np.ndarray]:
    """A prediction to look at over its legend, which may be wider, strip by strip."""
    if picture.output.per_image:
        yield picture.view(pixels, values)
        return
    (height, width), line = pixels.shape[:2], picture.style.line
    for strip in _strips(height, width):
        seen = slice(max(0, strip.start - line), strip.stop + line)  # outlines look so far
        view = picture.view(pixels[seen], values[..., seen, :])[strip.start - seen.start :]
        view = view[: strip.stop - strip.start]
        beside = ((0, 0), (0, legend.width - width), (0, 0))
        yield np.pad(view, beside, constant_values=255) if legend.width > width else view
    if legend.height:
        yield np.asarray(legend)


def _write_shapes(stem: Path, photo: Photo, output: Any, predictions: Labels, form: Form) -> None:
    """STEM_OUTPUT.geojson and so on, region by region. The confidence is taken out of
    `predictions`: it may be large, and nobody else asks for it."""
    confidence = predictions.pop(output.name + CONFIDENCE, None)
    pixels = photo.pixels.permute(1, 2, 0).numpy()
    mm, notes = mm_of(photo.dpi, form.mm), dict([SIGNATURE])
    look = form.tolerance, mm, form.alpha, notes, photo.place
    drawn, writing = Map(photo.name, pixels, output, *look), []
    with ExitStack() as files:
        for name in form.shapes:
            suffix, make = WRITERS[name]
            path = stem.with_name(f"{stem.name}_{output.name}{suffix}")
            refuse_others(path)
            part = files.enter_context(written_whole(path))
            file = files.enter_context(part.open("w", encoding="utf-8", newline="\n"))
            writing.append((make(drawn), file))
        for writer, file in writing:
            file.write(writer.head())
        for region in each_region(
            *(predictions[output.name], output, form.tolerance),
            confidence=confidence,
        ):
            for writer, file in writing:
                file.write(writer.text(region))
        for writer, file in writing:
            file.write(writer.tail())


def _write_sheet(stem: Path, photo: Photo, output: Any, predictions: Labels, form: Form) -> None:
    """STEM_OUTPUT_sheet.png and .pdf."""
    pixels, mm = photo.pixels.permute(1, 2, 0).numpy(), mm_of(photo.dpi, form.mm)
    labels = predictions[output.name]
    page = draw_sheet(Sheet(photo.name, pixels, labels, output, mm, form.model))
    path = stem.with_name(f"{stem.name}_{output.name}_sheet.png")
    _save_picture(path, page.size, [np.asarray(page)], (DPI, DPI))
    save_pdf(path.with_suffix(".pdf"), [page])


def _write_probabilities(
    stem: Path, photo: Photo, output: Any, predictions: Labels, form: Form
) -> None:
    """STEM_OUTPUT_probability.png, of whose 16 bits 65535 is 1; of several classes .npz: float16
    `probability` (classes, H, W), and the names of these."""
    values = predictions[output.name + PROBABILITY]
    path = stem.with_name(f"{stem.name}_{output.name}{PROBABILITY}.png")
    if isinstance(output, Mask):
        _save(path, Image.fromarray(values[0]), photo.dpi)
        return
    path = path.with_suffix(".npz")
    refuse_others(path)
    shares = np.stack([(plane / np.float32(MAX_UINT16)).astype(np.float16) for plane in values])
    arrays: dict[str, Any] = {SIGNATURE[1]: 1, "probability": shares, "classes": output.labels}

    def save(part: Path) -> None:
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_whole(path, save)


def mm_of(dpi: tuple[float, float] | None, mm: float | None) -> tuple[float, float] | None:
    """Millimetres of a pixel (across, down): as told, else by the dpi; None where these are what
    cameras and editors write of pictures that were never measured."""
    if mm:
        return mm, mm
    if dpi is None or round(max(dpi)) in UNMEASURED:
        return None
    return MM_PER_INCH / dpi[0], MM_PER_INCH / dpi[1]


def _data(output: Output, values: np.ndarray) -> Image.Image | dict[str, Any]:
    """A prediction to be read back as data; made strip by strip, too."""
    picture = picture_of(output)
    if output.per_image:
        return picture.file(values)
    strips = _strips(*values.shape[-2:])
    first = picture.file(values[..., strips[0], :])
    whole = np.empty((values.shape[-2], *first.shape[1:]), first.dtype)
    for strip in strips:
        whole[strip] = picture.file(values[..., strip, :])
    image = Image.fromarray(whole)
    if colors := picture.palette():
        image.putpalette(colors)
    return image


def _strips(height: int, width: int) -> list[slice]:
    rows = max(1, STRIP_PIXELS // width)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def are_there(stem: Path, outputs: Sequence[Output], key: str) -> bool:
    """Whether `write` was done with this key, of 8 bytes or more, which nothing else then has."""
    paths = [data_path(stem, output) for output in outputs]
    return all(path.is_file() and key.encode() in _head(path) for path in paths)


def texts(stem: Path, outputs: Sequence[Output]) -> Iterator[tuple[str, str]]:
    """What is written that says one thing of the whole image: (output name, text)."""
    for name, path in ((each.name, data_path(stem, each)) for each in outputs if each.per_image):
        yield name, json.loads(path.read_text(encoding="utf-8"))[name]


def remove_parts(stems: Sequence[Path]) -> None:
    """Remove what a killed process was writing under these names."""
    names = {(stem.parent, stem.name) for stem in stems}
    for folder in {stem.parent for stem in stems}:
        for part in folder.glob(".*.[0-9]*.part"):
            ends = (i for i, letter in enumerate(part.name) if letter == "_")
            if any((folder, part.name[1:end]) in names for end in ends):
                part.unlink(missing_ok=True)


def write_table(path: Path, name: str, rows: Sequence[tuple[str, str]]) -> None:
    """What an output of this name says of each image, as CSV: image, NAME."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerows([("image", name), *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.getvalue().encode())


def data_path(stem: Path, output: Output) -> Path:
    return stem.with_name(f"{stem.name}_{output.name}{picture_of(output).suffix}")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def save_pdf(path: Path, pages: Sequence[Image.Image]) -> None:
    """Pages of one file, which is known again as a result; UserError: another's is there."""
    refuse_others(path)
    first, *more = pages
    settings: dict[str, Any] = {"resolution": DPI, "save_all": True, "append_images": more}
    write_whole(path, partial(first.save, format="PDF", producer=PRODUCER, **settings))


def refuse_others(path: Path, begins: bytes = b"") -> None:
    """UserError: a file is there that was not written here. begins: as one that was would."""
    if not path.exists():
        return
    own = _head(path).startswith(begins) if begins else is_own(_head(path))
    if path.suffix == ".pdf":
        own = PRODUCER.encode("utf_16_be") in path.read_bytes()[-HEAD:]
    if not own:
        raise UserError(f"{path}: is there already and no result of this program; another --out")


def _save_place(path: Path, photo: Photo) -> None:
    """A world file beside a picture of the photograph's geometry, if there is a place to tell."""
    if photo.place and path.suffix == ".png":
        refuse_others(path)
        write_whole(path.with_suffix(".pgw"), photo.place.text().encode())


def _save(
    path: Path,
    data: Image.Image | dict[str, Any],
    dpi: tuple[float, float] | None = None,
    key: str = "",
) -> None:
    refuse_others(path)
    notes = dict([SIGNATURE]) | ({KEY: key} if key else {})
    if isinstance(data, dict):
        write_whole(path, f"{json.dumps(notes | data)}\n".encode())
        return
    text = PngInfo()
    for name, note in notes.items():
        text.add_text(name, note)
    level = 6 if key else 1
    save = partial(data.save, format="PNG", pnginfo=text, dpi=dpi, compress_level=level)
    write_whole(path, save)


def _save_picture(
    path: Path,
    size: tuple[int, int],
    strips: Iterable[np.ndarray],
    dpi: tuple[float, float] | None,
) -> None:
    """A picture to look at, see `write_png`."""
    refuse_others(path)
    with written_whole(path) as part:
        write_png(part, size, strips, dpi, dict([SIGNATURE]))
