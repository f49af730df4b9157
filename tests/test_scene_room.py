"""Rendered rooms: labels that geometry predicts, bytes that depend on seed and size alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from datasets.scenes.figures import FIGURES
from datasets.scenes.furniture import ALONG_WALLS, LOOSE, picture, window
from datasets.scenes.paints import plain
from datasets.scenes.room import make_camera, make_room, relative_depth, render_room
from datasets.scenes.solids import Thing, ball, both, box, drum, limb, place, rod
from datasets.scenes.view import Camera, Room, ZBuffer, lamp_shadow

SEEDS = range(12)
GREY = plain((0.5, 0.5, 0.5))
AHEAD = Camera((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), 100.0, 97, 131)
HALL = Room((-30.0, 0.0, -1.0), (30.0, 50.0, 20.0), GREY, GREY, GREY, GREY)


def test_same_seed_same_bytes():
    first, second = render_room(3, 97, 131), render_room(3, 97, 131)
    assert [part.tobytes() for part in first] == [part.tobytes() for part in second]


def test_another_seed_is_another_room():
    first, second = render_room(3, 64, 64), render_room(4, 64, 64)
    for a, b in zip(first, second, strict=True):
        assert np.mean(a != b) > 0.02


@pytest.mark.parametrize("size", [(97, 131), (224, 224), (33, 64)])
@pytest.mark.parametrize("seed", SEEDS)
def test_shapes_types_and_ranges(seed, size):
    image, mask, depth_m = render_room(seed, *size)
    assert (image.shape, image.dtype) == ((*size, 3), np.uint8)
    assert (mask.shape, mask.dtype) == (size, np.uint8)
    assert (depth_m.shape, depth_m.dtype) == (size, np.float32)
    assert set(np.unique(mask)) == {0, 255}
    assert 0.01 < np.mean(mask == 255) < 0.6
    assert np.isfinite(depth_m).all()
    assert depth_m.min() > 0.3
    assert depth_m.max() < 15
    assert 40 < image.mean() < 200
    assert image.std() > 20


@pytest.mark.parametrize("seed", SEEDS)
def test_mask_is_where_figures_come_nearer_than_the_room(seed):
    scene, empty = render_room(seed, 97, 131), render_room(seed, 97, 131, figures=False)
    assert not empty.mask.any()
    assert (scene.depth_m <= empty.depth_m).all()
    np.testing.assert_array_equal(scene.mask == 255, scene.depth_m < empty.depth_m)


@pytest.mark.parametrize("seed", SEEDS)
def test_figures_stand_out_from_the_room_behind_them(seed):
    """Their pixels differ from the empty room's; far from them and their shadows nothing does."""
    scene, empty = render_room(seed, 97, 131), render_room(seed, 97, 131, figures=False)
    change = np.abs(scene.image.astype(int) - empty.image).mean(axis=2)
    assert change[scene.mask == 255].mean() > 15
    assert np.median(change[scene.mask == 0]) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_floor_depth_is_height_over_slope(seed):
    """z = h / (sin pitch + cos pitch * y) for the image row y focal lengths below the centre."""
    rng = np.random.default_rng(seed)
    room, camera = make_room(rng), make_camera(rng, 97, 131)
    buffer = ZBuffer(camera, room)
    floor = buffer.solid == 0
    below = (np.arange(97) + 0.5 - 97 / 2) / camera.focal
    pitch = math.asin(-camera.forward[1])
    slope = np.maximum(math.sin(pitch) + math.cos(pitch) * below, 1e-6)
    expected = np.repeat((camera.position[1] / slope)[:, None], 131, axis=1)
    assert floor.mean() > 0.1
    np.testing.assert_allclose(buffer.depth_m[floor], expected[floor], rtol=1e-5)
    scene = render_room(seed, 97, 131, figures=False)
    assert (scene.depth_m <= buffer.depth_m).all()
    assert np.mean(scene.depth_m[floor] == buffer.depth_m[floor]) > 0.2


@pytest.mark.parametrize(
    ("solid", "front_m", "half_pixels"),
    [
        (ball((0, 1, 5), (1, 1, 1), GREY), 4.0, 100 / math.sqrt(24)),
        (ball((0, 1, 5), (0.5, 1, 2), GREY), 3.0, 100 * 0.5 / math.sqrt(21)),
        (box((0, 1, 5), (0.8, 1, 1), GREY), 4.0, 100 * 0.8 / 4),
        (drum((0, 1, 5), 1.0, 0.5, GREY), 4.0, 100 / math.sqrt(24)),
        (drum((0, 1, 5), 1.0, 0.8, GREY, 0.3), 4.0, 100 / math.sqrt(24)),
        (rod((0, 0.5, 5), (0, 1.5, 5), 0.4, GREY), 4.6, 100 * 0.4 / math.sqrt(25 - 0.16)),
        (rod((0, 1, 4), (0, 1, 6), 0.5, GREY), 4.0, 100 * 0.5 / 4),
        (limb((0, 0.5, 5), (0, 1.5, 5), 0.4, GREY), 4.6, 100 * 0.4 / math.sqrt(25 - 0.16)),
    ],
)
def test_solids_straight_ahead(solid, front_m, half_pixels):
    """Five metres ahead at eye level: depth of the nearest point, width of the outline there."""
    buffer = ZBuffer(AHEAD, HALL)
    buffer.draw(solid)
    row = buffer.depth_m[48]  # the middle row, where y = 0
    assert row[65] == pytest.approx(front_m, abs=2e-3)
    np.testing.assert_array_equal(row, row[::-1])
    assert abs(np.sum(row < 19) / 2 - half_pixels) <= 0.5
    assert buffer.normal[2, 48, 65] == pytest.approx(-1, abs=0.35 if solid.taper else 0.02)
    lengths = np.sqrt(np.sum(buffer.normal.astype(float) ** 2, axis=0))
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


@pytest.mark.parametrize("solid", [ball, box, drum])
def test_hits_lie_on_the_unit_shape(solid):
    """Rays from all around, at random, and the equation of each surface."""
    rng = np.random.default_rng(0)
    size = (
        {"radius": 0.7, "half": 0.4, "taper": -0.3} if solid is drum else {"half": (0.7, 0.4, 1.0)}
    )
    made = solid(center=(1.0, 2.0, 3.0), paint=GREY, **size)
    origin, target = rng.normal(size=(3, 500)) * 5, rng.normal(size=(3, 500)) * 0.3
    direction = target + np.array([[1.0], [2.0], [3.0]]) - origin
    t, start, ahead = made.hit(origin, direction)
    seen = np.isfinite(t)
    x, y, z = (o[seen] + t[seen] * d[seen] for o, d in zip(start, ahead, strict=True))
    assert len(x) > 250
    if solid is ball:
        on_surface = x * x + y * y + z * z
    elif solid is box:
        on_surface = np.maximum(np.maximum(abs(x), abs(y)), abs(z))
    else:
        on_surface = np.maximum(np.sqrt(x * x + z * z) / (1 - 0.3 * y), abs(y))
    np.testing.assert_allclose(on_surface, 1, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_camera_axes_are_orthonormal(seed):
    camera = make_camera(np.random.default_rng(seed), 97, 131)
    axes = np.array([camera.right, camera.up, camera.forward])
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)


def test_window_holds_the_whole_solid():
    """Drawing within the projected corners loses no pixel of a tilted solid."""
    solid = limb((-0.7, 0.6, 2.0), (0.9, 1.5, 3.0), 0.3, GREY, 0.4)
    buffer = ZBuffer(AHEAD, HALL)
    everywhere = solid.hit(AHEAD.position, buffer.rays)[0]
    buffer.draw(solid)
    np.testing.assert_array_equal(buffer.solid == 1, np.isfinite(everywhere))


def test_nearest_solid_wins_in_any_order():
    near, far = box((0, 1, 3), (0.2, 0.2, 0.1), GREY), ball((0, 1, 5), (1, 1, 1), GREY)
    first, second = ZBuffer(AHEAD, HALL), ZBuffer(AHEAD, HALL)
    for buffer, order in ((first, (near, far)), (second, (far, near))):
        for solid in order:
            buffer.draw(solid, figure=solid is far)
    np.testing.assert_array_equal(first.depth_m, second.depth_m)
    np.testing.assert_array_equal(first.figure, second.figure)
    assert not first.figure[48, 65]  # the furniture before the figure is not in the mask
    assert first.figure.any()


def test_both_is_symmetrical():
    buffer = ZBuffer(AHEAD, HALL)
    for solid in both(limb((0.3, 0.5, 3), (0.9, 1.4, 4), 0.2, GREY)):
        buffer.draw(solid)
    seen = buffer.depth_m < 19
    assert seen.sum() > 100
    np.testing.assert_array_equal(seen, seen[:, ::-1])


@pytest.mark.parametrize("make", [kind.make for kind in FIGURES] + [*ALONG_WALLS, *LOOSE])
def test_things_stand_on_the_floor(make):
    """The lowest corner of a thing's solids is at most a hair above or below the floor."""
    for seed in range(4):
        thing = make(np.random.default_rng(seed))
        lowest = min(s.center[1] - sum(abs(axis[1]) for axis in s.axes) for s in thing.solids)
        assert -0.06 < lowest < 0.03


@pytest.mark.parametrize("make", [picture, window])
def test_what_hangs_touches_its_wall(make):
    placed = place(make(np.random.default_rng(0)), 1.0, 5.0, (0.0, -1.0))
    backs = [s.center[2] + sum(abs(axis[2]) for axis in s.axes) for s in placed.solids]
    assert max(backs) < 5.03


def test_shadow_falls_below_a_ball_under_the_lamp():
    thing = Thing([ball((0, 1, 0), (0.5, 0.2, 0.5), GREY)], 1.0, 1.0)
    hanging = place(thing, 0.0, 5.0, (0.0, -1.0))
    buffer = ZBuffer(AHEAD, HALL)
    lit = lamp_shadow(buffer, (0.0, 3.0, 5.0), [hanging])
    row = round(97 / 2 + 100 * 1.0 / 5.0)  # the floor five metres ahead
    assert lit[row, 65] == 0
    assert lit[row, 5] == 1
    assert lit[row, 125] == 1
    assert lamp_shadow(buffer, (0.0, 3.0, 5.0), []).min() == 1


def test_relative_depth_is_dark_near_bright_far_and_spans_the_range():
    depth_m = np.array([[1.0, 2.0, 3.0], [5.0, 1.5, 2.0]], np.float32)
    np.testing.assert_array_equal(relative_depth(depth_m), [[0, 64, 128], [255, 32, 64]])
    assert relative_depth(depth_m).dtype == np.uint8
    assert not relative_depth(np.full((3, 5), 2.5, np.float32)).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_relative_depth_keeps_the_order_of_a_room(seed):
    depth_m = render_room(seed, 97, 131).depth_m
    relative = relative_depth(depth_m)
    in_order = relative.ravel()[np.argsort(depth_m, axis=None)].astype(int)
    assert (np.diff(in_order) >= 0).all()
    assert (in_order[0], in_order[-1]) == (0, 255)
