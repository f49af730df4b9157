"""How much memory a training step takes, and what for, seen without taking it.

A training step -> the storages that come and go in it, and the bytes at its worst moment.

Torch can run operations on fake tensors: they have shapes and strides but no numbers, take no
memory and no time to speak of. A whole training step runs on them, forward, backward and optimiser,
the same `train_step` that trains. A tracker notes each storage that an operation makes, and when
the last tensor that uses it dies, as it would die in the real step. The running sum of their sizes
has a largest value: that is the peak.

One trace tells the peak of every batch size. It is made with a prime number of images that divides
the size of no weight. So a storage whose size that prime divides holds something of each image, and
grows with the batch; any other one (weights, gradients, moments of the optimiser) stays as it is.
Scaling the sizes and adding them up again takes milliseconds. With several tasks, each has a prime
of its own.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from datasets.task import Batch
from utils.compute import Compute
from utils.distributed import Distributed
from utils.engine import TrainState, train_step
from utils.memory.footprint import BORROWED, Footprint


class Tracker(TorchDispatchMode):
    """Records the storages that operations make while it is active, and when they are released.

    What a kernel takes and gives back within one operation is not seen, but known: see `borrowed`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.label = "batch"  # what storages made from now on hold
        self.present = 0  # storages before the first operation
        self.sizes: list[int] = []
        self.labels: list[str] = []
        self.events: list[tuple[int, int]] = []
        # address -> number of the storage, and the reference that sees it die
        self._live: dict[int, tuple[int, weakref.ref]] = {}

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run the operation, then note what it made."""
        if func is torch.ops.prim.device.default:  # asked of fake tensors thousands of times
            return args[0].device
        made = func(*args, **(kwargs or {}))
        for leaf in [made] if isinstance(made, Tensor) else tree_leaves(made):
            if isinstance(leaf, Tensor):
                self.note(leaf)
        if size := borrowed(func, args):
            self.events += [(len(self.sizes), 1), (len(self.sizes), -1)]
            self.sizes.append(size)
            self.labels.append(BORROWED)
        return made

    def note(self, tensor: Tensor, label: str | None = None) -> None:
        """Count the tensor's storage if it is new; a label given replaces the one it had."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._live:
            number = len(self.sizes)
            self.sizes.append(storage.nbytes())
            self.labels.append(self.label)
            self.events.append((number, 1))
            gone = partial(self._gone, address, number)
            self._live[address] = number, weakref.ref(storage, gone)
        if label is not None:
            self.labels[self._live[address][0]] = label

    def _gone(self, address: int, number: int, _: weakref.ref) -> None:
        del self._live[address]
        self.events.append((number, -1))

    def footprint(self) -> Footprint:
        """End the record."""
        self._live.clear()
        return Footprint(self.sizes, self.labels, self.events, self.present)


def borrowed(func: Callable, args: tuple) -> int:
    """Bytes that kernels of a CPU borrow for an operation, by a log of their requests: convolutions
    for their reordered weights, and once more for the gradient of these, in float32; batch norm
    backward for a result that it makes twice."""
    aten = torch.ops.aten
    if func is aten.convolution.default:
        return args[1].nbytes
    if func is aten.convolution_backward.default:
        return args[2].nbytes + 4 * args[2].numel()
    return args[1].nbytes if func is aten.native_batch_norm_backward.default else 0


def trace(state: TrainState, batches: Sequence[Batch], accum: int = 1) -> Footprint:
    """Run one train_step, on real or on fake tensors, and see what it holds."""
    tracker = Tracker()
    state.optimizer.zero_grad(set_to_none=True)
    for label, tensors in _present(state, batches):
        for tensor in tensors:
            tracker.note(tensor, label)
    tracker.present = len(tracker.sizes)
    with _labelled(state, tracker), tracker:
        train_step(state, batches, accum)
    for part in (state.model, state.criterion):
        for parameter in part.parameters():
            if parameter.grad is not None:
                tracker.note(parameter.grad, "gradients")
    return tracker.footprint()


def _present(state: TrainState, batches: Sequence[Batch]) -> Iterator[tuple[str, list[Tensor]]]:
    """What is there before a step, by what it is for."""
    for part in (state.model, state.criterion):
        yield "weights", [*part.parameters(), *part.buffers()]
    if state.ema is not None:
        yield "averaged weights", [*state.ema.parameters(), *state.ema.buffers()]
    for values in state.optimizer.state.values():
        yield "optimiser", [value for value in values.values() if torch.is_tensor(value)]
    for batch in batches:
        yield "batch", [batch.image, *batch.targets.values()]


@contextmanager
def _labelled(state: TrainState, tracker: Tracker) -> Iterator[None]:
    """Tell the tracker where the step is: in which stage of the network, forward or backward."""
    backward = False

    def began(module: nn.Module, inputs: tuple) -> None:
        """The network is called: what is there is the batch."""
        nonlocal backward
        backward = False
        tracker.label = "batch"
        tracker.note(inputs[0], "batch")

    def entered(label: str, module: nn.Module, inputs: tuple) -> None:
        """A forward pass reaches a stage."""
        if not backward:  # else the stage is being recomputed
            tracker.label = label

    def left(label: str, module: nn.Module, inputs: tuple, output: Any) -> None:
        """It leaves one: the backward pass will come back here."""
        for tensor in tree_leaves(output):
            if torch.is_tensor(tensor) and tensor.requires_grad:
                tensor.register_hook(partial(returned, label))

    def returned(label: str, gradient: Tensor) -> None:
        """It is back."""
        nonlocal backward
        backward = True
        tracker.label = f"backward of {label}"

    def stepping(*_: Any) -> None:
        """The gradients are complete."""
        tracker.label = "optimiser step"

    handles = [
        state.model.register_forward_pre_hook(began),
        state.criterion.register_forward_pre_hook(partial(entered, "loss")),
        state.criterion.register_forward_hook(partial(left, "loss")),
        state.optimizer.register_step_pre_hook(stepping),
    ]
    for label, stage in stages(state.model):
        handles.append(stage.register_forward_hook(partial(left, label)))
        for module in stage.modules():
            handles.append(module.register_forward_pre_hook(partial(entered, label)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def stages(model: nn.Module, name: str = "") -> list[tuple[str, nn.Module]]:
    """The parts of a network by name: what its lists and dicts of modules hold, and what stands
    beside those; sequences are not taken apart."""
    lists = nn.ModuleList | nn.ModuleDict
    undivided = isinstance(model, nn.Sequential) or not any(
        isinstance(m, lists) for m in model.modules()
    )
    if name and undivided:
        return [(name.replace(".blocks", ""), model)]
    children = ((f"{name}.{key}".strip("."), child) for key, child in model.named_children())
    return [stage for key, child in children for stage in stages(child, key)]


class Mode(NamedTuple):
    """How a step trades time for memory. ckpt: one of CKPT_MODES ("none" is the plain one), or one
    for each block, with commas."""

    amp: bool
    ckpt: str

    @property
    def flags(self) -> str:
        """As they are given to train.py."""
        words = ["--amp"] * self.amp + [f"--ckpt {self.ckpt}"] * (self.ckpt != "none")
        return " ".join(words)


class FakeStep:
    """A train state of fake tensors: its steps take no memory, and show how much they would take.

    build: makes the state, here on the meta device. batches: makes one batch of each task, from
    their sizes. recompute: sets a mode. The optimiser has its state, as in every step but the
    first. More than two batches of a task per step take no more than two.
    """

    def __init__(
        self,
        build: Callable[[Compute, Distributed], TrainState],
        batches: Callable[[tuple[int, ...]], list[Batch]],
        recompute: Callable[[nn.Module, str], Sequence[nn.Module]],
        accum: int = 1,
    ) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second

        self.batches, self.recompute, self.accum = batches, recompute, accum
        self.fake = FakeTensorMode()
        meta = torch.device("meta")
        with meta:
            self.state = build(Compute(meta), Distributed(meta, alone=True))
        with self.fake:
            _replace_tensors(self.state)
            for group in self.state.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            self.state.optimizer.state.clear()  # of tensors that were replaced
            self.state.optimizer.step()

    def blocks(self) -> list[str]:
        """The names of the blocks that may be recomputed, as `stages` has them."""
        names = {id(stage): name for name, stage in stages(self.state.model)}
        return [names[id(block)] for block in self.recompute(self.state.model, "none")]

    def primes(self, least: int, num: int) -> tuple[int, ...]:
        """The first `num` primes, at least so large, that divide the size of no weight."""
        tensors = [
            tensor
            for part in (self.state.model, self.state.criterion)
            for tensor in (*part.parameters(), *part.buffers())
        ]
        sizes = {tensor.numel() for tensor in tensors}
        kept = sum(len(t) for t in tensors if t.ndim == 1 and not isinstance(t, nn.Parameter))
        sizes = {size for size in (*sizes, kept) if size}  # a step keeps these statistics as one
        primes = (n for n in count(max(5, least)) if all(n % i for i in range(2, isqrt(n) + 1)))
        return tuple(islice((n for n in primes if all(size % n for size in sizes)), num))

    def trace(self, mode: Mode, images: tuple[int, ...]) -> Footprint:
        """The footprint of a step over so many images of each task."""
        state = self.state
        self.recompute(state.model, mode.ckpt)
        dtype = torch.bfloat16 if mode.amp else None  # float16 takes as many bytes
        state.compute = Compute(torch.device("cpu"), dtype)
        with self.fake:
            if state.ema is not None:  # the one value that a step asks for
                state.ema.n_averaged = torch.tensor(0)
            return trace(state, self.batches(images) * min(self.accum, 2), self.accum)


def _replace_tensors(state: TrainState) -> None:
    """Tensors on the meta device, which autocast does not know, by fake ones on the CPU."""
    new: dict[Tensor, Any] = {}
    for part in filter(None, (state.model, state.criterion, state.ema)):
        for module in part.modules():
            registered: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for tensors in registered:
                for name, old in tensors.items():
                    if old is None:
                        continue
                    if old not in new:
                        like = torch.empty_strided(
                            old.shape, old.stride(), dtype=old.dtype, device="cpu"
                        )
                        is_parameter = isinstance(old, nn.Parameter)
                        new[old] = nn.Parameter(like, old.requires_grad) if is_parameter else like
                    tensors[name] = new[old]
    for group in state.optimizer.param_groups:
        group["params"] = [new[old] for old in group["params"]]
