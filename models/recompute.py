"""Activations made again in the backward pass instead of stored: less memory, equal numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, is_grad_enabled, nn
from torch.compiler import is_compiling
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

MODES = ("none", "selective", "full")


class Stage(nn.Sequential):
    """What "selective" wraps: cheap layers and the convolution at their end.

    Its inputs are kept. torch stops a recomputation where nothing more is missing, which is before
    the convolution runs: pooling, upsampling, concatenation, norm and activation are made again.
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
    for module in model.modules():
        if isinstance(module, Stage | Block):
            module.__dict__.pop("forward", None)
            if isinstance(module, wrapped):
                module.forward = partial(_checkpointed, module)


def _checkpointed(module: nn.Module, *inputs: Tensor) -> Tensor:
    """The module's own forward, wrapped in torch's checkpoint while gradients are recorded."""
    forward = partial(type(module).forward, module)
    if not (module.training and is_grad_enabled()):
        return forward(*inputs)
    if is_compiling():  # torch.compile takes no contexts, and updates running statistics once
        return checkpoint(forward, *inputs, use_reentrant=False)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, module))


def _contexts(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    return nullcontext(), _running_statistics_kept(module)


@contextmanager
def _running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norm saw this batch in the forward pass: the second pass must not count it again."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
