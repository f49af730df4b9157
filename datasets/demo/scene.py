"""A scene and an output go in; the pixels of that output's file come out, whatever the task."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

from datasets.task import CHANNELS, IGNORE, MAX_UINT16, Classes, Depth, Mask, Normals, Output, Task

# What is in `things.json`: parts of models, furniture, colours, and two tables of names as `plain`
# writes them. same: what a data set calls something -> what it is called here. broader: what has no
# class of its own in a task belongs to the next that has one.
THINGS = json.loads(Path(__file__).with_name("things.json").read_text())


class Scene(NamedTuple):
    """What is to be seen, and all that is true of it.

    image: uint8 (H, W, 3). ids: uint8 (H, W), positions in `names` (as `plain` writes them; "" is
    whatever nobody asked for), or IGNORE. front: bool (H, W), what a mask shows that names nothing.
    about: further facts, such as the material: a row of the metadata. If it has depth: depth_m:
    float32 (H, W), metres along the optical axis, which meets the middle of the picture; normals:
    float32 (H, W, 3), where surfaces face: to the right, up, to the camera.
    """

    image: ndarray
    ids: ndarray
    names: tuple[str, ...]
    front: ndarray
    about: dict[str, str] = {}  # never changed
    depth_m: ndarray = np.empty(0)
    normals: ndarray = np.empty(0)


def plain(name: str) -> str:
    """A class's name as scenes spell it: lower case, letters and digits, singular."""
    word = "".join(letter for letter in name.lower() if letter.isalnum())
    word = word if word.endswith(("ss", "us")) else word.removesuffix("s")
    return THINGS["same"].get(word, word)


def names_of(task: Task) -> list[str]:
    """Every class of the task and every mask, as scenes spell them, each once."""
    names = (plain(name) for output in task.outputs for name in file_of(output).names(output))
    return list(dict.fromkeys(names))


def draw_classes(scene: Scene, output: Classes, lossy: bool) -> ndarray:
    """Label values (H, W), or colours (H, W, 3) where the task ignores colours and no value.

    A thing without a class is what is broader, else ignored, else the first class.
    """
    classes = [plain(name) for name in output.classes]
    table = np.full(256, -1)
    for i, name in enumerate(scene.names):
        while name not in classes and name in THINGS["broader"]:
            name = THINGS["broader"][name]
        table[i] = classes.index(name) if name in classes else -1
    if "" in scene.names or not (output.ignored or output.ignored_colors):
        table[:IGNORE] = np.maximum(table[:IGNORE], 0)
    ids = table[scene.ids]
    if output.ignored_colors and not output.ignored and not output.channel:
        colors = [bytes.fromhex(color) for color in (*output.colors, output.ignored_colors[0])]
        return np.array([list(color) for color in colors], np.uint8)[ids]
    rest = IGNORE if IGNORE in output.ignored else (*output.ignored, output.values[0])[0]
    values = np.array([*output.values, rest])
    return values.astype(np.uint8 if values.max() <= 255 else np.uint16)[ids]


def draw_mask(scene: Scene, output: Mask, lossy: bool) -> ndarray:
    """0 and 255 (H, W), or colours (H, W, 3): what bears the output's name, or stands in front."""
    name = plain(output.name)
    shown = scene.ids == scene.names.index(name) if name in scene.names else scene.front
    if output.colors:
        listed = [list(bytes.fromhex(color)) for color in output.colors + output.ignored_colors]
        other = next([grey] * 3 for grey in range(256) if [grey] * 3 not in listed)
        return np.array([other, listed[0]], np.uint8)[shown.astype(int)]
    return np.where(shown, np.uint8(255), np.uint8(0))


def draw_depth(scene: Scene, output: Depth, lossy: bool) -> ndarray:
    """The numbers (H, W) that mean the depth; relative depth spans each picture's own range.

    What is farther than the file or the head can say is missing where the task has a value for
    that, else as far as it can say. A scene that is larger altogether is shrunk.
    """
    depth, full = scene.depth_m, 255 if lossy else MAX_UINT16
    scale = output.scale or 1 / full
    limit = min(output.max_depth, full * scale)
    if not output.unit:
        depth = (depth - depth.min()) * (limit / max(np.ptp(depth), 1e-6))
    elif np.median(depth) > limit:
        depth = depth * (0.95 * limit / depth.max())
    values = np.rint(np.minimum(depth, limit) / scale)
    if output.missing >= 0:
        values[values == output.missing] += 1 if output.missing == 0 else -1
        values[depth > limit * (1 + 1e-6)] = output.missing
    return np.clip(values, 0, full).astype(np.uint8 if lossy else np.uint16)


def draw_normals(scene: Scene, output: Normals, lossy: bool) -> ndarray:
    """Colours (H, W, 3) of the directions that surfaces face."""
    return np.rint(scene.normals * 127.5 + 127.5).astype(np.uint8)


def no_file(scene: Scene, output: Output, lossy: bool) -> ndarray:
    """A label is a field of the name, or stands in the scene's `about`."""
    raise NotImplementedError(output.name)


class File(NamedTuple):
    """What the demo must know of a kind: the pixels of its file, from (scene, output, whether the
    file is lossy); what a scene should show for it; whether the scene must have depth."""

    pixels: Callable[[Scene, Any, bool], ndarray]
    names: Callable[[Output], tuple[str, ...]]
    deep: bool = False


FILES = {
    "classes": File(draw_classes, lambda output: output.labels),
    "mask": File(draw_mask, lambda output: (output.name,)),
    "depth": File(draw_depth, lambda output: (), deep=True),
    "normals": File(draw_normals, lambda output: (), deep=True),
    "label": File(no_file, lambda output: ()),
}


def draw_file(scene: Scene, outputs: list[Output], is_image: bool, lossy: bool) -> ndarray:
    """The pixels of a file that these outputs share, each in a channel of its own, over the image
    if they are in its file."""
    bands = dict(zip(CHANNELS, scene.image.transpose(2, 0, 1), strict=False)) if is_image else {}
    for output in outputs:
        pixels = file_of(output).pixels(scene, output, lossy or bool(output.channel))
        if not output.channel:
            return pixels
        bands[output.channel] = pixels
    names, nothing = CHANNELS if "A" in bands else CHANNELS[:3], np.zeros_like(scene.ids)
    return np.stack([bands.get(name, nothing) for name in names], axis=2)


def file_of(output: Output) -> File:
    """What the demo must know of this output's kind."""
    return FILES[output.kind]
