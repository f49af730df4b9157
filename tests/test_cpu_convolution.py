"""The gradient of convolutions' weights that models/cpu_convolution.py finds itself."""

import pytest
import torch
from learners import make_case
from test_models import MODES, TINY, trained
from torch import nn
from torch.nn import functional as F

from models import cpu_convolution
from models.cpu_convolution import Convolution, UpConvolution, is_quicker, weight_gradient
from models.decoder import UpConv

SIZES = [(3, 5, 4, 7, 9), (2, 8, 6, 40, 31), (5, 3, 4, 6, 2), (2, 3, 4, 1, 5), (5, 2, 2, 1, 1)]


@pytest.fixture
def always(monkeypatch):
    """Everywhere, whatever the processor."""
    monkeypatch.setattr(cpu_convolution, "is_quicker", lambda *_: True)


@pytest.fixture
def avx2(monkeypatch):
    """As on a processor without AVX-512, with a small cache."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(cpu_convolution, "core_cache", lambda: 1 << 18)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("num", "inner", "outer", "height", "width"), SIZES)
def test_the_gradient_is_the_sum_over_pixels(
    num, inner, outer, height, width, threads, stride, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(cpu_convolution, "LIMITS", (60, 60))  # several chunks
    torch.manual_seed(0)
    small = torch.randn(num, inner, height, width)
    large = torch.randn(num, outer, stride * height, stride * width)
    large = large.to(memory_format=torch.channels_last)
    taps = stride + 2
    windows = F.pad(large.double(), (1, 1, 1, 1)).unfold(2, taps, stride).unfold(3, taps, stride)
    expected = torch.einsum("nahw,nbhwyx->abyx", small.double(), windows)
    found = weight_gradient(small, large, stride)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6 * expected.abs().max())
    assert torch.equal(found, weight_gradient(small.contiguous(), large, stride))
    assert found.is_contiguous(memory_format=torch.channels_last)  # as the plan takes it to be


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("of_image", [False, True])
@pytest.mark.parametrize("up", [False, True])
def test_layers_are_those_of_torch(bias, of_image, up, always):
    torch.manual_seed(0)
    layer = UpConv(5, 4) if up else nn.Conv2d(5, 4, 3, padding=1, bias=bias)
    image = torch.randn(3, 5, 6, 7)
    change = torch.randn(layer(image).shape)
    found = []
    for kind in (type(layer), UpConvolution if up else Convolution):
        layer.__class__ = kind
        layer.zero_grad()
        x = image.clone().requires_grad_(of_image)
        y = layer.train()(x)
        y.backward(change)
        found.append([y, *(p.grad for p in layer.parameters()), *[x.grad] * of_image])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_networks_learn_the_same_and_recomputed_ones_to_the_bit(mode, request):
    before = trained("none", TINY)
    request.getfixturevalue("always")
    stored, recomputed = trained("none", TINY), trained(mode, TINY)
    for a, b, c in zip(before[0], stored[0], recomputed[0], strict=True):
        assert torch.allclose(a, b, atol=1e-5)
        assert torch.equal(b, c)
    for a, b, c in zip(before[1], stored[1], recomputed[1], strict=True):
        for name in a:
            assert torch.allclose(a[name], b[name], atol=1e-4)
            assert torch.equal(b[name], c[name])


@pytest.mark.parametrize("ckpt", MODES)
def test_the_plan_stays_exact(ckpt, always):
    tiny = ("--size", "40", "40", "--bs", "2", "--width", "4", "--depth", "2")
    assert make_case("maskdepth", *tiny, "--ckpt", ckpt).memory()["tracked/plan"] == 1


def test_where_it_is_used(avx2):
    weight, taps = torch.randn(16, 16, 3, 3), torch.randn(32, 16, 4, 4)
    weight.requires_grad_(), taps.requires_grad_()
    image, deep = torch.randn(2, 16, 64, 64), torch.randn(2, 32, 32, 32)
    assert is_quicker(image, weight, 1)
    assert is_quicker(deep, taps, 2)
    assert not is_quicker(image[:1], weight, 1)  # threads share out images
    assert not is_quicker(image[..., ::4], weight, 1)
    assert not is_quicker(image[:, :3], weight[:, :3], 1)
    assert not is_quicker(image.double(), weight, 1)
    assert not is_quicker(image.to("meta"), weight, 1)
    assert not is_quicker(image, weight.detach(), 1)
    with torch.no_grad():
        assert not is_quicker(image, weight, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_quicker(image, weight, 1)


def test_wider_vectors_do_without(avx2, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    weight = torch.randn(16, 16, 3, 3).requires_grad_()
    assert not is_quicker(torch.randn(2, 16, 64, 64), weight, 1)


@pytest.mark.parametrize(
    "change",
    [{"stride": 2}, {"padding": 0}, {"dilation": 2}, {"groups": 2}, {"padding_mode": "reflect"}],
)
def test_other_layers_stay_as_they_are(change):
    assert Convolution.replaces(nn.Conv2d(4, 4, 3, padding=1))
    assert not Convolution.replaces(nn.Conv2d(4, 4, 3, **{"padding": 1} | change))
    assert not Convolution.replaces(nn.Conv2d(4, 4, 1, padding=1))
    assert not Convolution.replaces(Convolution(4, 4, 3, padding=1))
