"""What a row of the tables of situations is: data as people have it on their disks, and what of it
must be read back, or be said in a line.

`test_situations_names.py` (names, links, shards, layouts), `test_situations_pixels.py` (what files
hold) and `test_situations_runs.py` (flags of a resumed run, damaged samples) hold the rows.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import put
from PIL import Image

from datasets.dataset import open_task
from datasets.look import look
from datasets.task import Classes, Depth, Mask, Output, Task, UserError
from utils.command import one_line

NUM = 10
MASK = Mask("leaf", "masks/{key}.png")
ANY_MASK = Mask("leaf", "masks/{key}.*")
THREE = Classes("leaf", "masks/{key}.*", classes=("a", "b", "c"))
METRES = Depth("far", "masks/{key}.*", scale=0.001, max_depth=10, unit="m", missing=0)
HALF = np.repeat([[1] * 5 + [0] * 5], 6, axis=0).astype(np.uint8)  # what targets say: left, right
IDS = np.repeat([[0, 1, 2, 2, 1, 0, 0, 1, 2, 0]], 6, axis=0).astype(np.uint8)
SIDES = np.where(HALF[..., None], [200, 40, 40], [40, 40, 200]).astype(np.uint8)  # an image


class Situation(NamedTuple):
    """words: what the data is like. write: makes it in an empty folder; the paths for --data, or
    None for the folder. reads: target of every sample (H, W). shows: the image of every sample,
    (H, W, 3), within `near`. keys: the images that are used. says: words of the one line that
    refuses it. tells: words of the lines that are printed before training."""

    words: str
    write: Callable[[Path], Any]
    output: Output = MASK
    image: str = "photos/{key}.*"
    reads: Any = None
    shows: Any = None
    near: float = 0
    keys: Any = None
    says: tuple[str, ...] = ()
    tells: tuple[str, ...] = ()
    task: dict[str, Any] = {}
    split_by: Any = None

    def check(self, folder: Path) -> None:
        """The data is read right, or what is wrong with it is said."""
        folder.mkdir(exist_ok=True)
        paths = self.write(folder) or [folder]
        layout = {"val_share": 0.3} | self.task
        task = Task("t", self.image, (self.output,), f"{self.output.name}/x", **layout)
        if self.says:
            with pytest.raises(UserError) as error:
                self._read(task, paths)
            line = one_line(error.value)
            assert [word for word in self.says if word not in line] == [], line
            assert line == str(error.value).strip(), "more than a line"
            return
        samples, lines = self._read(task, paths)
        assert [word for word in self.tells if word not in "\n".join(lines)] == [], lines
        if not self.tells:  # what is read right raises no alarm
            about = ("left out", f": {self.output.name}: ", "split")
            assert [line for line in lines if any(word in line for word in about)] == []
        if self.keys is not None:
            assert sorted(Path(sample.key).name for sample in samples) == sorted(self.keys)
        else:
            assert len(samples) == NUM
        for sample in samples:
            if self.reads is not None:
                found = sample.targets[self.output.name].numpy()
                np.testing.assert_allclose(found, self.reads, rtol=2e-3)
            if self.shows is not None:
                found = sample.image.permute(1, 2, 0).numpy().astype(int)
                assert found.shape == self.shows.shape
                assert np.abs(found - self.shows).max() <= self.near

    def _read(self, task: Task, paths: list[Path]) -> tuple[list[Any], list[str]]:
        data = open_task(task, paths, (8, 8), self.split_by)
        lines = look(data)
        sides = (data.train, data.val)
        return [side.load(int(i)) for side in sides for i in side.indices], lines


def saved(pixels: Any, form: str = "PNG", **options: Any) -> bytes:
    """A picture, or pixels, as a file of that format."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def photo(i: int = 0) -> bytes:
    """A picture of noise, 10 wide and 6 high."""
    return saved(np.random.default_rng(i).integers(0, 256, (6, 10, 3), np.uint8))


def members(
    target: bytes | None = None,
    image: bytes | None = None,
    photos: str = "photos/{}.png",
    masks: str = "masks/{}.png",
    num: int = NUM,
    **more: bytes,
) -> dict[str, bytes]:
    """Images and targets by name, 00 to 09; by default noise and masks of 255 and 0."""
    target = saved(HALF * 255) if target is None else target
    names = [f"{i:02d}" for i in range(num)]
    made = {
        photos.format(name): photo(i) if image is None else image for i, name in enumerate(names)
    }
    return made | {masks.format(name): target for name in names} | more


def files(*parts: Any, **settings: Any) -> Callable[[Path], Any]:
    """A function that writes `members` of these settings, and more (name -> bytes), to a folder."""

    def write(folder: Path) -> None:
        put(folder, members(*parts, **settings))

    return write


def zipped(*settings: Any, **more: Any) -> Callable[[Path], Any]:
    """The same in one zip, as Python writes it."""

    def write(folder: Path) -> list[Path]:
        return [zip_file(folder / "data.zip", members(*settings, **more))]

    return write


def zip_file(path: Path, contents: dict[str, bytes], **options: Any) -> Path:
    """A zip of these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, data in contents.items():
            file.writestr(name, data)
    return path
