"""A seed and a size -> a labelled scene: a damaged photograph, painting, manuscript or print."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from datasets.damage import CLASSES
from datasets.scenes.canvas import Array
from datasets.scenes.decay import (
    burn_marks,
    cracks,
    dirt,
    fold,
    light_leak,
    material_loss,
    peel,
    staining,
)
from datasets.scenes.marks import dust, hair, puncture, scratch, stamp, sticker, writing
from datasets.scenes.pictures import lay_out
from datasets.task import IGNORE

# In the order they are laid on: what tints or removes a layer first, what lies loose on top last.
PAINTERS = {
    "Lightleak": light_leak,
    "Staining": staining,
    "Dirt": dirt,
    "Fold": fold,
    "Peel": peel,
    "Cracks": cracks,
    "Burn marks": burn_marks,
    "Material loss": material_loss,
    "Stamp": stamp,
    "Writing": writing,
    "Scratch": scratch,
    "Puncture": puncture,
    "Sticker": sticker,
    "Dust": dust,
    "Hair": hair,
}


class DamageScene(NamedTuple):
    """image: uint8 (H, W, 3). labels: uint8 (H, W), position in CLASSES, 255 on the table."""

    image: Array
    labels: Array
    material: str
    content: str


def render_damage(seed: int, height: int, width: int) -> DamageScene:
    """The scene of `seed` at a size, the same bytes every time; its damage is what `labels` says.

    Where kinds overlap, the one laid on last has the label. Outside the labels the image changes
    only near them: smooth outlines, a sticker's shadow, the lips of cracks, what is below FAINT.
    """
    canvas = lay_out(np.random.default_rng([seed, 0]), height, width)
    labels, rng = np.zeros((height, width), np.uint8), np.random.default_rng([seed, 1])
    for kind in kinds_of(seed):
        labels[PAINTERS[kind](canvas, rng)] = list(CLASSES).index(kind)
    labels[canvas.inset <= 0] = IGNORE
    image = canvas.develop(np.random.default_rng([seed, 3]))
    return DamageScene(image, labels, canvas.material, canvas.content)


def kinds_of(seed: int) -> list[str]:
    """The 2 to 5 kinds of damage in a scene, in the order of PAINTERS.

    Each block of 15 seeds deals every kind equally often, 2, 3, 4 or 5 times, in other company;
    100 seeds in a row hold five whole blocks, hence each kind at least 16 times.
    """
    names = list(PAINTERS)
    block, count = seed // len(names), 2 + seed // len(names) % 4
    offsets = np.random.default_rng([block, 2]).permutation(len(names))[:count]
    return [names[i] for i in sorted((seed + offsets) % len(names))]
