"""Batch norm's running statistics through a training step."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from utils.distributed import Distributed


class RunningStatistics:
    """Those of some modules, as they are before a step.

    A step that is left out leaves them so. With several ranks, they end as those of one process
    that takes the ranks' batches in turn, so that every rank has the same, of all images.
    """

    def __init__(self, modules: Sequence[nn.Module], distributed: Distributed) -> None:
        self.distributed = distributed
        self.layers: list[tuple[nn.Module, list[Tensor]]] = []
        for layer in [layer for module in modules for layer in module.modules()]:
            buffers = [b for b in layer.buffers(recurse=False) if b.is_floating_point()]
            if own := [buffer for buffer in buffers if buffer.ndim == 1]:
                self.layers.append((layer, own))
        self.tensors = [tensor for _, own in self.layers for tensor in own]
        self.before = torch.cat(self.tensors) if self.tensors else None
        self.uses = self._uses() if distributed.world_size > 1 else []

    def settle(self, not_finite: Tensor) -> None:
        """The step is taken, or, where not_finite is 1, left out. Nothing waits for the device."""
        if self.before is None:
            return
        after = torch.cat(self.tensors)
        if self.distributed.world_size > 1:
            after = self._in_turn(self.before.double(), after.double()).to(after.dtype)
        kept = torch.where(not_finite > 0, self.before, after)
        torch._foreach_copy_(self.tensors, kept.split([len(tensor) for tensor in self.tensors]))

    def _in_turn(self, before: Tensor, after: Tensor) -> Tensor:
        """n uses of momentum m make (1 - m)^n r + c of r, where c is of the images alone: so c is
        known, and one rank's uses can follow another's."""
        kept = [
            ((1 - getattr(layer, "momentum", 1.0)) ** (now - then)).expand(sum(map(len, own)))
            for (layer, own), then, now in zip(self.layers, self.uses, self._uses(), strict=True)
        ]
        keep = torch.cat(kept)
        rank, world_size = self.distributed.part
        own = keep ** (world_size - 1 - rank) * (after - keep * before)
        return self.distributed.sum(own + keep**world_size * before if rank == 0 else own)

    def _uses(self) -> list[Tensor]:
        """How often each layer was used up to now, float64; 0 where it does not count."""
        return [
            own[0].new_zeros((), dtype=torch.float64) + getattr(layer, "num_batches_tracked", 0)
            for layer, own in self.layers
        ]
