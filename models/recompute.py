"""Saves memory by making activations again in the backward pass, with equal numbers.

`recompute(model, mode)` is put on a finished network from outside; the network's own files know
nothing of it. Cheap layers (norm, ReLU, pooling, dropout) are taken together with the convolution
that *follows*: what is kept is the convolution's output before them. So a block under recomputation
leaves its last activation to whatever reads the block.

What is run again must come out the same: batch norm's running statistics count a batch once, and
dropout drops the same channels. What a layer draws from a batch goes through `once`.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks
from torch.compiler import is_compiling
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from datasets.task import UserError
from models.decoder import Decoder, JoinConv
from models.encoder import Block
from models.unet import UNet

MODES = ("none", "selective", "full")
MIN_SAVED_BYTES = 1 << 19  # per image: keeping less than this costs less than making it again
NEVER = sys.maxsize  # bytes that no input has
CHEAP = nn.MaxPool2d, nn.BatchNorm2d, nn.GroupNorm, nn.ReLU, nn.Identity, nn.Dropout2d


def recompute(model: nn.Module, mode: str) -> list[Block]:
    """Choose what a model keeps for its backward pass: all ("none"), no output of cheap layers that
    is large ("selective"), or the inputs of blocks alone ("full"). May be called again.

    mode: one of these for all blocks, or one for each, with commas. Returns the blocks.
    """
    words, blocks = mode.split(","), [m for m in model.modules() if isinstance(m, Block)]
    for word in words:
        if word not in MODES:
            raise UserError(f"recompute mode {word!r}: expected one of {', '.join(MODES)}")
    if len(words) not in (1, len(blocks)):
        raise UserError(f"recompute mode {mode!r}: expected 1 word or {len(blocks)}")
    for module in model.modules():
        for plain, recomputed in SWAPS.items():
            if type(module) in (plain, recomputed):
                module.__class__ = plain if set(words) == {"none"} else recomputed
        if isinstance(module, Decoder):
            *chain, last = filter(None, [module.centre, *module.blocks])
            for block in chain:
                block.in_chain = not module.coarse or block is module.centre
            last.in_chain = True
    each = words * len(blocks) if len(words) == 1 else words
    for word, block in zip(each, cast(list[RecomputedBlock], blocks), strict=True):
        block.full = word == "full"
        block.min_bytes = {"none": NEVER, "selective": MIN_SAVED_BYTES, "full": 0}[word]
    return blocks


_written: list[list[Any]] = []  # of first runs that are under way: what layers drew so far
_read: list[Iterator[Any]] = []  # of second runs


def once(draw: Callable[[], Any]) -> Any:
    """What `draw` finds in a batch; in a second run over it, what it found in the first."""
    value = next(_read[-1]) if _read else draw()
    for values in _written:  # one recomputation may be inside another
        values.append(value)
    return value


@contextmanager
def first_run(drawn: list[Any]) -> Iterator[None]:
    """Layers inside see a batch for the first time: note in `drawn` what they draw."""
    _written.append(drawn)
    try:
        yield
    finally:
        _written.pop()


@contextmanager
def second_run(drawn: list[Any]) -> Iterator[None]:
    """They see it again, and draw the same in the same order."""
    _read.append(iter(drawn))
    try:
        yield
    finally:
        _read.pop()


def first_and_second_run() -> tuple[AbstractContextManager, AbstractContextManager]:
    """Both, for torch's `checkpoint`."""
    drawn: list[Any] = []
    return first_run(drawn), second_run(drawn)


class ReplayedBatchNorm(nn.BatchNorm2d):
    """Counts a batch once."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), size unchanged"""
        if not _read:
            return super().forward(x)
        unused = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        return F.batch_norm(x, *unused, self.weight, self.bias, True, 0.0, self.eps)


class ReplayedDropout(nn.Dropout2d):
    """Drops the same channels of a batch again."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), size unchanged"""
        if not self.training or is_compiling():
            return super().forward(x)
        drop = super().forward
        return x * once(lambda: drop(x.new_ones(*x.shape[:2], 1, 1)))


class Pending(NamedTuple):
    """What a block in a chain puts out: x, and the layers that have still to be run on it."""

    x: Tensor
    layers: Sequence[nn.Module]


class RecomputedBlock(Block):
    """full: whether all of the block is run again; else cheap layers whose input has at least
    `min_bytes` per image. in_chain: whether the output has one reader, another block or the end of
    a decoder, which takes over the last cheap layers."""

    full = False
    min_bytes = 0
    in_chain = False

    def forward(self, *inputs: Any) -> Any:
        """A tensor, or what the block before left pending, and a skip -> the same."""
        x, *skip = inputs
        x, before = x if isinstance(x, Pending) else (x, ())
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(_run(before, x), *skip)
        layers: list[nn.Module] = [*before, *self]
        late: list[nn.Module] = []
        while self.in_chain and isinstance(layers[-1], CHEAP):
            late.insert(0, layers.pop())
        run = partial(_run_selectively, layers, self.min_bytes)
        if self.full:
            settings: dict[str, Any] = {"use_reentrant": False}
            if not is_compiling():  # takes no contexts, and updates running statistics once
                settings |= {"context_fn": first_and_second_run, "preserve_rng_state": False}
            x = checkpoint(run, x, *skip, **settings)
        else:
            x = run(x, *skip)
        return Pending(x, late) if late else x


class RecomputedDecoder(Decoder):
    """Runs what its last block leaves pending."""

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """As the plain one's."""
        (x, *coarse), last = super().forward(features), cast(RecomputedBlock, self.blocks[-1])
        if isinstance(x, Pending):
            x = _run_again(x.layers, last.min_bytes, x.x)
        return [x, *coarse]


class RecomputedUNet(UNet):
    """Its heads do not keep what the end of a decoder puts out."""

    def forward_padded(
        self, image: Tensor, outputs: tuple[str, ...] | None = None
    ) -> dict[str, Tensor]:
        """As the plain one's."""
        with nullcontext() if is_compiling() else _asking():  # it takes no hooks
            return super().forward_padded(image, outputs)


SWAPS: dict[type[nn.Module], type[nn.Module]] = {
    Block: RecomputedBlock,
    Decoder: RecomputedDecoder,
    UNet: RecomputedUNet,
    nn.BatchNorm2d: ReplayedBatchNorm,
    nn.Dropout2d: ReplayedDropout,
}


def _run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _run_selectively(layers: Iterable[nn.Module], min_bytes: int, x: Tensor, *skip: Tensor) -> Any:
    """Layers in turn, of which one may join the skip. Of cheap ones before another only the input
    is kept."""
    cheap: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, CHEAP):
            cheap.append(layer)
        elif isinstance(layer, JoinConv):  # in two: what cheap ones put out goes before the sum
            x, cheap = _run_group(cheap, layer.deep, min_bytes, x) + layer.skip(*skip), []
        else:
            x, cheap = _run_group(cheap, layer, min_bytes, x), []
    return _run(cheap, x)


def _run_group(cheap: Sequence[nn.Module], last: nn.Module, min_bytes: int, x: Tensor) -> Tensor:
    """Cheap layers, and the convolution that reads them."""
    if not cheap or min_bytes == NEVER:
        return last(_run(cheap, x))
    if is_compiling():  # takes no hooks
        return checkpoint(partial(_run, [*cheap, last]), x, use_reentrant=False)
    y = _run_again(cheap, min_bytes, x)
    with _asking():
        return last(y)


def _run_again(layers: Sequence[nn.Module], min_bytes: int, x: Tensor) -> Tensor:
    """Layers in turn, by `Again` where the input is large enough."""
    if is_compiling() or x.shape[1:].numel() * x.itemsize < min_bytes:
        return _run(layers, x)
    return Again.apply(layers, x, *(weight for layer in layers for weight in layer.parameters()))


class Again(torch.autograd.Function):
    """Layers in turn, of which only the input is kept. They are run again for their gradient, or
    before, when a layer behind them asks for what they put out: see `_asking`.

    torch's own `checkpoint` cannot do that: it ends with the layer that keeps its input, and runs
    that, a convolution, again too.
    """

    @staticmethod
    def forward(ctx: Any, layers: Sequence[nn.Module], x: Tensor, *weights: Tensor) -> Tensor:
        """weights: all parameters of the layers."""
        ctx.save_for_backward(x)
        device = x.device.type
        dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.autocast = partial(torch.autocast, device, dtype, enabled)
        ctx.drawn = []
        with first_run(ctx.drawn):
            y = _run_to_keep(layers, x)
        ctx.layers, ctx.weights, ctx.made = layers, weights, None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x and the weights."""
        _output(ctx)
        x, edge = ctx.made[1:]
        ctx.made = None
        inputs = [x, *ctx.weights]
        wanted = [t for t in inputs if t.requires_grad]
        gradients = iter(torch.autograd.grad(edge, wanted, gradient))
        return None, *(next(gradients) if t.requires_grad else None for t in inputs)


def _output(node: Any) -> Tensor:
    """What the layers of a node of `Again` put out; they are run again unless they already were."""
    if node.made is None:
        (x,) = node.saved_tensors
        x = x.detach().requires_grad_(node.needs_input_grad[1])
        with torch.enable_grad(), node.autocast(), second_run(node.drawn):
            y = _run_to_keep(node.layers, x)
        node.made = y.detach(), x, get_gradient_edge(y)  # an edge does not keep y
    return node.made[0]


def _asking() -> AbstractContextManager:
    """Layers run inside, which want to keep what `Again` put out, ask its node for it instead."""
    again = Again._backward_cls

    def keep(x: Tensor) -> Any:
        """What an operation holds of a tensor that it wants: the node that can make it, or it."""
        if isinstance(x.grad_fn, again):
            return x.grad_fn
        return x if x.grad_fn is None else x.detach()  # else an operation would hold itself

    return saved_tensors_hooks(keep, lambda x: _output(x) if isinstance(x, again) else x)


def _run_to_keep(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """In the precision to which autocast brings what a convolution reads and wants to keep."""
    y = _run(layers, x)
    device = y.device.type
    wide = y.dtype == torch.float32 and torch.is_autocast_enabled(device)
    return y.to(torch.get_autocast_dtype(device)) if wide else y
