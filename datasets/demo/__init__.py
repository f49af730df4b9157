"""Small labelled pictures for any task, in its own layout: the data of a run that names none.

Picture i is a function of seed i alone: same code, same bytes.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.cityscapes import CITYSCAPES, CITYSCAPES24
from datasets.demo import flat, room, street
from datasets.demo.scene import Scene, draw_file, file_of, names_of
from datasets.processes import run_in_order
from datasets.stores.write import write_hdf5, write_zip
from datasets.task import Task, UserError

NUM = 200  # pictures of a demo
VAL_EVERY = 6  # where names say which split a picture belongs to
GROUP = 4  # pictures that share the fields of their names that are neither key nor split
LARGEST = 512  # the longer side of a picture
KNOWN_SHARE = 1 / 3  # of a task's classes that a scene must know to be theirs
NOTE = "drawn.txt"  # beside the shards, written last: what they were drawn from
CITIES = ("aldorf", "bergen", "cassel", "dorstadt")


# Scene, class names that it shows, how many of them a task must use at least, whether it has depth.
PAINTERS = (
    (flat.draw_photograph, (flat.CLEAN, *flat.PAINTERS), 3, False),
    (room.draw_room, room.WORDS, 1, True),
    (street.draw_street, street.WORDS, 1, True),
)
# The shards of a task, by what member names start with; any other task has one zip.
SHARDS = {
    "damage": {"artefact.h5": ""},
    "cityscapes": {"leftImg8bit_demo.zip": "leftImg8bit", "gtFine_demo.zip": "gtFine"},
    "maskdepth": {"output_1.zip": ""},
}


def demo_shards(task: Task, root: Path, num: int = NUM) -> list[Path]:
    """The demo of a task, in a folder of its own below `root`, drawn first if it is not there, or
    was drawn by other code or for another layout. UserError: a file of a kind nobody can write."""
    name = task.name
    if name in (CITYSCAPES.name, CITYSCAPES24.name) and task.image == CITYSCAPES.image:
        task, name = CITYSCAPES24, CITYSCAPES.name  # over the same files: drawn once
    folder, wanted = root / name, _fingerprint(task, num)
    shards = {folder / file: start for file, start in SHARDS.get(name, {"demo.zip": ""}).items()}
    note = folder / NOTE
    if note.is_file() and note.read_text() == wanted and all(path.is_file() for path in shards):
        return list(shards)
    drawn = run_in_order(draw_members, task, range(num), min(os.cpu_count() or 1, 8, num))
    results = list(tqdm(drawn, f"drawing {name}", num, unit="picture", disable=None))
    members = {member: data for files, _ in results for member, data in files.items()}
    if task.metadata:
        rows = [list(results[0][1]), *(row.values() for _, row in results)]
        members[task.metadata] = "".join(",".join(row) + "\n" for row in rows).encode()
    note.unlink(missing_ok=True)
    for path, start in shards.items():
        write = write_hdf5 if path.suffix == ".h5" else write_zip
        write(path, [item for item in members.items() if item[0].startswith(start)])
    note.write_text(wanted)
    return list(shards)


def _fingerprint(task: Task, num: int) -> str:
    """What a demo depends on: this code, the task's layout, and the number of pictures."""
    outputs = [o.to_json() | {"loss": "", "weight": 0, "decoder": ""} for o in task.dense]
    layout = [task.image, task.splits, task.metadata, task.resize, task.defaults.get("size"), num]
    digest = hashlib.blake2b(json.dumps([layout, outputs], sort_keys=True).encode(), digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.[pj][ys]*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def choose_painter(task: Task) -> Callable[..., Scene]:
    """The scene that knows most of the task's classes; a surface where none knows enough."""
    names, deep = set(names_of(task)), any(file_of(output).deep for output in task.outputs)
    if not names:
        return room.draw_room
    known = [len(names & {*words}) * (is_deep or not deep) for _, words, _, is_deep in PAINTERS]
    draw, _, least, _ = PAINTERS[int(np.argmax(known))]
    return draw if max(known) >= max(least, KNOWN_SHARE * len(names)) else flat.draw_surface


def draw_scene(task: Task, seed: int) -> Scene:
    """Picture number `seed` of a task's demo."""
    rng = np.random.default_rng(seed)
    size = tuple(min(int(side), LARGEST) for side in task.defaults.get("size", (256, 256)))
    if not task.resize:  # crops of pictures of several sizes
        size = tuple(int(side * rng.uniform(1, 1.3)) for side in size)
    return choose_painter(task)(rng, size, names_of(task))


def draw_members(task: Task, seed: int) -> tuple[dict[str, bytes], dict[str, str]]:
    """Picture number `seed` as encoded members by name, and its row of metadata."""
    scene, city = draw_scene(task, seed), CITIES[seed // GROUP % len(CITIES)]
    key = f"{city}_{seed:06d}_000019" if "{city}" in task.image else f"demo{seed:04d}"
    split = task.splits.get("train" if seed % VAL_EVERY else "val", "train")
    fields = {"split": split, "city": city, "part": "1", "key": key}
    group, members = f"{seed // GROUP:02d}", {}  # what fields stand for that nothing is known of
    for template in dict.fromkeys((task.image, *(output.files for output in task.dense))):
        outputs = [output for output in task.dense if output.files == template]
        text = template[:-1] + "png" if template.endswith(".*") else template
        member = re.sub(r"\{(\w+)\}|\*", lambda match: fields.get(match[1] or "", group), text)
        form = Image.registered_extensions().get(Path(member).suffix.lower(), "")
        file = io.BytesIO()
        try:
            pixels = draw_file(scene, outputs, template == task.image, form == "JPEG")
            Image.fromarray(pixels).save(file, form, quality=92, compress_level=1)
        except (OSError, ValueError, KeyError):
            raise UserError(f"{member}: no demo of such files, expected .png or .jpg") from None
        members[member] = file.getvalue()
    return members, {"id": key, **scene.about}
