"""The processes of one training: those that `torchrun` started, or this one alone.

A process has a rank, 0 to world size - 1; rank 0, the main one, writes files and speaks.
"""

import os
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.command import print_lines


class Distributed:
    """Who takes part. Started by `torchrun`, the processes meet here; otherwise every call is a
    no-op.

    rank, world_size: which process this is, and of how many; part: both, which part of the data is
    this one's. is_main: whether it writes files. alone: as if there were no others.
    """

    def __init__(self, device: torch.device, alone: bool = False) -> None:
        self.device = device
        self.rank = 0 if alone else int(os.environ.get("RANK", 0))
        self.world_size = 1 if alone else int(os.environ.get("WORLD_SIZE", 1))
        self.part, self.is_main = (self.rank, self.world_size), self.rank == 0
        self.launcher = os.getppid()
        if self.world_size > 1:
            store, *part = next(dist.rendezvous("env://"))
            again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # addresses of dead ranks are
            store = dist.PrefixStore(f"start {again}", store)  # still in it after a restart
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=part[0], world_size=part[1])

    def say(self, text: str) -> None:
        """Print a text, unless there is none, once for all ranks.

        The run goes on where nobody reads any more.
        """
        if self.is_main and text:
            print_lines([text])

    def wrap(self, model: nn.Module, partial_outputs: bool) -> nn.Module:
        """The model whose gradients are averaged over ranks; `partial_outputs`: a step may leave
        heads unused."""
        if self.world_size == 1:
            return model
        parallel = nn.parallel.DistributedDataParallel(
            model, find_unused_parameters=partial_outputs
        )
        parallel.broadcast_buffers = False  # running statistics are of all ranks' images
        return parallel

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients of parameters that no wrapped model holds."""
        for parameter in parameters:
            if self.world_size > 1 and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world_size

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over ranks."""
        if self.world_size > 1:
            tensor = tensor.to(self.device)
            dist.all_reduce(tensor)
        return tensor

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Each value's mean over ranks, which all have the same names."""
        names = sorted(values)
        total = self.sum(torch.tensor([values[name] for name in names], dtype=torch.float64))
        means = dict(zip(names, (total / self.world_size).tolist(), strict=True))
        return {name: means[name] for name in values}

    def union(self, names: Iterable[str]) -> list[str]:
        """The names that any rank has, sorted: what ranks sum must stand in one order."""
        everyone = [list(names)]
        if self.world_size > 1:
            everyone *= self.world_size
            dist.all_gather_object(everyone, everyone[0])
        return sorted(set().union(*everyone))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the main one's values, such as batch norm's running statistics."""
        for tensor in tensors if self.world_size > 1 else ():
            dist.broadcast(tensor, 0)

    def main_says(self, say: Callable[[], str]) -> str:
        """Call `say` on the main rank only, and give its answer to all."""
        said = [say() if self.is_main else ""]
        if self.world_size > 1:
            dist.broadcast_object_list(said)
        return said[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return bool(self.sum(torch.tensor(int(flag)))) if self.world_size > 1 else flag

    def stops(self, requested: bool) -> bool:
        """Whether any rank was asked to stop, or has lost what launched it, which would end all."""
        orphan = self.world_size > 1 and os.getppid() != self.launcher
        return self.any(requested or orphan)

    def is_broken(self, error: object) -> bool:
        """Whether an error says that another rank is gone."""
        gone = isinstance(error, dist.DistError)  # gloo has none of its own
        return self.world_size > 1 and (
            gone or (isinstance(error, RuntimeError) and "gloo" in str(error))
        )

    def close(self) -> None:
        """Leave the group."""
        if self.world_size > 1:
            dist.destroy_process_group()
