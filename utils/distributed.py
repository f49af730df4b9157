"""Ranks of a `torchrun` launch, or the single process that is its own rank 0 of 1."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils import checkpoint


class Ranks:
    """Who takes part. Started by `torchrun`, the processes meet here; otherwise every call is a
    no-op.

    rank, world: this process and how many. alone: as if there were no others.
    """

    def __init__(self, device: torch.device, alone: bool = False) -> None:
        self.device = device
        self.rank = 0 if alone else int(os.environ.get("RANK", 0))
        self.world = 1 if alone else int(os.environ.get("WORLD_SIZE", 1))
        if self.world > 1:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the data is this process's: rank and number of ranks."""
        return self.rank, self.world

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print a text, unless there is none, once for all ranks."""
        if self.first and text:
            print(text, flush=True)

    def wrap(self, model: nn.Module, partial_outputs: bool) -> nn.Module:
        """The model whose gradients are averaged over ranks; `partial_outputs`: a step may leave
        heads unused."""
        if self.world == 1:
            return model
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=partial_outputs)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients of parameters that no wrapped model holds."""
        for parameter in parameters:
            if self.world > 1 and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over ranks."""
        if self.world > 1:
            tensor = tensor.to(self.device)
            dist.all_reduce(tensor)
        return tensor

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Each value's mean over ranks, which all have the same names."""
        names = sorted(values)
        total = self.sum(torch.tensor([values[name] for name in names], dtype=torch.float64))
        means = dict(zip(names, (total / self.world).tolist(), strict=True))
        return {name: means[name] for name in values}

    def union(self, names: Iterable[str]) -> list[str]:
        """The names that any rank has, sorted: what ranks sum must stand in one order."""
        everyone = [list(names)]
        if self.world > 1:
            everyone *= self.world
            dist.all_gather_object(everyone, everyone[0])
        return sorted(set().union(*everyone))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the first one's values, such as batch norm's running statistics."""
        for tensor in tensors if self.world > 1 else ():
            dist.broadcast(tensor, 0)

    def first_says(self, say: Callable[[], str]) -> str:
        """Call `say` on the first rank only, and give its answer to all."""
        said = [say() if self.first else ""]
        if self.world > 1:
            dist.broadcast_object_list(said)
        return said[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return bool(self.sum(torch.tensor(int(flag)))) if self.world > 1 else flag

    def save(self, path: Path, state: dict[str, Any]) -> None:
        """Write a checkpoint, from the first rank."""
        if self.first:
            checkpoint.save(path, state)

    def close(self) -> None:
        """Leave the group."""
        if self.world > 1:
            dist.destroy_process_group()
