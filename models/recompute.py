"""Activations made again in the backward pass instead of stored: less memory, equal numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks
from torch.compiler import is_compiling
from torch.utils.checkpoint import checkpoint

from datasets.task import UserError
from models.layers import BatchNormReLU, ChannelDropout

MODES = ("none", "selective", "full")
WORTH = 1 << 19  # bytes per image: keeping less than this costs less than making it again


class Stage(nn.Sequential):
    """What "selective" wraps: cheap layers, and the one that uses what they put out, with weights.

    Of the cheap ones, pooling, norm and activation, only the input is kept: they are run again. The
    last, a convolution, is not, whose output is the input of the next stage.
    """

    worth = math.inf  # bytes per image that the input must have for it

    def forward(self, x: Tensor, *more: Any) -> Any:
        """more: what the last layer takes beside its input."""
        *cheap, last = self
        wrapped = cheap and _recording(self) and x.shape[1:].numel() * x.itemsize >= self.worth
        if wrapped and is_compiling():  # torch.compile takes no hooks
            return checkpoint(lambda x: last(_run(cheap, x), *more), x, use_reentrant=False)
        if not wrapped:
            return last(_run(cheap, x), *more)
        y = Again.apply(cheap, x, *(weight for layer in cheap for weight in layer.parameters()))
        with _not_kept(y):
            return last(y, *more)


class Block(nn.Sequential):
    """What "full" wraps: convolutions, each with what belongs to it. Its inputs are kept."""

    wrapped = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """The first layer takes all inputs."""
        if not (self.wrapped and _recording(self)):
            return self._plain(*inputs)
        contexts = {"context_fn": partial(_contexts, self)}
        if is_compiling():  # torch.compile takes no contexts, and updates running statistics once
            contexts = {}
        return checkpoint(self._plain, *inputs, use_reentrant=False, **contexts)

    def _plain(self, *inputs: Tensor) -> Tensor:
        first, *others = self
        return _run(others, first(*inputs))


def recompute(model: nn.Module, mode: str) -> None:
    """Choose what the model keeps for its backward pass: see MODES, from the most to the least."""
    if mode not in MODES:
        raise UserError(f"recompute mode {mode!r}: expected one of {', '.join(MODES)}")
    for module in model.modules():
        if isinstance(module, Stage):
            module.worth = {"none": math.inf, "selective": WORTH, "full": 0}[mode]
        elif isinstance(module, Block):
            module.wrapped = mode == "full"


class Again(torch.autograd.Function):
    """Layers in turn, of which only the input is kept. They are run again for their gradient, or
    before, when `made` is asked for what they put out."""

    @staticmethod
    def forward(ctx: Any, layers: list[nn.Module], x: Tensor, *weights: Tensor) -> Tensor:
        """weights: all parameters of the layers."""
        ctx.save_for_backward(x)
        device = x.device.type
        dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.autocast = partial(torch.autocast, device, dtype, enabled)
        y = _run_to_keep(layers, x)
        ctx.layers, ctx.seen, ctx.weights, ctx.found = layers, _seen(layers), weights, None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of x and the weights."""
        made(ctx)
        x, edge = ctx.found[1:]
        ctx.found = None
        inputs = [x, *ctx.weights]
        found = torch.autograd.grad(edge, [t for t in inputs if t.requires_grad], gradient)
        found = iter(found)
        return None, *(next(found) if t.requires_grad else None for t in inputs)


def made(node: Any) -> Tensor:
    """What the layers of a node of `Again` put out, run again unless they already were."""
    if node.found is None:
        (x,) = node.saved_tensors
        x = x.detach().requires_grad_(node.needs_input_grad[1])
        with torch.enable_grad(), node.autocast(), _knowing(node.layers, node.seen):
            y = _run_to_keep(node.layers, x)
        node.found = y.detach(), x, get_gradient_edge(y)  # an edge does not keep y
    return node.found[0]


def _not_kept(y: Tensor) -> AbstractContextManager:
    """Layers run inside, which want to keep what `Again` put out, ask for it instead."""
    node = y.grad_fn
    return saved_tensors_hooks(
        lambda kept: node if node is not None and kept.grad_fn is node else kept,
        lambda kept: made(kept) if kept is node else kept,
    )


def _run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _run_to_keep(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """In the precision to which autocast brings what a convolution reads and wants to keep."""
    y = _run(layers, x)
    device = y.device.type
    wide = y.dtype == torch.float32 and torch.is_autocast_enabled(device)
    return y.to(torch.get_autocast_dtype(device)) if wide else y


def _recording(module: nn.Module) -> bool:
    return module.training and torch.is_grad_enabled()


def _seeing(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return [m for m in modules if isinstance(m, BatchNormReLU | ChannelDropout)]


def _seen(modules: Iterable[nn.Module]) -> list[Any]:
    """What layers know of the batch that they have seen last."""
    return [layer.seen for layer in _seeing(modules)]


@contextmanager
def _knowing(modules: Iterable[nn.Module], seen: list[Any]) -> Iterator[None]:
    """Let the layers know that they see that batch again."""
    layers = _seeing(modules)
    before = [layer.known for layer in layers]  # one recomputation may be inside another
    for layer, known in zip(layers, seen, strict=True):
        layer.known = known
    try:
        yield
    finally:
        for layer, known in zip(layers, before, strict=True):
            layer.known = known


def _contexts(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """For torch's checkpoint: where a module sees a batch first, and where it does again."""
    modules, seen = list(module.modules()), []

    @contextmanager
    def seeing() -> Iterator[None]:
        yield
        seen.extend(_seen(modules))

    return seeing(), _knowing(modules, seen)
