"""What `fuzz` reads: each kind of file from outside, good ones, and how they are changed."""

from __future__ import annotations

import io
import json
import random
import zipfile
import zlib
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import TINY, members_of
from examples import EXAMPLES
from fuzz import TEXTS, Target, flip, twist
from fuzz_changes import (
    change_box,
    change_hdf5,
    change_jpeg,
    change_parquet,
    change_png,
    change_tiff,
    change_zip,
)
from PIL import Image

from datasets.decode import decode_target
from datasets.images import header_size
from datasets.index import find_groups, find_samples
from datasets.index.left_out import left_out
from datasets.photo import decode_image
from datasets.stores import open_stores, write_hdf5, write_zip
from datasets.stores.parquet import ParquetStore
from datasets.task import Task, read_task

KEEP = 40  # members that are read of a shard


# A task file: read, resolved with its defaults, its templates asked of names.


def make_tasks(folder: Path) -> list[bytes]:
    from datasets import TASKS

    write_zip(folder / "d.zip", members_of(TINY, 4).items())
    return [json.dumps(task.to_json()).encode() for task in (TINY, *TASKS.values())]


def change_json(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.2:
        return flip(rng, data)
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = twist(rng, value)
    return json.dumps(value).encode()


def read_a_task(folder: Path, data: bytes) -> None:
    from train import make_criterion
    from utils.run.folder import check_best
    from utils.settings import parse

    (folder / "t.json").write_bytes(data)
    task = read_task(folder / "t.json")
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task
    settings = parse(["--task", str(folder / "t.json"), "--data", str(folder / "d.zip")])
    check_best(settings.tasks[0].task)
    make_criterion(settings, {})
    find_samples(open_stores([folder / "d.zip"]), task, "train")


# Names and the templates that are asked of them.

PIECES = ("{key}", "{a}", "{b}", "{split}", "*", "/", "_", "-", "x", "a", "img", ".png", ".*", "é")


def make_layouts(folder: Path) -> list[bytes]:
    layouts = [
        ["img/{key}.png", "seg/{key}.png", ["img/a.png", "seg/a.png", "img/b.png", "seg/b.png"]],
        ["{split}/{a}_{key}.*", "{a}/*{key}_{split}.*", ["train/x_1.png", "x/y1_train.png"]],
    ]
    return [json.dumps(layout).encode() for layout in layouts]


def change_layout(rng: random.Random, data: bytes) -> bytes:
    """Templates and names of many pieces, long names that nearly fit."""

    def made(most: int) -> str:
        return "".join(rng.choices(PIECES, k=rng.randrange(1, most)))

    image, files, names = json.loads(data)
    image, files = rng.choice((image, made(9))), rng.choice((files, made(9)))
    for _ in range(rng.randrange(4)):
        name = rng.choice(names)
        odd = (
            *TEXTS,
            (name * rng.randrange(1, 200))[:2000],
            made(300),
            "a" * 900,
            "a_" * 450 + ".png",
        )
        names = [*names, rng.choice(odd)]
    if rng.random() < 0.5:
        filled = "".join(rng.choice(("a", "b", "_", "/", "x")) * rng.randrange(9) for _ in "abc")
        names += [each.replace("{key}", filled).replace("*", "") for each in (image, files)]
    return json.dumps([image, files, names]).encode()


def read_layout(folder: Path, data: bytes) -> None:
    image, files, names = json.loads(data)
    task = replace(TINY, image=image, outputs=(replace(TINY.outputs[0], files=files),))
    write_zip(folder / "names.zip", [(name, b"x") for name in names])
    stores = open_stores([folder / "names.zip"])
    left_out(stores, task)
    find_groups(stores, task)
    find_samples(stores, task, "train")


# Shards: opened, their members read, their samples found.


def read_store(store: Any) -> None:
    names = store.names()
    len(names), store.sizes(), list(names)
    for i in range(min(len(store), KEEP)):
        store.read_at(i)


def read_shard(name: str, folder: Path, data: bytes) -> None:
    (folder / name).write_bytes(data)
    (store,) = open_stores([folder / name])
    read_store(store)
    find_groups([store], TINY)


def make_zips(folder: Path) -> list[bytes]:
    made, members = [], members_of(TINY, 2, (16, 16)) | {"é/ü.txt": b"text" * 50}
    for kind, comment in ((zipfile.ZIP_STORED, b""), (zipfile.ZIP_DEFLATED, b"a comment")):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as file:
            file.comment = comment
            for name, data in members.items():
                with file.open(zipfile.ZipInfo(name), "w", force_zip64=bool(comment)) as member:
                    member.write(data)
        made.append(buffer.getvalue())
    return made


def make_hdf5(folder: Path) -> list[bytes]:
    import h5py

    members = members_of(TINY, 2, (16, 16))
    write_hdf5(folder / "good.h5", members.items())
    made = [(folder / "good.h5").read_bytes()]
    with h5py.File(folder / "good.h5") as file, h5py.File(folder / "old.h5", "w") as old:
        for name in file:  # without checksums in its headers, and of the index
            old[name] = file[name][:]
        old.attrs["format"] = file.attrs["format"]
    return [*made, (folder / "old.h5").read_bytes()]


def make_parquet(folder: Path) -> list[bytes]:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    made = []
    for plain in (True, False):
        rows = [
            {
                **{
                    c: b"xyz" if plain else {"bytes": b"xyz", "path": None}
                    for c in ("image", "annotation")
                },
                **{"id": f"k{i}", "material": "Wood", "content": "Maps"},
            }
            for i in range(5)
        ]
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, row_group_size=2)
        made.append(buffer.getvalue())
    return made


def read_parquet(folder: Path, data: bytes) -> None:
    (folder / "p.parquet").write_bytes(data)
    read_store(ParquetStore([folder / "p.parquet"]))


# Pictures: decoded as an image and as a target of every kind.


def make_pictures(formats: str, folder: Path) -> list[bytes]:
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 255, (24, 20, 3)).astype(np.uint8))
    grey, made = colours.convert("L"), []
    deep = Image.fromarray(rng.integers(0, 60000, (24, 20)).astype(np.uint16))
    for form in formats.split():
        settings: list[dict[str, Any]] = [{}]
        if form == "TIFF":
            settings = [
                {"compression": c} for c in (None, "tiff_lzw", "tiff_deflate", "jpeg", "packbits")
            ]
        if form == "JPEG":
            settings = [{}, {"progressive": True}]
        for image in (
            colours,
            grey,
            colours.convert("P"),
            deep,
            grey.convert("1"),
            colours.convert("RGBA"),
        ):
            for each in settings:
                buffer = io.BytesIO()
                try:
                    image.save(buffer, form, **each)
                except (OSError, ValueError, KeyError):
                    continue
                made.append(buffer.getvalue())
    return made


def read_picture(folder: Path, data: bytes) -> None:
    from datasets.task import UserError

    reason = None
    width, height = header_size(data, "x")
    try:
        decode_image(data, "x")
    except UserError as error:
        if width * height > 2**20:
            raise
        reason = error
    for output in (example().output for kind, example in EXAMPLES.items() if kind != "label"):
        try:
            decode_target(data, "x", output)
        except UserError as error:
            reason = error
    if reason is not None:
        raise reason


# Shapes: made targets of classes and masks.


def make_shapes(folder: Path) -> list[bytes]:
    from datasets.photo import Photo
    from utils.maps.results import Form, write

    labels = np.random.default_rng(0).integers(0, 3, (12, 10)).astype(np.uint8)
    photo = Photo(torch.zeros(3, 12, 10, dtype=torch.uint8), None, "a.png")
    form = Form(shapes=("coco", "geojson"))
    write(folder / "a", photo, {"parts": labels}, TINY.outputs[:1], "", form)
    made = [(folder / f"a_parts{end}").read_bytes() for end in ("_coco.json", ".geojson")]
    return [*made, made[0].replace(b'"counts": [', b'"counts": "62_0009", "x": [')]


def read_shapes(folder: Path, data: bytes) -> None:
    from datasets.shapes import parse_shapes
    from datasets.task import UserError

    shapes, reason = parse_shapes(data), None
    for output in TINY.outputs[:2]:
        for size in ((10, 12), None):
            try:
                if size or max(shapes.size.get("a.png") or shapes.size.get("") or (0,)) < 2**12:
                    decode_target(shapes, "x", output, "img/a.png", size)
            except UserError as error:
                reason = error
    if reason is not None:
        raise reason


# Checkpoints: asked for their settings, their network and their weights, and resumed.


def make_checkpoints(folder: Path) -> list[bytes]:
    import train

    write_zip(folder / "d.zip", members_of(TINY, 4).items())
    (folder / "t.json").write_text(json.dumps(TINY.to_json()))
    words = f"--task {folder}/t.json --data {folder}/d.zip --out {folder}/run --steps 2 --bs 2 "
    words += "--eval-steps 1 --width 4 --depth 2 --convs 1 --device cpu --workers 0 "
    words += "--wandb disabled"
    from utils.settings import parse

    if not (folder / "run" / "last.pt").exists():
        train.train(parse(words.split()))
    return [(folder / "run" / name).read_bytes() for name in ("last.pt", "best.pt")]


def odd_tensors() -> tuple[Any, ...]:
    return (
        torch.zeros(1),
        torch.zeros(0),
        torch.zeros(()),
        torch.zeros(1).expand(3, 3),
        torch.zeros(1).expand(100_000, 100_000),
        torch.zeros(4, 4, device="meta"),
        torch.zeros(3, 3).to_sparse(),
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3, dtype=torch.int64),
        torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.quint8),
        torch.full((3,), float("nan")),
        torch.nn.Parameter(torch.zeros(2)),
    )


def change_checkpoint(rng: random.Random, data: bytes) -> bytes:
    kind = rng.random()
    if kind < 0.1:
        return flip(rng, data)
    if kind < 0.3:  # other bytes, whose checksums are right
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as file, zipfile.ZipFile(buffer, "w") as out:
            for info in file.infolist():
                body = file.read(info)
                out.writestr(
                    info.filename, flip(rng, body) if info.filename.endswith("data.pkl") else body
                )
        return buffer.getvalue()
    state = torch.load(io.BytesIO(data), weights_only=True)
    for _ in range(rng.choice((1, 1, 2))):
        state = twist(rng, state, odd_tensors())
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def read_checkpoint(folder: Path, data: bytes) -> None:
    from datasets.task import UserError
    from train import build_state, count_steps, make_criterion, model_spec, open_data
    from utils import checkpoint
    from utils.compute import make_compute
    from utils.distributed import Distributed
    from utils.run.folder import RunFolder, check_best
    from utils.settings import parse
    from utils.trained import load_network

    path = folder / "x" / "last.pt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    state = checkpoint.load(path)
    with suppress(UserError):
        load_network(path, None)
    if "learner" not in state:
        return
    settings = parse(["--resume", str(path), "--wandb", "disabled"])
    for each in settings.tasks:
        check_best(each.task)
    make_criterion(settings, {})
    compute = make_compute("cpu", False)
    distributed = Distributed(compute.device)
    opened = open_data(settings)
    settings = settings.with_tasks([each.task for each in opened])
    steps = count_steps(settings, [len(each.train) for each in opened], 1)
    with RunFolder(settings, model_spec(settings).to_json(), distributed) as run:
        made = build_state(settings, {}, steps.total, compute, distributed)
        step = run.restore(made, opened)
        run.begin(step, steps, "")


# An index that is kept beside a shard: believed, and so changed with a checksum that is right.


small_ones_too = patch("datasets.stores.index_cache.MIN_MEMBERS", 5)  # have an index beside them


@small_ones_too
def make_indexes(folder: Path) -> list[bytes]:
    write_zip(folder / "s.zip", members_of(TINY, 4, (16, 16)).items())
    find_samples(open_stores([folder / "s.zip"]), TINY, "train")
    return [path.read_bytes() for path in sorted(folder.glob(".*.index"))]


def change_index(rng: random.Random, data: bytes) -> bytes:
    """Half of them with another header and a checksum that is right; its key never is, for nobody
    knows when a shard will come to lie elsewhere."""
    if rng.random() < 0.5:
        return flip(rng, data)
    size = int.from_bytes(data[20:28], "little")
    header, body = json.loads(data[28 : 28 + size]), data[28 + size :]
    key = header["key"]
    for _ in range(3):
        header = twist(rng, header)
    if isinstance(header, dict) and header.get("key") == key:
        header["key"] = None
    header = json.dumps(header).encode()
    header += b" " * (-(28 + len(header)) % 64)
    rest = (size if rng.random() < 0.1 else len(header)).to_bytes(8, "little") + header + body
    return data[:16] + zlib.crc32(rest).to_bytes(4, "little") + rest


@small_ones_too
def read_index(folder: Path, data: bytes) -> None:
    name = (
        ".s.zip.index"
        if b'"ZipStore"' in data[:200]
        else next(p.name for p in folder.glob(".samples*"))
    )
    (folder / name).write_bytes(data)
    (store,) = open_stores([folder / "s.zip"])
    read_store(store)
    table = find_samples([store], TINY, "train")
    for i in range(min(len(table), 10)):
        table.read(*table.image(i)), table.key(i)


# A folder of a run: what a resumed run reads of it beside its checkpoint.


def make_runs(folder: Path) -> list[bytes]:
    (folder / "run").mkdir(exist_ok=True)
    lines = [
        {"step": 1, "time": 0.5, "train/loss": 1.0, "lr": 0.1},
        {"step": 1, "time": 0.7, "val/parts/miou": 0.3},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return [text.encode(), b"d.zip: a.png\tnot an image\n" * 2]


def change_run(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.5 or not data.startswith(b"{"):
        return flip(rng, data)
    return b"\n".join(change_json(rng, line) for line in data.splitlines())


def read_run(folder: Path, data: bytes) -> None:
    from utils.distributed import Distributed
    from utils.run.charts import draw_curves
    from utils.run.logger import RunLogger
    from utils.skipped import Skipped

    (folder / "run" / "metrics.jsonl").write_bytes(data)
    logger = RunLogger(folder / "run", {}, "disabled", run_id="x")
    logger.truncate(1)
    logger.finish({})
    (folder / "run" / "metrics.jsonl").write_bytes(data)
    draw_curves(folder / "run" / "metrics.jsonl", folder / "run" / "curves.png", TINY.outputs)
    (folder / "run" / "skipped.txt").write_bytes(data)
    Skipped(9, Distributed(torch.device("cpu")), print, folder / "run", True)


TARGETS: dict[str, Target] = {
    "task": Target(make_tasks, change_json, read_a_task),
    "templates": Target(make_layouts, change_layout, read_layout),
    "zip": Target(make_zips, change_zip, partial(read_shard, "z.zip")),
    "hdf5": Target(make_hdf5, change_hdf5, partial(read_shard, "h.h5")),
    "parquet": Target(make_parquet, change_parquet, read_parquet),
    "png": Target(partial(make_pictures, "PNG"), change_png, read_picture),
    "tiff": Target(partial(make_pictures, "TIFF"), change_tiff, read_picture),
    "jpeg": Target(partial(make_pictures, "JPEG"), change_jpeg, read_picture),
    "picture": Target(
        partial(make_pictures, "BMP GIF WEBP PPM JPEG2000 AVIF TGA"), change_box, read_picture
    ),
    "shapes": Target(make_shapes, change_json, read_shapes),
    "checkpoint": Target(make_checkpoints, change_checkpoint, read_checkpoint),
    "index": Target(make_indexes, change_index, read_index),
    "run": Target(make_runs, change_run, read_run),
}
