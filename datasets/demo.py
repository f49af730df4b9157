"""A built-in task's name -> small rendered shards in the official layout, labels exact.

The data of a run that names none. Scene i is drawn from seed i alone: same code, same bytes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.scenes.damage import render_damage
from datasets.scenes.room import relative_depth, render_room
from datasets.scenes.street import render_street
from datasets.stores import write_hdf5, write_zip
from datasets.task import UserError

Members = dict[str, bytes]  # member name -> encoded bytes, in the order of a shard


class Scenes(NamedTuple):
    """How a task's demo data is made: one call per scene, then all of them into shards."""

    num: int
    render: Callable[[int], tuple[Members, str]]
    shards: tuple[str, ...]


def demo_shards(task_name: str, root: Path) -> list[Path]:
    """The demo shards of a built-in task below `root`, rendered first if they are not there."""
    name = task_name.removesuffix("24")  # both Cityscapes tasks read the same streets
    if name not in SCENES:
        raise UserError(f"task {task_name} has no demo data: name its own with --data PATH")
    scenes = SCENES[name]
    paths = [root / name / shard for shard in scenes.shards]
    if all(path.is_file() for path in paths):
        return paths
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8), get_context("spawn")) as pool:
        rendered = pool.map(scenes.render, range(scenes.num), chunksize=4)
        bar = tqdm(rendered, f"rendering {name} scenes", scenes.num, unit="scene", disable=None)
        results = list(bar)
    members = {key: data for scene, _ in results for key, data in scene.items()}
    if name == "damage":
        rows = "".join(row for _, row in results)
        members["metadata.csv"] = b"id,material,content\n" + rows.encode()
    for path in paths:
        write = write_zip if path.suffix == ".zip" else write_hdf5
        folder = path.stem.split("_")[0] if len(paths) > 1 else ""
        write(path, [item for item in members.items() if item[0].startswith(folder)])
    return paths


def damage_scene(seed: int) -> tuple[Members, str]:
    """One scan with its annotation, as in ARTeFACT's export, and its row of metadata."""
    rng = np.random.default_rng([seed, 1])
    height, width = (int(side) for side in rng.integers(224, 321, 2))  # sizes differ, as scans do
    scene = render_damage(seed, height, width)
    key = f"demo_{seed:04d}"
    members = {f"image/{key}.png": _png(scene.image), f"annotation/{key}.png": _png(scene.labels)}
    return members, f"{key},{scene.material},{scene.content}\n"


def street_scene(seed: int) -> tuple[Members, str]:
    """One street with its label ids, named as in the two zips of Cityscapes."""
    scene = render_street(seed, 256, 512)
    split = "val" if seed % 6 == 0 else "train"
    key = f"{split}/{scene.city}/{scene.city}_{seed:06d}_000019"
    return {
        f"leftImg8bit/{key}_leftImg8bit.png": _png(scene.image),
        f"gtFine/{key}_gtFine_labelIds.png": _png(scene.labels),
    }, ""


def room_scene(seed: int) -> tuple[Members, str]:
    """One room with its mask and relative depth, named as in a zip of the mask + depth course."""
    scene = render_room(seed, 224, 224)
    key = f"img_{seed:04d}.jpg"
    return {
        f"bg_fg_1/{key}": _jpeg(scene.image),
        f"bg_fg_mask_1/{key}": _jpeg(scene.mask),
        f"depthMap/{key}": _jpeg(relative_depth(scene.depth_m)),
    }, ""


SCENES = {
    "damage": Scenes(240, damage_scene, ("artefact.h5",)),
    "cityscapes": Scenes(180, street_scene, ("leftImg8bit_demo.zip", "gtFine_demo.zip")),
    "maskdepth": Scenes(200, room_scene, ("output_1.zip",)),
}


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=False)
    return buffer.getvalue()


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
