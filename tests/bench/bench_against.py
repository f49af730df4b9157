"""Our training step against others', run in turn: the original design, and the usual library."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context

import pytest
import torch
from bench_plugin import MANY
from torch import Tensor, nn
from torch.nn import functional as F

from utils.optim import Schedule, make_optimizer
from utils.settings import OptimSettings

pytest_plugins = ["bench_plugin"]


class Convs(nn.Sequential):
    """Some times convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, channels: int, num: int) -> None:
        layers = []
        for i in range(num):
            source = channels if i else inputs
            layers.append(nn.Conv2d(source, channels, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class Original(nn.Module):
    """The mask + depth course's design: one decoder, shared and run twice, once for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            Convs(*pair, 2) for pair in ((3, 32), (32, 64), (64, 128), (128, 256))
        )
        self.centre = Convs(256, 256, 1)
        self.up = nn.ModuleList(
            Convs(*pair, 3) for pair in ((512, 128), (256, 64), (128, 32), (64, 32))
        )
        self.mask, self.depth = nn.Conv2d(32, 1, 1), nn.Conv2d(32, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Image (N, 3, H, W) -> logits of the mask (N, 1, H, W) and of a grey depth (N, 3, H, W)"""
        skips = []
        for block in self.down:
            skips.append(block(x))
            x = F.max_pool2d(skips[-1], 2)
        return self.mask(self.decoded(x, skips)), self.depth(self.decoded(x, skips))

    def decoded(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """(N, 32, H, W)"""
        x = self.centre(x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear")
            x = block(torch.cat([x, skip], 1))
        return x


@cache
def original_step(num: int, size: tuple[int, int], device: str) -> Callable[[], None]:
    """A call that trains the original design for a step as it was trained: float32, NCHW, SGD,
    binary cross entropies of the mask and, doubled, of the depth. Its batch is on the device."""
    torch.manual_seed(0)
    model = Original().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-5)
    image, mask, depth = (torch.rand(num, c, *size, device=device) for c in (3, 1, 3))
    score = nn.BCEWithLogitsLoss()

    def step() -> None:
        optimizer.zero_grad()
        found_mask, found_depth = model(image)
        loss = score(found_mask, mask) + 2 * score(found_depth, depth)
        loss.backward()
        optimizer.step()
        loss.item()  # it was printed

    return step


def run_original(num: int, size: tuple[int, int], device: str) -> None:
    """One step, in whichever process this is called."""
    original_step(num, size, device)()


def test_original_design(bench):
    """Mask + depth net, our step against the original design's

    `original` runs in this process, where freed memory is kept, as it is by train.py on a CPU;
    `original_alone` in a process of its own, without: what its users had.
    """
    assert sum(p.numel() for p in Original().parameters()) == 2_963_300
    case = bench.case("maskdepth", *bench.half())
    given = case.num, case.size, str(case.state.compute.device)
    threads = torch.get_num_threads()
    with ProcessPoolExecutor(
        1, get_context("spawn"), torch.set_num_threads, (threads,)
    ) as elsewhere:
        seconds, original, alone = bench.measure(
            case.step,
            lambda: run_original(*given),
            lambda: elsewhere.submit(run_original, *given).result(),
        )
    original_step.cache_clear()
    bench.row(
        case,
        images_per_second=case.num / seconds,
        original_images_per_second=case.num / original,
        original_alone_images_per_second=case.num / alone,
        times_original=original / seconds,
        times_original_alone=alone / seconds,
    )


class Foreign(nn.Module):
    """Another library's network of one output, called as ours is."""

    def __init__(self, net: nn.Module, name: str, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.net, self.name = net, name
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, image: Tensor, outputs: tuple[str, ...]) -> dict[str, Tensor]:
        """Image (N, 3, H, W) in [0, 1] -> logits (N, C, H, W) by output name."""
        return {self.name: self.net((image - self.mean) / self.std)}


@pytest.mark.parametrize("size", ["256 256 --bs 8", "352 480 --bs 4"])
@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
def test_segmentation_models_pytorch(bench, upsampling, size):
    """Our U-Net on a ResNet against segmentation_models.pytorch's of the same widths

    Same timm encoder, decoder channels, precision, memory format, loss, optimiser and train_step.
    Its head becomes a 1x1 convolution as ours is. Ours repeats pixels within its convolutions;
    nearest is the default of the library.
    """
    library = pytest.importorskip("segmentation_models_pytorch")
    encoder = "resnet34" if bench.full else "resnet18"
    size = ("--size", *size.split()) if bench.full else ()
    shape = ("--width", "16", "--centre", "0", "--convs", "2", "--output-stride", "1")
    width = (*shape, "--encoder", encoder)
    case = bench.case("damage", *bench.half(), *size, *width, "--ema", "0")
    (output,) = case.task.outputs
    net = library.Unet(
        f"tu-{encoder}",
        encoder_weights=None,
        decoder_channels=[16 * 2**i for i in (4, 3, 2, 1, 0)],
        decoder_interpolation=upsampling,
        classes=output.channels,
    )
    net.segmentation_head = nn.Conv2d(16, output.channels, 1)
    ours = case.state.model
    assert num_parameters(net) == num_parameters(ours)
    model = Foreign(net, output.name, ours.mean, ours.std)
    model = model.to(case.state.compute.device, memory_format=torch.channels_last)
    optimizer = make_optimizer([model], OptimSettings())
    theirs = case._replace(
        state=replace(
            case.state,
            model=model,
            parallel=model,
            optimizer=optimizer,
            schedule=Schedule(optimizer, "cosine", 20, 10_000),
            ema=None,
        )
    )
    seconds, other_seconds = bench.measure(case.step, theirs.step, **MANY)
    bench.row(
        case,
        encoder=encoder,
        theirs_upsampling=upsampling,
        images_per_second=case.num / seconds,
        theirs_images_per_second=case.num / other_seconds,
        times_theirs=other_seconds / seconds,
    )


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
