"""Activations made again in the backward pass instead of stored: less memory, equal numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from torch import Tensor, is_grad_enabled, nn
from torch.compiler import is_compiling
from torch.utils.checkpoint import checkpoint

from models.norm import BatchNormReLU, Moments

MODES = ("none", "selective", "full")
WORTH = 1 << 19  # bytes per image: keeping less than this costs less than making it again


class Stage(nn.Sequential):
    """What "selective" wraps, if it is WORTH it: cheap layers and the convolution at their end.

    Its inputs are kept. torch stops a recomputation where nothing more is missing, which is before
    the convolution runs: pooling, norm and activation are made again.
    """

    def forward(self, *inputs: Tensor) -> Tensor:
        """The first layer takes all inputs."""
        first, *others = self
        x = first(*inputs)
        for layer in others:
            x = layer(x)
        return x


class Block(nn.Sequential):
    """What "full" wraps: convolutions, each with what belongs to it. Its inputs are kept."""

    forward = Stage.forward


def recompute(model: nn.Module, mode: str) -> None:
    """Choose what the model keeps for its backward pass: see MODES, from the most to the least."""
    if mode not in MODES:
        raise ValueError(f"recompute mode {mode!r}: expected one of {', '.join(MODES)}")
    wrapped = {"none": (), "selective": Stage, "full": (Block, Stage)}[mode]
    worth = WORTH if mode == "selective" else 0
    for module in model.modules():
        if isinstance(module, Stage | Block):
            module.__dict__.pop("forward", None)
            if isinstance(module, wrapped):
                module.forward = partial(_checkpointed, module, worth)


def _checkpointed(module: nn.Module, worth: int, *inputs: Tensor) -> Tensor:
    """The module's own forward, wrapped in torch's checkpoint while gradients are recorded.

    worth: bytes per image that the first input must have for it.
    """
    forward = partial(type(module).forward, module)
    if not (module.training and is_grad_enabled()) or _size(inputs[0]) < worth:
        return forward(*inputs)
    if is_compiling():  # torch.compile takes no contexts, and updates running statistics once
        return checkpoint(forward, *inputs, use_reentrant=False)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, module))


def _size(tensor: Tensor) -> int:
    """Bytes per image."""
    return tensor[:1].nbytes


def _contexts(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    norms = [norm for norm in module.modules() if isinstance(norm, BatchNormReLU)]
    moments = []
    return _kept(norms, moments), _known(norms, moments)


@contextmanager
def _kept(norms: list[BatchNormReLU], moments: list[Moments]) -> Iterator[None]:
    """Append what batch norms see of the batch."""
    yield
    moments += [norm.moments for norm in norms]


@contextmanager
def _known(norms: list[BatchNormReLU], moments: list[Moments]) -> Iterator[None]:
    """Batch norms see the same batch again: they know its moments, and have counted it."""
    before = [norm.known for norm in norms]  # one recomputation may be inside another
    for norm, known in zip(norms, moments, strict=True):
        norm.known = known
    try:
        yield
    finally:
        for norm, known in zip(norms, before, strict=True):
            norm.known = known
