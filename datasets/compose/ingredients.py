"""Gathers rooms and figures, checks each file, and divides them into training and validation."""

import csv
import hashlib
import io
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.compose.composite import OPAQUE, View, trim
from datasets.compose.floor import Floor, Pinhole, find_floor
from datasets.images import IMAGE_SUFFIXES, open_image
from datasets.index.sources import ImageSource, list_images
from datasets.index.splits import first_by_hash
from datasets.processes import run_in_order
from datasets.stores import open_stores
from datasets.task import MAX_UINT16, UserError

BLOCKS = 20  # neighbouring rooms may be frames of one scene: blocks of them are not divided
GUARD = 3  # rooms left out of training on each side of a block of validation


class Kit(NamedTuple):
    """What composites are made of. depths: one for each room, or None. focal: focal length of the
    rooms over their width. heights_m: low and high by file name of a cut-out, `*` for all others.
    """

    rooms: list[ImageSource]
    depths: list[ImageSource] | None
    cutouts: list[ImageSource]
    focal: float
    heights_m: dict[str, tuple[float, float]]

    def view(self, i: int, floor: Floor | None) -> View:
        """Room i with its depth; UserError if a file cannot be read or they differ in size."""
        image = open_image(self.rooms[i].read(), self.rooms[i].where).convert("RGB")
        camera = Pinhole(self.focal * image.width, image.width / 2, image.height / 2)
        depth_mm = None
        if self.depths is not None:
            depth_mm = _depth(self.depths[i].read(), self.depths[i].where)
            if depth_mm.shape != image.size[::-1]:
                raise UserError(
                    f"{self.depths[i].where}: is {depth_mm.shape[1]}x{depth_mm.shape[0]}, "
                    f"its background {image.width}x{image.height}: expected the same size"
                )
        return View(np.asarray(image), depth_mm, camera, floor)

    def figure(self, i: int) -> Image.Image:
        """Cut-out i as trimmed RGBA; UserError unless part of it is opaque and part is not."""
        image = open_image(self.cutouts[i].read(), self.cutouts[i].where).convert("RGBA")
        figure = trim(image)
        if figure is None or image.getchannel("A").getextrema()[0] >= OPAQUE:
            raise UserError(
                f"{self.cutouts[i].where}: expected a cut-out, opaque in part and transparent "
                "around"
            )
        return figure

    def bounds_m(self, i: int) -> tuple[float, float] | None:
        """Smallest and largest height of cut-out i in metres, None where nothing is said of it."""
        file = PurePosixPath(self.cutouts[i].name).name
        return self.heights_m.get(file, self.heights_m.get("*"))


class Survey(NamedTuple):
    """What reading every file once tells. floors: of each room, None where no figure can stand or
    no depth is known; farthest_m: the largest depth of all; rooms, cutouts: digests of their bytes.
    """

    floors: list[Floor | None]
    farthest_m: float
    rooms: list[bytes]
    cutouts: list[bytes]


class Side(NamedTuple):
    """Numbers of the rooms and cut-outs of one side of the split."""

    rooms: np.ndarray
    cutouts: np.ndarray


def open_kit(
    backgrounds: Path | str,
    depth: Path | str | None,
    cutouts: Path | str,
    focal: float,
    heights: Path | None = None,
) -> Kit:
    """Open folders or shards. A folder of backgrounds with `rgb/` and `depth_mm/` gives both.

    Depths are joined by name without suffix. heights: a CSV of file name, lowest and highest height
    in metres. UserError names what is missing or not a number.
    """
    if depth is None and isinstance(backgrounds, Path):
        pair = backgrounds / "rgb", backgrounds / "depth_mm"
        if all(path.is_dir() for path in pair):
            backgrounds, depth = pair
    rooms, depths = _list_pictures(backgrounds), None
    if depth is not None:
        by_key = {_key(source): source for source in _list_pictures(depth)}
        for room in rooms:
            if _key(room) not in by_key:
                raise UserError(f"{room.where}: no depth in {depth}, expected {_key(room)}.png")
        depths = [by_key[_key(room)] for room in rooms]
    figures = _list_pictures(cutouts)
    return Kit(rooms, depths, figures, focal, _read_heights(heights) if heights else {})


def survey(kit: Kit, workers: int) -> Survey:
    """Read and decode everything once; UserError names the first file that does not fit."""
    num_rooms, num = len(kit.rooms), len(kit.rooms) + len(kit.cutouts)
    looked = run_in_order(_look_at, kit, range(num), workers)
    seen = list(tqdm(looked, "checking sources", num, unit="file", disable=None))
    digests, floors, depths_m = map(list, zip(*seen, strict=True))
    return Survey(
        floors[:num_rooms], max(depths_m), rooms=digests[:num_rooms], cutouts=digests[num_rooms:]
    )


def _look_at(kit: Kit, number: int) -> tuple[bytes, Floor | None, float]:
    """Digest of the bytes of a room, its floor and its largest depth in metres; of cut-outs, which
    are counted after the rooms, the digest alone."""
    floor, farthest_m, sources = None, 0.0, []
    if number < len(kit.rooms):
        sources.append(kit.rooms[number])
        view = kit.view(number, None)
        if view.depth_mm is not None:
            sources.append(kit.depths[number])
            floor = find_floor(view.depth_mm / np.float32(1000), view.camera)
            farthest_m = int(view.depth_mm.max()) / 1000
    else:
        sources.append(kit.cutouts[number - len(kit.rooms)])
        kit.figure(number - len(kit.rooms))
    data = b"".join(source.read() for source in sources)
    return hashlib.blake2b(data, digest_size=8).digest(), floor, farthest_m


def divide(kit: Kit, seen: Survey, val_share: float) -> dict[str, Side]:
    """The sides of the split by name, the same for every seed. UserError if one would be empty.

    Rooms: in blocks of neighbours, spread evenly, without those in which nothing can stand.
    Cut-outs: by a hash of their bytes, so that copies stay together.
    """
    usable = np.array([floor is not None or kit.depths is None for floor in seen.floors])
    if not val_share:
        sides = {"train": Side(np.flatnonzero(usable), np.arange(len(seen.cutouts)))}
    else:
        train, val = _blocks(len(usable), val_share)
        hashes = np.array([int.from_bytes(digest, "big") for digest in seen.cutouts], np.uint64)
        held_out = first_by_hash(hashes, val_share)
        if not held_out.any():
            raise UserError("--cutouts: expected two cut-outs to split")
        sides = {
            "train": Side(np.flatnonzero(train & usable), np.flatnonzero(~held_out)),
            "val": Side(np.flatnonzero(val & usable), np.flatnonzero(held_out)),
        }
    for name, side in sides.items():
        if not len(side.rooms):
            raise UserError(f"--backgrounds: no background for {name} in which a floor was found")
    return sides


def _blocks(num: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Bool (num) each: rooms of training and of validation; a guard between them is in neither."""
    blocks = min(BLOCKS, num)
    chosen = min(max(1, round(blocks * share)), blocks - 1)
    spread = ((np.arange(chosen) + 0.5) * blocks / max(chosen, 1)).astype(int)
    val = np.isin(np.arange(num) * blocks // num, spread)
    guard = min(GUARD, num // (8 * blocks))
    near = np.convolve(val, np.ones(2 * guard + 1), "same") > 0
    return ~near, val


def _key(source: ImageSource) -> str:
    """What the files of a room have in common: the name without its suffix."""
    return source.name.rsplit(".", 1)[0]


def _list_pictures(path: Path | str) -> list[ImageSource]:
    """Every picture below a path, in order of name; UserError if there is none."""
    sources = [source for store in open_stores([path]) for source in list_images(store)]
    if not sources:
        raise UserError(f"{path}: no pictures, expected files of {', '.join(IMAGE_SUFFIXES)}")
    return sorted(sources, key=_key)


def _read_heights(path: Path) -> dict[str, tuple[float, float]]:
    heights = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        try:
            name, low, high = row
            heights[name] = float(low), float(high)
            right = 0 < heights[name][0] <= heights[name][1] < 100
        except ValueError:
            right = False
        if not right:
            raise UserError(f"{path}: line {number}: expected NAME,LOWEST,HIGHEST in metres")
    return heights


def _depth(data: bytes, name: str) -> np.ndarray:
    """Depth in millimetres, uint16 (H, W), 0 where unknown."""
    image = open_image(data, name)
    if not image.mode.startswith("I"):
        raise UserError(f"{name}: mode {image.mode}, expected 16-bit grey in millimetres")
    values = np.asarray(image)
    if values.min() < 0 or values.max() > MAX_UINT16:
        raise UserError(f"{name}: values up to {values.max()}, expected 16 bits")
    return values.astype(np.uint16)
