"""The gradient of convolutions' weights in float32 on a CPU: ours against torch's, run in turn.

On a processor with AVX-512, measure as without it after `export ONEDNN_MAX_CPU_ISA=AVX2
ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2`; with OMP_NUM_THREADS=1 where it is busy.
"""

import pytest
import torch

from models.cpu_convolution import core_cache, is_quicker, weight_gradient

pytest_plugins = ["bench_plugin"]

SHAPES = [  # stride (2: the transposed 4x4), inputs, channels, height and width
    (1, 16, 16, 256),
    (1, 16, 16, 128),
    (1, 32, 32, 224),
    (1, 32, 32, 56),
    (1, 64, 64, 112),
    (1, 64, 64, 56),
    (1, 128, 128, 56),
    (1, 128, 128, 28),
    (1, 256, 128, 56),
    (1, 256, 256, 28),
    (2, 32, 32, 112),
    (2, 64, 32, 28),
    (2, 64, 64, 56),
    (2, 128, 64, 28),
]


@pytest.mark.parametrize(("stride", "inputs", "channels", "size"), SHAPES)
def test_weight_gradient(bench, stride, inputs, channels, size):
    """Weight gradient, ours against torch's"""
    num = 4 if bench.full else torch.get_num_threads()
    size = size if bench.full else 8
    x, gradient = (
        torch.randn(num, c, s, s).to(memory_format=torch.channels_last)
        for c, s in ((inputs, size), (channels, stride * size))
    )
    transposed = stride == 2
    pair = (inputs, channels) if transposed else (channels, inputs)
    weight = torch.randn(*pair, stride + 2, stride + 2, requires_grad=True)
    sizes = [stride] * 2, [1, 1], [1, 1], transposed, [0, 0], 1

    def theirs():
        wanted = [False, True, False]
        return torch.ops.aten.convolution_backward(gradient, x, weight, None, *sizes, wanted)[1]

    def ours():
        return weight_gradient(*((x, gradient) if transposed else (gradient, x)), stride)

    torch.testing.assert_close(ours(), theirs(), atol=1e-5 * theirs().abs().max().item(), rtol=0)
    seconds, their_seconds = bench.measure(ours, theirs)
    operations = 2 * weight.numel() * num * size**2 / 1e9
    bench.row(
        None,
        taps=stride + 2,
        channels=f"{inputs} to {channels}",
        size=size,
        image_in_cache=4 * (inputs + channels * stride**2) * size**2 / core_cache(),
        torch_gflops=operations / their_seconds,
        ours_gflops=operations / seconds,
        times=their_seconds / seconds,
        chosen=is_quicker(x, weight, stride),
    )
