"""Tiles answer for every pixel once, and say what the whole would have said."""

from dataclasses import replace

import pytest
import torch
from outputs import NEAR, PARTS
from torchvision.transforms.v2 import functional as images

from datasets.task import Mask
from models import ModelSpec, UNet
from models.heads import HEADS
from utils import predict
from utils.compute import Compute, amp_dtype, make_compute
from utils.predict import Predictor, enlarged, spans

SPEC = ModelSpec.of([PARTS, NEAR], width=4, depth=1, convs=(1, 1, 1), norm="none")
CPU = Compute(torch.device("cpu"))


def network(**settings):
    torch.manual_seed(0)
    return UNet(replace(SPEC, **settings))


def image_of(*size, num=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (num, 3, *size), generator=generator, dtype=torch.uint8)


def assembled(predictor, image, outputs=("parts", "near")):
    """The tiles' answers in one piece; every pixel must be answered for once."""
    found, times = {}, torch.zeros(len(image), *image.shape[-2:])
    for (some, _, rows, columns), pixels, predictions in predictor(image, outputs):
        assert pixels == times[some, rows, columns].numel()
        times[some, rows, columns] += 1
        for name, prediction in predictions.items():
            size = (len(image), prediction.shape[1], *image.shape[-2:])
            whole = found.setdefault(name, torch.full(size, torch.nan))
            whole[some, :, rows, columns] = prediction
    assert (times == 1).all()
    return found


@pytest.mark.parametrize("stride", [1, 4, 16])
@pytest.mark.parametrize("tile", [1, 2, 5, 16, 64])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 32, 33, 100, 1000])
def test_spans_cover_each_pixel_once_from_multiples_of_the_stride(length, tile, stride):
    for overlap in {0, 1, tile // 8, tile // 2, tile - 1} - {tile}:
        found = spans(length, tile, overlap, stride)
        kept = [i for span in found for i in range(span.first, span.last)]
        assert kept == list(range(length))
        longest = stride * max(-(-tile // stride), 1 + -(-overlap // stride))
        for span in found:
            assert 0 <= span.start <= span.first < span.last <= span.stop <= length
            assert span.start % stride == 0
            assert span.stop - span.start <= longest
            assert (span.stop - span.start) % stride == 0 or span is found[-1]
        for before, after in zip(found, found[1:], strict=False):
            assert before.stop - after.start >= min(overlap, length - after.start)
            assert before.stop - before.last >= overlap // 2
            assert after.first - after.start >= overlap // 2
        if stride == 1:
            assert len(found) <= max(1, -(-length // max(1, tile - overlap)))
            assert {span.stop - span.start for span in found} == {min(tile, length)}


def test_no_tile_is_one_span():
    assert spans(1000, 0, 128) == [(0, 1000, 0, 1000)]
    assert spans(64, 64, 8) == [(0, 64, 0, 64)]
    assert len(spans(65, 64, 8)) == 2
    assert len(spans(65, 64, 8, stride=16)) == 2


@pytest.mark.parametrize("size", [(64, 64), (66, 34), (30, 101), (7, 9), (97, 65)])
@pytest.mark.parametrize(("tile", "overlap"), [(32, 16), (24, 14), (41, 13)])
@pytest.mark.parametrize("tta", [(), ("flips",), ("scales",), ("flips", "scales")])
def test_tiles_equal_the_whole_where_the_overlap_is_wide_enough(size, tile, overlap, tta):
    """This network sees 6 pixels far at most, half of the overlap. Any size will do."""
    model, image = network(), image_of(*size)
    whole = assembled(Predictor(model, CPU, tta=tta), image)
    tiled = assembled(Predictor(model, CPU, tile, overlap, tta), image)
    for name in whole:
        assert torch.allclose(whole[name], tiled[name], atol=1e-5)


@pytest.mark.parametrize(("depth", "tile", "overlap"), [(2, 90, 60), (3, 150, 112)])
def test_labels_do_not_depend_on_the_tiles(depth, tile, overlap):
    """Poolings of a deep network take 2^depth pixels together from the first on, also in tiles."""
    model, image = network(depth=depth, convs=(2, 2, 2)), image_of(215, 187, num=1)
    whole = assembled(Predictor(model, CPU), image)["parts"].argmax(1)
    tiled = assembled(Predictor(model, CPU, tile, overlap), image)["parts"].argmax(1)
    assert whole.float().var() > 0.01
    assert (whole != tiled).float().mean() < 5e-4


def test_a_narrow_overlap_shows_the_tiles():
    model, image = network(), image_of(96, 64)
    whole = assembled(Predictor(model, CPU), image)
    narrow = assembled(Predictor(model, CPU, 32, 0), image)
    assert not torch.allclose(whole["parts"], narrow["parts"], atol=1e-3)


@pytest.mark.parametrize("small", [(8, 8), (5, 13), (1, 1), (40, 30)])
@pytest.mark.parametrize("full", [(16, 24), (37, 9), (8, 8)])
def test_predictions_are_enlarged_as_torch_does(small, full):
    found = torch.randn(2, 3, *small, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(found, full, mode="bilinear")
    for step in (1, 5, 100):
        bands = [slice(top, min(top + step, full[0])) for top in range(0, full[0], step)]
        parts = torch.cat([enlarged(found, full, band) for band in bands], dim=2)
        assert torch.allclose(parts, expected, atol=1e-5)


class Echo(torch.nn.Module):
    """A network that says what it sees."""

    stride = 1
    heads = {"x": HEADS["mask"](3, Mask("x", ""))}

    def forward(self, image, outputs):
        return dict.fromkeys(outputs, image)


def test_what_is_resized_comes_back_to_its_place():
    """A ramp is the same at any scale, but where it is cut: half a pixel off would show."""
    image = (torch.arange(80)[:, None] + torch.arange(120)).to(torch.uint8)
    found = assembled(Predictor(Echo(), CPU, size=(16, 40)), image.expand(1, 3, 80, 120), ("x",))
    apart = (255 * found["x"] - image)[..., 4:-4, 4:-4]
    assert apart.abs().max() < 0.01


@pytest.mark.parametrize("at_once", [1, 50, 1100, 3000, 10**6])
def test_resized_images_do_not_depend_on_how_many_come_back_at_once(monkeypatch, at_once):
    model, image = network(), image_of(31, 33, num=3)
    expected = assembled(Predictor(model, CPU, size=(16, 24)), image)
    monkeypatch.setattr(predict, "BACK_AT_ONCE", at_once)
    predictor = Predictor(model, CPU, tile=8, overlap=4, size=(16, 24))
    for name, found in assembled(predictor, image).items():
        assert torch.allclose(found, expected[name], atol=1e-5)
    for index, _, parts in predictor(image, ("parts",)):
        num, _, rows, columns = parts["parts"].shape
        assert parts["parts"][:, 0].shape == image[:, 0][index].shape
        assert num * rows * columns <= max(at_once, image.shape[-1])


@pytest.mark.parametrize("cached", [1, 500])
def test_labels_do_not_depend_on_how_many_rows_the_cache_has_room_for(monkeypatch, cached):
    predictor, image = Predictor(network(), CPU, 32, 16), image_of(40, 90)
    expected = predictor.labels(image, ("parts", "near"), probabilities=True, confidence=True)
    assert len(expected) == 4
    monkeypatch.setattr(predict, "CACHED", cached)
    found = predictor.labels(image, ("parts", "near"), probabilities=True, confidence=True)
    for name, values in expected.items():
        most = name.endswith("_probability")  # may be rounded in another way
        assert (found[name].double() - values.double()).abs().max() <= most


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("at_once", [1, 5000, 2**20])
def test_labels_do_not_depend_on_how_many_tiles_are_predicted_together(monkeypatch, num, at_once):
    model, image, seen = network(), image_of(40, 90, num=num), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    tiles, whole = (Predictor(model, CPU, tile, 16) for tile in (32, 0))
    monkeypatch.setattr(predict, "AT_ONCE", at_once)
    advanced = []
    found = tiles.labels(image, ("parts", "near"), advanced.append)
    assert sum(seen) == sum(advanced) == num * tiles.num_tiles(40, 90) == num * 2 * 5
    assert max(seen) == num * {1: 1, 5000: 4 // num, 2**20: 5}[at_once]
    expected = assembled(whole, image)
    assert found["parts"].dtype == torch.uint8
    assert torch.equal(found["parts"], expected["parts"].argmax(1).to(torch.uint8))
    assert torch.allclose(found["near"], expected["near"][:, 0], atol=1e-5)


def test_the_mirrored_image_is_averaged_in():
    model, image = network(depth=2, norm="batch"), image_of(24, 20)
    model.eval()
    found = assembled(Predictor(model, CPU, tta=("flips",)), image)
    with torch.no_grad():
        plain = model(image / 255)
        mirrored = model(image.flip(-1) / 255)
    for name in found:
        expected = (plain[name] + mirrored[name].flip(-1)) / 2
        assert torch.allclose(found[name], expected, atol=1e-5)
    again = assembled(Predictor(model, CPU, tta=("flips",)), image.flip(-1))
    assert torch.allclose(again["parts"].flip(-1), found["parts"], atol=1e-5)


def test_three_sizes_are_averaged_in():
    """As by hand, of an image that all three fit; of any other size too."""
    model, image = network(depth=2, norm="batch").eval(), image_of(32, 48)
    found = assembled(Predictor(model, CPU, tta=("scales",)), image)
    parts = []
    for size in ((24, 36), (32, 48), (40, 60)):
        seen = torch.nn.functional.interpolate(image / 255, size, mode="bilinear", antialias=True)
        with torch.no_grad():
            parts.append(model(seen))
    for name, whole in found.items():
        back = [torch.nn.functional.interpolate(each[name], (32, 48), mode="bilinear",
                antialias=each[name].shape[-1] > 48) for each in parts]  # fmt: skip
        assert torch.allclose(whole, sum(back) / 3, atol=1e-5)
    both = Predictor(model, CPU, tta=("flips", "scales"))
    assembled(both, image_of(7, 50))
    mirrored = assembled(both, image.flip(-1))["parts"].flip(-1)
    assert torch.allclose(mirrored, assembled(both, image)["parts"], atol=1e-5)


def test_only_what_is_asked_for_is_predicted():
    found = assembled(Predictor(network(), CPU), image_of(16, 16), ("near",))
    assert set(found) == {"near"}


def test_prediction_is_evaluation():
    """Neither dropout nor batch statistics, and no gradient; the image stays as it was."""
    model, image = network(norm="batch", dropout=0.5), image_of(16, 16)
    model.train()
    before = image.clone()
    first = assembled(Predictor(model, CPU), image)
    second = assembled(Predictor(model, CPU), image)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not first["parts"].requires_grad
    assert torch.equal(image, before)
    alone = assembled(Predictor(model, CPU), image[:1])
    assert torch.allclose(alone["parts"][0], first["parts"][0], atol=1e-5)


def test_half_precision():
    found = assembled(
        Predictor(network(), Compute(torch.device("cpu"), torch.bfloat16)), image_of(16, 16)
    )
    exact = assembled(Predictor(network(), CPU), image_of(16, 16))
    assert torch.allclose(found["near"].float(), exact["near"], atol=0.1)


def test_images_on_the_device():
    image = image_of(5, 7)
    on_device = CPU.image(image)
    assert on_device.dtype == torch.float32
    assert on_device.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(on_device, image / 255)
    assert (on_device.min() >= 0) & (on_device.max() <= 1)


def test_devices():
    assert make_compute("cpu", amp=False) == CPU
    assert make_compute("cpu", amp=True).dtype in (None, torch.bfloat16)
    assert amp_dtype(torch.device("mps")) == torch.float16
    for name in ("gpu", "cuda:99", "cpu:x", ""):
        with pytest.raises(ValueError, match=f"--device {name}: ") as caught:
            make_compute(name, amp=False)
        assert "\n" not in str(caught.value)


def test_each_process_of_a_launch_takes_its_own_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    devices = [make_compute(name, amp=False).device for name in ("cuda", "cuda:0")]
    assert devices == taken == [torch.device("cuda", 1), torch.device("cuda", 0)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there():
    with pytest.raises(ValueError, match="--device cuda: "):
        make_compute("cuda", amp=True)


@pytest.mark.parametrize(("scale", "tile"), [(0.5, 0), (0.5, 24), (0.25, 16), (2.0, 64), (0.4, 16)])
def test_a_scale_shows_the_network_another_size_and_comes_back(scale, tile):
    """As somebody would do it by hand: resize, predict, resize what was predicted."""
    model, image = network(), image_of(40, 80)
    small = [round(40 * scale), round(80 * scale)]
    found = assembled(Predictor(model, CPU, tile, 14, scale=scale), image)
    seen = images.resize(image, small, antialias=True)
    for name, whole in assembled(Predictor(model, CPU), seen).items():
        expected = torch.nn.functional.interpolate(whole, (40, 80), mode="bilinear")
        assert torch.allclose(found[name], expected, atol=1e-4), name


@pytest.mark.parametrize("at_once", [1, 300, 10**6])
def test_a_scale_of_any_size(monkeypatch, at_once):
    monkeypatch.setattr(predict, "BACK_AT_ONCE", at_once)
    for size in ((1, 1), (7, 50), (33, 20)):
        for scale in (0.1, 0.37, 1.9):
            predictor = Predictor(network(), CPU, 8, 4, scale=scale)
            labels = predictor.labels(image_of(*size), ("parts",))["parts"]
            assert labels.shape == (2, *size)
            assembled(predictor, image_of(*size))
