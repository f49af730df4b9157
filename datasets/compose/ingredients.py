"""Rooms, their depth and cut-out figures go in; what composites are made of, each file checked and
on one side of the split, comes out."""

from __future__ import annotations

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
from datasets.processes import run_in_order
from datasets.stores import Store, open_stores
from datasets.task import UserError

BLOCKS = 20  # neighbouring rooms may be frames of one scene: blocks of them are not divided
GUARD = 3  # rooms left out of training on each side of a block of validation
CHUNK = 16  # files that a process checks at a time


class Pictures(NamedTuple):
    """Pictures of some stores in order of name. places: store and member number of each; keys:
    their names without suffix."""

    stores: list[Store]
    places: list[tuple[int, int]]
    keys: list[str]

    def name(self, i: int) -> str:
        """`SHARD: MEMBER`, for errors."""
        store, member = self.places[i]
        return f"{self.stores[store].path}: {self.stores[store].names()[member]}"

    def read(self, i: int) -> bytes:
        store, member = self.places[i]
        return self.stores[store].read_at(member)

    def digest(self) -> str:
        """Changes when a name or a size in bytes does."""
        sizes = [store.sizes() for store in self.stores]
        facts = (
            f"{key} {sizes[store][member]}"
            for key, (store, member) in zip(self.keys, self.places, strict=True)
        )
        return hashlib.blake2b("\n".join(facts).encode(), digest_size=8).hexdigest()


class Kit(NamedTuple):
    """What composites are made of. depths: one for each room, or None. focal: focal length of the
    rooms over their width. heights_m: low and high by file name of a cut-out, `*` for all others.
    """

    rooms: Pictures
    depths: Pictures | None
    cutouts: Pictures
    focal: float
    heights_m: dict[str, tuple[float, float]]

    def view(self, i: int, floor: Floor | None) -> View:
        """Room i with its depth; UserError if a file cannot be read or they differ in size."""
        image = open_image(self.rooms.read(i), self.rooms.name(i)).convert("RGB")
        camera = Pinhole(self.focal * image.width, image.width / 2, image.height / 2)
        depth_mm = None
        if self.depths is not None:
            depth_mm = _depth(self.depths.read(i), self.depths.name(i))
            if depth_mm.shape != image.size[::-1]:
                raise UserError(
                    f"{self.depths.name(i)}: is {depth_mm.shape[1]}x{depth_mm.shape[0]}, "
                    f"its background {image.width}x{image.height}: expected the same size"
                )
        return View(np.asarray(image), depth_mm, camera, floor)

    def figure(self, i: int) -> Image.Image:
        """Cut-out i as trimmed RGBA; UserError unless part of it is opaque and part is not."""
        name = self.cutouts.name(i)
        image = open_image(self.cutouts.read(i), name)
        image = image.convert("RGBA") if image.has_transparency_data else image.convert("RGB")
        figure = trim(image) if image.mode == "RGBA" else None
        if figure is None or image.getchannel("A").getextrema()[0] >= OPAQUE:
            raise UserError(f"{name}: expected a cut-out, opaque in part and transparent around")
        return figure

    def bounds_m(self, i: int) -> tuple[float, float] | None:
        """Smallest and largest height of cut-out i in metres, None where nothing is said of it."""
        store, member = self.cutouts.places[i]
        file = PurePosixPath(self.cutouts.stores[store].names()[member]).name
        return self.heights_m.get(file, self.heights_m.get("*"))


class Survey(NamedTuple):
    """What reading every file once tells. floors: of each room, None where no figure can stand or
    no depth is known; farthest_m: the largest depth of all; digests: of the cut-outs' bytes."""

    floors: list[Floor | None]
    farthest_m: float
    digests: list[bytes]


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
        found = _list_pictures(depth)
        places = dict(zip(found.keys, found.places, strict=True))
        for i, key in enumerate(rooms.keys):
            if key not in places:
                raise UserError(f"{rooms.name(i)}: no depth in {depth}, expected {key}.png")
        depths = Pictures(found.stores, [places[key] for key in rooms.keys], rooms.keys)
    figures = _list_pictures(cutouts)
    return Kit(rooms, depths, figures, focal, _read_heights(heights) if heights else {})


def survey(kit: Kit, workers: int) -> Survey:
    """Read and decode everything once; UserError names the first file that does not fit."""
    jobs = [("room", i) for i in range(len(kit.rooms.keys))]
    jobs += [("cutout", i) for i in range(len(kit.cutouts.keys))]
    chunks = [jobs[i : i + CHUNK] for i in range(0, len(jobs), CHUNK)]
    floors, farthest, digests = [], 0, []
    with tqdm(total=len(jobs), desc="checking sources", unit="file", disable=None) as bar:
        for chunk in run_in_order(_look_at, kit, chunks, workers):
            for floor, depth_mm, digest in chunk:
                if digest is None:
                    floors.append(floor)
                    farthest = max(farthest, depth_mm)
                else:
                    digests.append(digest)
            bar.update(len(chunk))
    return Survey(floors, farthest / 1000, digests)


def divide(kit: Kit, seen: Survey, val_share: float) -> dict[str, Side]:
    """The sides of the split by name, the same for every seed. UserError if one would be empty.

    Rooms: in blocks of neighbours, spread evenly, without those in which nothing can stand.
    Cut-outs: by a hash of their bytes, so that copies stay together.
    """
    usable = np.array([floor is not None or kit.depths is None for floor in seen.floors])
    if not val_share:
        sides = {"train": Side(np.flatnonzero(usable), np.arange(len(seen.digests)))}
    else:
        train, val = _blocks(len(usable), val_share)
        hashes = np.array([int.from_bytes(digest, "big") for digest in seen.digests], np.uint64)
        distinct = np.unique(hashes)
        if len(distinct) < 2:
            raise UserError(f"{kit.cutouts.stores[0].path}: expected two cut-outs to split")
        limit = distinct[min(max(1, round(len(distinct) * val_share)), len(distinct) - 1)]
        sides = {
            "train": Side(np.flatnonzero(train & usable), np.flatnonzero(hashes >= limit)),
            "val": Side(np.flatnonzero(val & usable), np.flatnonzero(hashes < limit)),
        }
    for name, side in sides.items():
        if not len(side.rooms):
            where = kit.rooms.stores[0].path
            raise UserError(f"{where}: no background for {name} in which a floor was found")
    return sides


def _blocks(num: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Bool (num) each: rooms of training and of validation; a guard between them is in neither."""
    blocks = min(BLOCKS, num)
    chosen = min(max(1, round(blocks * share)), blocks - 1)
    is_val = np.zeros(blocks, bool)
    is_val[(np.arange(chosen) + 0.5).astype(int) * blocks // max(chosen, 1)] = True
    is_val = np.roll(is_val, blocks // (2 * max(chosen, 1)))
    val = is_val[np.arange(num) * blocks // num]
    near = val.copy()
    for step in range(1, min(GUARD, num // (8 * blocks)) + 1):
        near[step:] |= val[:-step]
        near[:-step] |= val[step:]
    return ~near, val


def _look_at(kit: Kit, chunk: list[tuple[str, int]]) -> list[tuple]:
    """For a room its floor and largest depth in mm, for a cut-out the digest of its bytes."""
    return [
        _look_at_room(kit, i) if what == "room" else _look_at_cutout(kit, i) for what, i in chunk
    ]


def _look_at_room(kit: Kit, i: int) -> tuple[Floor | None, int, None]:
    view = kit.view(i, None)
    if view.depth_mm is None:
        return None, 0, None
    return find_floor(view.depth_mm / np.float32(1000), view.camera), int(view.depth_mm.max()), None


def _look_at_cutout(kit: Kit, i: int) -> tuple[None, int, bytes]:
    kit.figure(i)
    return None, 0, hashlib.blake2b(kit.cutouts.read(i), digest_size=8).digest()


def _list_pictures(path: Path | str) -> Pictures:
    """Every picture below a path; UserError if there is none."""
    stores, found = open_stores([path]), []
    for number, store in enumerate(stores):
        for member, name in enumerate(store.names()):
            if name.lower().endswith(IMAGE_SUFFIXES):
                found.append((name.rsplit(".", 1)[0], (number, member)))
    if not found:
        raise UserError(f"{path}: no pictures, expected files of {', '.join(IMAGE_SUFFIXES)}")
    found.sort()
    return Pictures(stores, [place for _, place in found], [key for key, _ in found])


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
    if values.min() < 0 or values.max() > 65535:
        raise UserError(f"{name}: values up to {values.max()}, expected 16 bits")
    return values.astype(np.uint16)
