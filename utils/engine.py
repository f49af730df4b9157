"""A training step, the same for training, benchmarks and the memory plan."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from datasets.task import Batch, UserError
from utils.checkpoint import rng_state, set_rng_state
from utils.command import is_out_of_memory
from utils.compute import Compute
from utils.distributed import Distributed
from utils.optim import Schedule, check_moments, make_optimizer
from utils.settings import OptimSettings


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seed what initialises and drops out; `deterministic` refuses what cannot be repeated."""
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


@dataclass
class TrainState:
    """Everything that changes while training: what a checkpoint must hold.

    parallel: the model as it is called, which averages gradients where there are several ranks.
    ema: the averaged copy of the model, or None. clip: largest norm of the gradient, 0 is
    unlimited. micro_batches: into how many parts a batch is cut, which go through the network one
    after the other; more than 1 since memory ran out.
    """

    model: Any
    parallel: nn.Module
    criterion: Any
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    compute: Compute
    distributed: Distributed
    ema: AveragedModel | None = None
    clip: float = 0.0
    micro_batches: int = 1

    @classmethod
    def of(
        cls,
        model: nn.Module,
        criterion: nn.Module,
        settings: OptimSettings,
        total: int,
        compute: Compute,
        distributed: Distributed,
        partial_outputs: bool = False,
    ) -> Self:
        """The state before the first of `total` steps, on the device.

        partial_outputs: a batch may leave heads unused, as with several tasks.
        """
        model = model.to(compute.device).to(memory_format=torch.channels_last)
        criterion = criterion.to(compute.device)
        optimizer = make_optimizer([model, criterion], settings)
        average = partial(average_weights, settings.ema)
        ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True) if settings.ema else None
        half = compute.dtype == torch.float16
        return cls(
            model=model,
            parallel=distributed.wrap(model, partial_outputs),
            criterion=criterion,
            optimizer=optimizer,
            schedule=Schedule(optimizer, settings.schedule, settings.warmup, total),
            scaler=torch.amp.GradScaler(compute.device.type, enabled=half),
            compute=compute,
            distributed=distributed,
            ema=ema,
            clip=settings.clip,
        )

    @property
    def averaged(self) -> nn.Module:
        """The model to evaluate and to keep: the average where there is one."""
        return self.ema.module if self.ema is not None else self.model

    def state_dict(self) -> dict[str, Any]:
        """All of it, as a checkpoint holds it."""
        states = {name: getattr(self, name).state_dict() for name in self._stateful()}
        return {**states, "micro_batches": self.micro_batches, "rng": rng_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; UserError when it is of another network.

        Learning rate, decay and momentum are those asked for now. Weights that were not averaged
        before begin to be.
        """
        try:
            groups = state["optimizer"]["param_groups"], self.optimizer.param_groups
            kinds = [[("betas" in g, g.get("filters")) for g in some] for some in groups]
            if kinds[0] != kinds[1]:  # torch would not notice
                raise UserError("its optimizer, or its --encoder-lr, is another one")
            check_moments(self.optimizer, state["optimizer"])
            settings = [{k: v for k, v in group.items() if k != "params"} for group in groups[1]]
            late = self.ema is not None and "ema" not in state
            for name in self._stateful():
                if not (name == "ema" and late):
                    getattr(self, name).load_state_dict(state[name])
                if name == "optimizer":  # its groups hold the stopped run's settings, too
                    for group, values in zip(self.optimizer.param_groups, settings, strict=True):
                        group.update(values)
            if self.ema is not None and late:
                self.ema.module.load_state_dict(self.model.state_dict())
            self.micro_batches = int(state["micro_batches"])
            set_rng_state(state["rng"])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"checkpoint does not fit these settings: {reason}") from None

    def _stateful(self) -> list[str]:
        names = ["model", "criterion", "optimizer", "schedule", "scaler"]
        return names if self.ema is None else [*names, "ema"]


def train_step(state: TrainState, batches: Sequence[Batch], accum: int = 1) -> dict[str, Tensor]:
    """One optimiser step over the gradient of `accum` batches of each task, in the order given.

    Returns `loss`, the sum over tasks that was minimised, and the named terms, each averaged over
    the batches that have it, as tensors on the device: nothing here waits for it. `not_finite` is 1
    where any rank's loss, or the gradient, is infinite or not a number: weights, moments and batch
    norm's statistics are then what they were before. Where memory runs out, the gradients are
    computed anew in more and smaller micro-batches, whose number is in `state.micro_batches`;
    UserError when there is nothing left to cut.
    """
    state.model.train()
    statistics = RunningStatistics([state.model, state.criterion], state.distributed)
    sums = _gradients(state, batches, accum)
    loss = torch.stack(sums["loss"]).sum() / accum
    state.distributed.average_gradients(state.criterion.parameters())
    if state.criterion.history is not None:
        state.distributed.share(state.criterion.history.buffers())
    if state.clip:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), state.clip)
    not_finite = _not_finite(state, loss)
    if not state.scaler.is_enabled():  # a scaler looks for itself
        state.optimizer.found_inf = not_finite  # type: ignore[attr-defined]  # as a scaler tells it
    state.scaler.step(state.optimizer)
    state.scaler.update()
    statistics.settle(not_finite)
    state.schedule.advance()
    if state.ema is not None:
        state.ema.update_parameters(state.model)
    means = {name: torch.stack(terms).mean() for name, terms in sums.items()}
    return means | {"loss": loss, "not_finite": not_finite}


def _not_finite(state: TrainState, loss: Tensor) -> Tensor:
    """1 where the loss on any rank, or the gradient, is infinite or not a number, else 0; float32,
    on the device. Of a scaled gradient, which overflows now and then, the scaler takes care."""
    finite = loss.isfinite()
    if not state.scaler.is_enabled():
        parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        finite = finite & nn.utils.get_total_norm(gradients).isfinite()
    return state.distributed.sum((~finite).float()).clamp(max=1)


class RunningStatistics:
    """Batch norm's running statistics in some modules, as they are before a step.

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


def average_weights(
    decay: float, averages: list[Tensor], values: list[Tensor], count: Tensor
) -> None:
    """Move averages towards the values of a further step, in place.

    decay: share of an average that stays; after `count` steps at most (1 + count) / (10 + count),
    so that a short run is not an average of its beginning (TensorFlow's ExponentialMovingAverage).
    """
    few = int(count)
    get_ema_multi_avg_fn(min(decay, (1 + few) / (10 + few)))(averages, values, count)


def _gradients(state: TrainState, batches: Sequence[Batch], accum: int) -> dict[str, list[Tensor]]:
    """Leave the gradient of all batches in the parameters; loss terms of each batch by name."""
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, list[Tensor]] = {}
        try:
            for batch in batches:
                for name, term in _backward(state, batch, accum).items():
                    sums.setdefault(name, []).append(term)
            return sums
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if state.distributed.world_size > 1 or state.micro_batches >= max(
                b.batch_size for b in batches
            ):
                height, width = batches[0].image.shape[-2:]
                num = -(-batches[0].batch_size // state.micro_batches)
                raise UserError(
                    f"out of memory with {num} images of {height}x{width} at once: "
                    "--plan shows what a batch needs and which flags need less"
                ) from None
        state.micro_batches *= 2  # not in `except`, where the traceback keeps the activations alive
        if state.compute.device.type == "cuda":
            torch.cuda.empty_cache()


def _backward(state: TrainState, batch: Batch, accum: int) -> dict[str, Tensor]:
    """Add the gradient of one batch's loss to the parameters' and return its terms."""
    targets = state.compute.targets(batch.targets)
    if state.micro_batches > 1 and batch.batch_size > 1:
        return _backward_in_micro_batches(state, batch, targets, accum)
    # without an image, the backward pass of what torch.compile makes fails
    plain = nullcontext() if batch.batch_size else torch.compiler.set_stance("force_eager")
    with plain:
        predictions = _predict(state, batch.image, tuple(targets))
    loss, terms = state.criterion(predictions, targets)
    del predictions  # the graph keeps of them what it needs
    state.scaler.scale(loss / accum).backward()
    return terms


def _backward_in_micro_batches(
    state: TrainState, batch: Batch, targets: dict[str, Tensor], accum: int
) -> dict[str, Tensor]:
    """The same gradient in less memory: one micro-batch is inside the network at a time.

    The mean over the micro-batches' losses would be another loss (dice is no mean over pixels; they
    have unequal numbers of labelled ones). So every one is predicted first, without a graph; the
    loss of the whole batch gives the gradient of each prediction; then every one is predicted again
    and its predictions' gradients go backward: one forward pass more. Batch norm alone sees a
    difference: smaller batches.
    """
    outputs = tuple(targets)
    images = batch.image.chunk(state.micro_batches)
    statistics, rng = [b.clone() for b in state.model.buffers()], rng_state()
    with torch.no_grad():
        chunks = [_predict(state, image, outputs) for image in images]
    names = list(chunks[0])  # outputs, and auxiliary predictions of them
    predictions = {
        name: torch.cat([chunk[name] for chunk in chunks]).requires_grad_() for name in names
    }
    del chunks
    loss, terms = state.criterion(predictions, targets)
    state.scaler.scale(loss / accum).backward()
    del loss
    gradients: list[Any] = [predictions.pop(name).grad for name in names]
    shares = zip(*(gradient.chunk(state.micro_batches) for gradient in gradients), strict=True)
    del gradients

    for buffer, value in zip(state.model.buffers(), statistics, strict=True):
        buffer.copy_(value)
    set_rng_state(rng)  # dropout repeats itself
    for image, share in zip(images, shares, strict=True):
        predictions = _predict(state, image, outputs)
        torch.autograd.backward([predictions[name] for name in names], share)
    return terms


def _predict(state: TrainState, image: Tensor, outputs: tuple[str, ...]) -> dict[str, Tensor]:
    """uint8 (N, 3, H, W) on the host -> predictions with their graph."""
    image = state.compute.image(image)
    with state.compute.autocast():
        return state.parallel(image, outputs)
