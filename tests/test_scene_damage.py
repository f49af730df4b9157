"""Rendered scenes of damage: exact labels, every kind often enough, the same bytes for a seed."""

from collections import Counter

import numpy as np
import pytest

from datasets.damage import CLASSES
from datasets.scenes.damage import PAINTERS, kinds_of, render_damage
from datasets.scenes.pictures import lay_out
from datasets.task import IGNORE

CHANGED = 12  # of 255, in the colour that changed most: what an eye sees side by side
NEAR = 9  # pixels at 256: how far shadows, lips and faint margins reach out of a label


def grow(mask, steps):
    """A mask and all that lies within `steps` pixels of it, counted along rows and columns."""
    for _ in range(steps):
        wide = np.pad(mask, 1)
        mask = mask | wide[2:, 1:-1] | wide[:-2, 1:-1] | wide[1:-1, 2:] | wide[1:-1, :-2]
    return mask


def damaged(kind, seed, height=128, width=160):
    """One kind of damage on a sound object: its mask, each pixel's change, where the object is."""
    canvas = lay_out(np.random.default_rng([seed, 0]), height, width)
    before, inside = canvas.image.copy(), canvas.inset > 0
    mask = PAINTERS[kind](canvas, np.random.default_rng([seed, 1]))
    assert mask.shape == (height, width)
    assert mask.dtype == bool
    return mask & inside, np.abs(canvas.image - before).max(2), inside


def test_a_seed_gives_the_same_bytes_and_another_seed_others():
    first, again, other = (render_damage(seed, 64, 96) for seed in (5, 5, 6))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert (first.material, first.content) == (again.material, again.content)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize(("height", "width"), [(97, 131), (131, 97), (64, 64), (256, 320)])
def test_sizes_types_and_values(height, width):
    for seed in range(8):
        scene = render_damage(seed, height, width)
        assert scene.image.shape == (height, width, 3)
        assert scene.labels.shape == (height, width)
        assert scene.image.dtype == scene.labels.dtype == np.uint8
        assert set(np.unique(scene.labels)) <= {*range(len(CLASSES)), IGNORE}


def test_every_damage_has_a_painter():
    assert {"Clean", *PAINTERS} == set(CLASSES)


@pytest.mark.parametrize("start", range(0, 60, 7))
def test_a_hundred_seeds_in_a_row_hold_each_kind_at_least_twelve_times(start):
    kinds = [kinds_of(seed) for seed in range(start, start + 100)]
    assert all(2 <= len(set(scene)) == len(scene) <= 5 for scene in kinds)
    counts = Counter(kind for scene in kinds for kind in scene)
    assert set(counts) == set(PAINTERS)
    assert min(counts.values()) >= 12


def test_shares_of_the_classes():
    pixels, scenes = np.zeros(256), np.zeros(256)
    materials, contents = set(), set()
    for seed in range(100):
        scene = render_damage(seed, 128, 160)
        count = np.bincount(scene.labels.ravel(), minlength=256)
        assert 0.03 <= count[IGNORE] / count.sum() <= 0.15
        pixels, scenes = pixels + count, scenes + (count > 0)
        materials.add(scene.material)
        contents.add(scene.content)
    shares = pixels[: len(CLASSES)] / pixels[: len(CLASSES)].sum()
    assert 0.70 <= shares[0] <= 0.88
    assert shares[1:].min() > 0.002
    assert shares[1:].max() < 0.05
    assert scenes[1 : len(CLASSES)].min() >= 12
    assert len(materials) == 10
    assert len(contents) == 4


@pytest.mark.parametrize("kind", PAINTERS)
def test_a_labelled_pixel_looks_different_and_others_do_not(kind):
    changes, margins = [], []
    for seed in range(12):
        mask, change, inside = damaged(kind, seed)
        changes.append(change[mask])
        margins.append(change[inside & ~grow(mask, NEAR // 2)])  # the scene is half of 256
    changes, margins = np.concatenate(changes), np.concatenate(margins)
    assert (changes > CHANGED).mean() > 0.85
    assert (margins > CHANGED).mean() < 0.06  # a light leak fades slowly
    assert (margins > 5 * CHANGED).mean() < 0.001


@pytest.mark.parametrize("kind", PAINTERS)
def test_no_damage_is_thinner_than_two_pixels(kind):
    """A square of 2 x 2 pixels, moved about inside the label, covers nearly all of it."""
    inside = total = 0
    for seed in range(6):
        mask, _, _ = damaged(kind, seed)
        corner = mask[1:, 1:] & mask[:-1, 1:] & mask[1:, :-1] & mask[:-1, :-1]
        square = np.zeros_like(mask)
        for down in (0, 1):
            for across in (0, 1):
                rows, columns = corner.shape
                square[down : down + rows, across : across + columns] |= corner
        inside, total = inside + square.sum(), total + mask.sum()
    assert inside / total > 0.85


def test_the_damage_of_a_scene_is_all_that_differs_from_the_undamaged_one():
    for seed in range(10):
        scene = render_damage(seed, 128, 160)
        clean = lay_out(np.random.default_rng([seed, 0]), 128, 160)
        plain = clean.develop(np.random.default_rng([seed, 3]))
        change = np.abs(scene.image.astype(int) - plain).max(2)
        damage = (scene.labels > 0) & (scene.labels != IGNORE)
        far = (scene.labels == 0) & ~grow(damage, NEAR)
        assert (change[damage] > CHANGED).mean() > 0.75
        assert (change[far] > 4 * CHANGED).mean() < 0.01
        assert np.array_equal(scene.labels == IGNORE, clean.inset <= 0)
