"""A training step, and an evaluation of a data set; benchmarks call these too."""

import copy
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from datasets.task import Batch, UserError
from utils.checkpoint import rng_state, set_rng_state
from utils.compute import Compute
from utils.distributed import Distributed
from utils.gallery import EvalSample, Gallery
from utils.metric_sums import Metrics
from utils.optim import Schedule, check_moments, make_optimizer
from utils.predict import Predictor
from utils.running import RunningStatistics
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


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory, or the system's, was asked for more than there is."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


class Evaluation(NamedTuple):
    """scores: `OUTPUT/METRIC` and mean loss terms. metrics: the counts behind them."""

    scores: dict[str, float]
    metrics: Mapping[str, Metrics]


@torch.inference_mode()
def evaluate(
    predictor: Predictor,
    batches: Iterable[Batch],
    criterion: Callable[..., tuple[Tensor, dict[str, Tensor]]],
    metrics: Mapping[str, Metrics],
    distributed: Distributed,
    gallery: Gallery | None = None,
) -> Evaluation:
    """How good a network is on a data set, from one streamed count per output.

    Everything is counted at the labels' own size: of a task that resizes, predictions are brought
    back to it. Loss terms are means over the parts that the predictor answers for (tiles, or images
    that are resized), weighted by their pixels. Distributed each take a part of the batches
    and return the scores of the whole. gallery: is offered every sample, to be drawn.
    """
    compute = predictor.compute
    sums: dict[str, Tensor] = {}
    pixels = 0
    nothing = copy.deepcopy(metrics)
    for batch in batches:
        labels = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in batch.targets.items()}
        counts = [copy.deepcopy(nothing) for _ in batch.keys]
        pixels += len(batch.image) * math.prod(batch.image.shape[-2:])
        for index, size, predictions in predictor(batch.image, tuple(batch.targets)):
            targets = compute.targets({name: batch.targets[name][index] for name in predictions})
            numbers = range(len(batch.image))[index[0]]
            for i in range(len(numbers)):  # no loss depends on which images share a batch
                one = (
                    {n: each[i : i + 1] for n, each in e.items()} for e in (predictions, targets)
                )
                for name, term in criterion(*one)[1].items():
                    sums[name] = sums.get(name, 0) + term.double() * (size / len(numbers))
            for name, target in targets.items():
                said = predictor.model.heads[name].to_labels(predictions[name])
                counted = said if metrics[name].OF_LABELS else predictions[name]
                for i, number in enumerate(numbers):
                    counts[number][name].update(counted[i : i + 1], target[i : i + 1])
                if gallery:
                    labels[name][index] = said.to(labels[name])
        for i, (key, count) in enumerate(zip(batch.keys, counts, strict=True)):
            for name, metric in metrics.items():
                metric.add(count[name])
            if gallery:
                truth, label = ({n: t[i] for n, t in e.items()} for e in (batch.targets, labels))
                gallery.offer(EvalSample(key, batch.image[i], truth, label), count)
    names = distributed.union(sums)  # a rank without a sample has none of its own
    own = [*(float(sums.get(name, 0)) for name in names), pixels]
    totals = distributed.sum(torch.tensor(own, dtype=torch.float64))
    if not totals[-1]:
        raise UserError("nothing to evaluate: not one sample of the split can be used")
    scores = {name: float(total / totals[-1]) for name, total in zip(names, totals, strict=False)}
    for name, metric in metrics.items():
        metric.load_state(distributed.sum(metric.state()))
        scores |= {f"{name}/{key}": value for key, value in metric.compute().items()}
    return Evaluation(scores, metrics)
