"""Activations made again in the backward pass instead of stored: less memory, equal numbers.

`recompute(model, mode)` is put on a finished network from outside; the network's own files know
nothing of it. Cheap layers (norm, ReLU, pooling, dropout) are taken together with the convolution
that *follows*: what is kept is the convolution's output before them. So a block under recomputation
leaves its last activation to whatever reads the block.

A layer that sees a batch for the second time must not count it twice, and must drop the same
channels: what it drew from the batch the first time goes through `once`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

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
CHEAP = nn.MaxPool2d, nn.BatchNorm2d, nn.GroupNorm, nn.ReLU, nn.Identity, nn.Dropout2d
T = TypeVar("T")
_written: list[list[Any]] = []  # of the first runs that are under way, what layers drew
_read: list[Iterator[Any]] = []  # of the second runs


def recompute(model: nn.Module, mode: str) -> None:
    """Choose what a model keeps for its backward pass: all ("none"), no output of cheap layers that
    is large ("selective"), or the inputs of blocks alone ("full"). May be called again."""
    if mode not in MODES:
        raise UserError(f"recompute mode {mode!r}: expected one of {', '.join(MODES)}")
    for module in [*model.modules()]:
        if isinstance(module, Block):
            for layer in module.modules():
                _swap(layer, mode)
        elif isinstance(module, UNet | Decoder):
            _swap(module, mode)
    for module in model.modules():
        if isinstance(module, RecomputedBlock):
            module.min_bytes = 0 if mode == "full" else MIN_SAVED_BYTES
            module.full = mode == "full"
        elif isinstance(module, RecomputedDecoder):
            for block in filter(None, [module.centre, *module.blocks]):
                block.in_chain = True


def _swap(module: nn.Module, mode: str) -> None:
    """Make a module one of the class that recomputes, or of torch's or our plain one again."""
    for plain, recomputed in SWAPS.items():
        if type(module) in (plain, recomputed):
            module.__class__ = plain if mode == "none" else recomputed


def once(draw: Callable[[], T]) -> T:
    """What `draw` finds in a batch; in a second run over it, what it found in the first."""
    value = next(_read[-1]) if _read else draw()
    for values in _written:  # one recomputation may be inside another
        values.append(value)
    return value


class Pending(NamedTuple):
    """What a block puts out under recomputation: x, and the layers that have still to be run on
    it."""

    x: Tensor
    layers: Sequence[nn.Module]


class RecomputedBlock(Block):
    """min_bytes: per image, that x must have for cheap layers to be run on it again. full: whether
    all of the block is. in_chain: whether another block, or the end of a decoder, reads the output
    and nothing else does: it takes over the last cheap layers."""

    min_bytes = 0
    full = False
    in_chain = False

    def forward(self, x: Tensor | Pending, *skip: Tensor) -> Tensor | Pending:
        """As a plain block in evaluation."""
        before = []
        if isinstance(x, Pending):
            x, before = x
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(_run(before, x), *skip)
        layers, late = [*before, *self], []
        while self.in_chain and isinstance(layers[-1], CHEAP):
            late.insert(0, layers.pop())
        run = partial(_run_selectively, layers, self.min_bytes)
        if not self.full:
            x = run(x, *skip)
        elif is_compiling():  # takes no contexts, and updates running statistics once
            x = checkpoint(run, x, *skip, use_reentrant=False)
        else:
            settings = {"preserve_rng_state": False, "context_fn": _first_and_second}
            x = checkpoint(run, x, *skip, use_reentrant=False, **settings)
        return Pending(x, late) if late else x


class RecomputedDecoder(Decoder):
    """Runs what its last block leaves."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """As the plain one."""
        x = super().forward(features)
        if not isinstance(x, Pending):
            return x
        return _run_again(x.layers, x.x, self.blocks[-1].min_bytes)


class RecomputedUNet(UNet):
    """Heads do not keep what the end of a decoder puts out."""

    def forward_padded(
        self, image: Tensor, outputs: tuple[str, ...] | None = None
    ) -> dict[str, Tensor]:
        """As the plain one."""
        if is_compiling():  # takes no hooks
            return super().forward_padded(image, outputs)
        with _asking():
            return super().forward_padded(image, outputs)


class ReplayedBatchNorm(nn.BatchNorm2d):
    """Counts a batch once."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), size unchanged"""
        if not _read:
            return super().forward(x)
        unused = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(x, *unused, self.weight, self.bias, True, 0.0, self.eps)


class ReplayedDropout(nn.Dropout2d):
    """Drops the same channels of a batch again."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), size unchanged"""
        if not self.training or is_compiling():
            return super().forward(x)
        drop = super().forward
        return x * once(lambda: drop(x.new_ones(*x.shape[:2], 1, 1)))


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
            continue
        if isinstance(layer, JoinConv):  # in two: what cheap layers put out can go before the sum
            x = _run_group(cheap, layer.deep, min_bytes, x) + layer.skip(*skip)
        else:
            x = _run_group(cheap, layer, min_bytes, x)
        cheap = []
    return _run(cheap, x)


def _run_group(cheap: list[nn.Module], last: nn.Module, min_bytes: int, x: Tensor) -> Tensor:
    """Cheap layers, and the convolution that reads them."""
    if not cheap or not _is_worth_it(x, min_bytes):
        return last(_run(cheap, x))
    if is_compiling():  # takes no hooks
        return checkpoint(partial(_run, [*cheap, last]), x, use_reentrant=False)
    y = _run_again(cheap, x, min_bytes)
    with _asking():
        return last(y)


def _is_worth_it(x: Tensor, min_bytes: int) -> bool:
    return x.shape[1:].numel() * x.itemsize >= min_bytes


def _run_again(layers: Sequence[nn.Module], x: Tensor, min_bytes: int) -> Tensor:
    """Layers in turn, by `Again` where the input is large enough."""
    if not layers or is_compiling() or not _is_worth_it(x, min_bytes):
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
        with _writing(ctx.drawn):
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
        found = iter(torch.autograd.grad(edge, [t for t in inputs if t.requires_grad], gradient))
        return None, *(next(found) if t.requires_grad else None for t in inputs)


def _output(node: Any) -> Tensor:
    """What the layers of a node of `Again` put out; they are run again unless they already were."""
    if node.made is None:
        (x,) = node.saved_tensors
        x = x.detach().requires_grad_(node.needs_input_grad[1])
        with torch.enable_grad(), node.autocast(), _reading(node.drawn):
            y = _run_to_keep(node.layers, x)
        node.made = y.detach(), x, get_gradient_edge(y)  # an edge does not keep y
    return node.made[0]


def _asking() -> AbstractContextManager:
    """Layers run inside, which want to keep what `Again` put out, ask its node for it instead."""
    again = Again._backward_cls

    def keep(x: Tensor) -> Any:
        if isinstance(x.grad_fn, again):
            return x.grad_fn
        return x if x.grad_fn is None else x.detach()  # else an operation would hold itself

    return saved_tensors_hooks(
        keep, lambda kept: _output(kept) if isinstance(kept, again) else kept
    )


def _run_to_keep(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """In the precision to which autocast brings what a convolution reads and wants to keep."""
    y = _run(layers, x)
    device = y.device.type
    wide = y.dtype == torch.float32 and torch.is_autocast_enabled(device)
    return y.to(torch.get_autocast_dtype(device)) if wide else y


@contextmanager
def _writing(drawn: list[Any]) -> Iterator[None]:
    """A first run: note what layers draw from the batch."""
    _written.append(drawn)
    try:
        yield
    finally:
        _written.pop()


@contextmanager
def _reading(drawn: list[Any]) -> Iterator[None]:
    """A second run: give it to them again, in the same order."""
    _read.append(iter(drawn))
    try:
        yield
    finally:
        _read.pop()


def _first_and_second() -> tuple[AbstractContextManager, AbstractContextManager]:
    """For torch's checkpoint: where a block sees a batch first, and where it does again."""
    drawn: list[Any] = []
    return _writing(drawn), _reading(drawn)
