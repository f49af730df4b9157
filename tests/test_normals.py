"""Normals are directions in the picture: they turn with it, and are mirrored with it."""

import numpy as np
import pytest
import torch
from conftest import encode

from datasets.check.statistics import STATISTICS
from datasets.decode import decode_target
from datasets.demo.scene import FILES
from datasets.demo.view import View
from datasets.task import Normals
from datasets.transforms import Box, Move, move_normals
from models import ModelSpec, UNet
from utils.compute import Compute
from utils.predict import Predictor

OUTPUT = Normals("faces", "n/{key}.png")


def decoded(*colors, output=OUTPUT):
    return decode_target(encode(np.uint8([colors]), "a.png"), "a.png", output)[:, 0].T.numpy()


def test_colours_of_the_convention():
    """x to the right, y up, z towards the camera, each n * 0.5 + 0.5."""
    front, right, up = decoded((128, 128, 255), (255, 128, 128), (128, 255, 128))
    for found, axis in ((front, 2), (right, 0), (up, 1)):
        assert found[axis] == pytest.approx(1, abs=1e-4)
        assert np.linalg.norm(found) == pytest.approx(1)


def test_what_is_no_unit_vector_is_unknown():
    assert not decoded((0, 0, 0), (128, 128, 128), (255, 255, 255), (128, 128, 180)).any()
    named = Normals("faces", "n/{key}.png", invalid="8080FF")
    assert decoded((128, 128, 255), (255, 128, 128), output=named).any(1).tolist() == [False, True]


@pytest.mark.parametrize("pixels", [np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint16)])
def test_one_channel_is_refused(pixels):
    with pytest.raises(ValueError, match="a.png: normals of mode .*, expected RGB"):
        decode_target(encode(pixels, "a.png"), "a.png", OUTPUT)


def normals_of(height):
    """Of a surface whose height (H, W) towards the camera is in pixels, rows going down."""
    down, right = np.gradient(height)
    vectors = np.stack([-right, down, np.ones_like(height)])
    return (vectors / np.linalg.norm(vectors, axis=0)).astype(np.float32)


@pytest.mark.parametrize("angle", [0.0, 20.0, -75.0])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_moved_normals_are_those_of_the_moved_surface(angle, flip, turns):
    rows, columns = np.indices((90, 110)) / 14
    height = (9 * np.sin(rows + 0.6 * columns) + 5 * np.cos(1.3 * columns)).astype(np.float32)
    move, size = Move(Box(5, 8, 80, 80), (20, 20), angle, flip, 1.0, turns), (40, 40)
    moved = move.apply(torch.from_numpy(height)[None], size, smooth=True, fill=0)[0].numpy()
    found = move_normals(torch.from_numpy(normals_of(height)), move, size, OUTPUT).numpy()
    inner = np.s_[:, 4:-4, 4:-4]
    apart = np.degrees(np.arccos((found * normals_of(moved)).sum(0, keepdims=True).clip(-1, 1)))
    assert np.median(apart[inner]) < 3  # a pixel's worth: one is copied, the other interpolated
    assert np.quantile(apart[inner], 0.95) < 10


def test_averaged_with_the_mirrored_image_both_say_the_same():
    torch.manual_seed(0)
    model = UNet(ModelSpec.of([OUTPUT], width=4, depth=2))
    torch.nn.init.normal_(model.heads["faces"].weight)
    predictor = Predictor(model, Compute(torch.device("cpu")), tta=("flips",))
    image = torch.randint(0, 256, (1, 3, 24, 20), dtype=torch.uint8)
    found = predictor.labels(image, ("faces",))["faces"][0]
    mirrored = predictor.labels(image.flip(-1), ("faces",))["faces"][0]
    assert found.shape == (3, 24, 20)
    torch.testing.assert_close(found.norm(dim=0), torch.ones(24, 20))
    x, y, z = mirrored.flip(-1)
    torch.testing.assert_close(torch.stack([-x, y, z]), found, atol=1e-5, rtol=0)


def test_those_of_the_demo_are_those_of_its_surfaces():
    """Of the walls that are seen, and square to what depth says of the way to the pixel beside."""
    view = View(np.random.default_rng(0), (40, 50), ("sky",), 0.2)
    view.put("room", "shell", (0, 1, 2), (1.5, 1.2, 4), 0.3, (1, 1, 1))
    view.put("thing", "ball", (0.2, 1, 3), (0.6, 0.6, 0.6), 0, (1, 1, 1))
    scene = view.scene(np.ones(3), ())
    pixels = encode(FILES["normals"].pixels(scene, OUTPUT, False), "a.png")
    found = decode_target(pixels, "a.png", OUTPUT).numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(found, scene.normals, atol=0.02)
    rows, columns = np.indices((40, 50)) + 0.5
    rays = np.stack([(columns - 25) / view.focal, (20 - rows) / view.focal, -np.ones((40, 50))], 2)
    assert (rays * found).sum(2).max() < 0.02  # all face the camera
    for axis in (0, 1):
        steps = np.diff(rays * scene.depth_m[..., None], axis=axis)
        steps /= np.linalg.norm(steps, axis=2, keepdims=True)
        square = np.abs((steps * np.delete(found, -1, axis)).sum(2)) < 0.1
        assert square.mean() > 0.9  # but where an edge lies between


def test_another_convention_is_doubted():
    angles = STATISTICS["normals"](OUTPUT)
    angles.count(np.float32([0.6, 0, 0.8])[:, None, None].repeat(9, 1))
    assert angles.doubt([]) == ""
    angles.count(np.float32([0.6, 0, -0.8])[:, None, None].repeat(20, 1))
    assert "face away from the camera" in angles.doubt([])
    nothing = STATISTICS["normals"](OUTPUT)
    nothing.count(np.zeros((3, 4, 5), np.float32))
    assert "no unit vector in 1 files" in nothing.doubt([])
