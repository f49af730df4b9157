"""Flags -> tasks, data, one network -> a run folder. `python train.py --help` lists the flags."""

from __future__ import annotations

import math
import sys
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from datasets import TASKS, load_task
from utils import report
from utils.flags import as_flags, one_line, pairs, real, train_parser

if TYPE_CHECKING:  # torch takes seconds to import: `--help` answers without it
    from PIL.Image import Image

    from datasets.dataset import TaskData
    from datasets.task import Batch, Task
    from losses.weighted import Criterion
    from models.unet import ModelSpec
    from utils.compute import Compute
    from utils.distributed import Ranks
    from utils.engine import Learner

DATA = Path("data")  # demo scenes and class counts
RUNS = Path("runs")
LOG_STEPS = 10
SAVE_SECONDS = 300  # a crash costs at most so much training
NUM_PICTURES = 4
PER_TASK = {"size": (256, 256), "bs": 8, "class_weights": False}  # each task may have its own


def main() -> int:
    """Train; 0 when done, 2 with one line for a mistake, 130 when stopped by a signal."""
    try:
        args, tasks = parse(sys.argv[1:])
        return run(args, tasks)
    except ValueError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


def parse(words: list[str]) -> tuple[Namespace, list[Task]]:
    """Flags given > flags of the run resumed > defaults of the first task > defaults of all."""
    parser = train_parser(TASKS)
    given = parser.parse_args(words)
    if given.resume is not None:
        from utils import checkpoint

        path = Path(given.resume) if given.resume else newest(given.task, "last.pt")
        config = checkpoint.load(path)["config"]
        trained = [task["name"] for task in config["tasks"]]
        if given.task and [load_task(name).name for name in given.task] != trained:
            raise ValueError(f"{path}: trained for {'+'.join(trained)}, not {'+'.join(given.task)}")
        words = [*config["flags"], *words]
        args = parser.parse_args(words)
        args.resume, args.out = path, path.parent
    elif given.task:
        defaults = load_task(given.task[0]).defaults
        shared = {name: value for name, value in defaults.items() if name not in PER_TASK}
        words = [*as_flags(shared), *words]
        args = parser.parse_args(words)
    else:
        raise ValueError(f"--task: expected one or more of {', '.join(TASKS)}, or a task file")
    tasks = [load_task(name) for name in args.task]
    args.flags = [word for word in words if word != "--resume" and word != given.resume]
    args.convs = args.convs * 3 if len(args.convs) == 1 else args.convs
    args.out = args.out or free_folder(RUNS / "+".join(task.name for task in tasks))
    check(args, tasks)
    return args, tasks


def check(args: Namespace, tasks: list[Task]) -> None:
    """Refuse flags that contradict each other or the tasks."""
    outputs = [output for task in tasks for output in task.outputs]
    names = [output.name for output in outputs]
    if len(set(names)) != len(names):
        raise ValueError(f"--task: two of these tasks share an output name: {', '.join(names)}")
    if args.data and len(tasks) > 1 and len(args.data) != len(tasks):
        raise ValueError(
            f"--data: {len(args.data)} paths for {len(tasks)} tasks, expected one each"
        )
    if len(args.convs) != 3:
        raise ValueError(f"--convs: {len(args.convs)} numbers, expected 1 or 3")
    if args.split_by and len(tasks) > 1:
        raise ValueError("--split-by: expected a single task")
    if not args.resume and (args.out / "last.pt").exists():
        raise ValueError(
            f"--out {args.out}: holds a run; continue it with --resume {args.out}/last.pt"
        )
    learned = args.loss_weights == ["uncertainty"]
    weights = {} if learned else pairs("--loss-weights", args.loss_weights)
    for flag, given in (("--loss-weights", weights), ("--losses", pairs("--losses", args.losses))):
        for name in given:
            if name not in names:
                raise ValueError(f"{flag}: no output {name!r}, expected one of {', '.join(names)}")
    for name, weight in weights.items():
        try:
            real(weight)
        except ArgumentTypeError as error:
            raise ValueError(f"--loss-weights {name}={error}") from None


def free_folder(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that holds no run."""
    candidate, number = folder, 1
    while (candidate / "config.json").exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def newest(task_names: list[str] | None, file: str) -> Path:
    """The newest checkpoint of that name below runs/, of these tasks if any are named."""
    start = "+".join(Path(name).stem for name in task_names or [])
    found = [path for path in RUNS.glob(f"*/{file}") if path.parent.name.startswith(start)]
    if not found:
        raise ValueError(f"{RUNS}/{start}*/{file}: no run to resume")
    return max(found, key=lambda path: path.stat().st_mtime)


def run(args: Namespace, tasks: list[Task]) -> int:
    """Train from the start, or from where a checkpoint stands, to the last step."""
    from utils import checkpoint, engine
    from utils.compute import make_compute
    from utils.distributed import Ranks
    from utils.logger import NullLogger, RunLogger
    from utils.meter import Meter
    from utils.stop import StopSignals

    compute = make_compute(args.device, args.amp)
    ranks = Ranks(compute.device)
    engine.seed_everything(args.seed, args.deterministic)
    data = open_data(args, tasks)
    steps = plan_steps(args, data, ranks.world)
    spec = model_spec(args, tasks)
    learner = make_learner(args, data, spec, steps.total, compute, ranks)
    state = {"step": 0, "best": -1.0, "run_id": None}
    if args.resume:
        state = checkpoint.load(args.resume)
        learner.load_state_dict(state["learner"])
    step, best = state["step"], state["best"]
    config = {
        "tasks": [task.to_json() for task in tasks],
        "sizes": [setting(args, task, "size") for task in tasks],
        "model": spec.to_json(),
        "flags": args.flags,
    }
    logger = NullLogger()
    if ranks.first:
        logger = RunLogger(args.out, config, args.wandb, args.name, state["run_id"])
        print(announcement(args, data, learner, steps), *filter(None, [logger.link]), sep="\n")
    logger.truncate(step)
    about = {"config": config, "run_id": logger.run_id}

    meter, saved = Meter(compute.device), time.monotonic()
    with StopSignals() as stop, progress_bar(step, steps.total, ranks.first) as bar:
        for batches, waited in training_batches(args, data, step, ranks):
            terms = engine.train_step(learner, batches, args.accum)
            step += 1
            meter.add(terms, sum(len(batch.keys) for batch in batches) * ranks.world, waited)
            bar.update()
            end = step == steps.total or ranks.any(stop.requested)
            due = step % steps.eval == 0 or step == steps.total
            if step % LOG_STEPS == 0 or due or end:
                line = meter.flush() | {"lr": learner.schedule.lr}
                logger.log(step, {f"train/{name}": value for name, value in line.items()})
                bar.set_postfix_str(report.postfix(line), refresh=False)
            if due:
                found = validate(args, data, learner)
                learner.schedule.evaluated(found.score)
                logger.log(step, {f"val/{name}": value for name, value in found.scores.items()})
                logger.images(step, found.pictures)
                where = f"step {step} (epoch {step / steps.epoch:.1f})"
                bar.write(report.evaluation(where, line, found.scores, [t.best for t in tasks]))
                if not found.score <= best:  # nan, where nothing is labelled, is never better
                    best = found.score
                    weights = learner.averaged.state_dict()
                    ranks.save(
                        args.out / "best.pt", found.facts | {"step": step, "model": weights} | about
                    )
                meter.restart()
            if end or due or time.monotonic() - saved > SAVE_SECONDS:
                saved = time.monotonic()
                facts = {"step": step, "best": best, "learner": learner.state_dict()}
                ranks.save(args.out / "last.pt", facts | about)
            if end:
                break
    logger.finish({"best": best, "step": step})
    ranks.close()
    if step < steps.total:
        print(f"stopped after step {step}; go on with: python train.py --resume {args.out}/last.pt")
        return 130
    conclude(args.out, tasks)
    return 0


class Validation(NamedTuple):
    """score: mean over tasks of what picks the best. facts: what best.pt tells of itself."""

    score: float
    scores: dict[str, float]
    facts: dict[str, Any]
    pictures: dict[str, Image]


def validate(args: Namespace, data: list[TaskData], learner: Learner) -> Validation:
    """Every task's validation split: scores, confusion matrices, some predictions as pictures."""
    from datasets.dataset import eval_batches
    from utils.engine import evaluate
    from utils.metrics import make_metrics
    from utils.predict import Predictor
    from utils.visualize import sample_panel

    predictor = Predictor(learner.averaged, learner.compute, args.tile, args.tile // 8)
    scores, confusion, pictures, losses = {}, {}, {}, []
    for task, _, val in data:
        metrics = {o.name: make_metrics(o.kind, o.classes) for o in task.outputs}
        batches = eval_batches(val, setting(args, task, "bs"), args.workers, learner.ranks.part)
        found = evaluate(
            predictor, batches, learner.criterion, metrics, learner.ranks, NUM_PICTURES
        )
        losses.append(found.scores["loss"])
        scores |= found.scores
        for o in task.outputs:
            if o.kind == "classes":
                confusion[o.name] = metrics[o.name].confusion.cpu()
        names = [output.name for output in task.outputs]
        targets = {name: [shown.targets[name] for shown in found.shown] for name in names}
        predictions = {name: [shown.predictions[name] for shown in found.shown] for name in names}
        images = [shown.image for shown in found.shown]
        pictures[task.name] = sample_panel(images, targets, predictions, task.outputs)
    scores["loss"] = sum(losses)
    score = sum(scores[task.best] for task, _, _ in data) / len(data)
    return Validation(score, scores, {"scores": scores, "confusion": confusion}, pictures)


class Steps(NamedTuple):
    """Optimiser steps: of the whole run, of one epoch, from one evaluation to the next."""

    total: int
    epoch: int
    eval: int


def plan_steps(args: Namespace, data: list[TaskData], world: int) -> Steps:
    """An epoch is one pass over the longest training split."""
    each = [len(d.train) / (setting(args, d.task, "bs") * args.accum * world) for d in data]
    epoch = math.ceil(max(each))
    total = args.steps or args.epochs * epoch
    return Steps(total, epoch, min(args.eval_steps or max(epoch, 20), total))


def setting(args: Namespace, task: Task, name: str) -> Any:
    """A flag that each task may set for itself."""
    given = getattr(args, name)
    return task.defaults.get(name, PER_TASK[name]) if given is None else given


def open_data(args: Namespace, tasks: list[Task]) -> list[TaskData]:
    """Every task's training and validation samples; demo scenes where no data is named."""
    from datasets.dataset import open_task, overfit

    split_by = tuple(args.split_by.split("=", 1)) if args.split_by else None
    opened = []
    for i, task in enumerate(tasks):
        if not args.data:
            from datasets.demo import demo_shards

            paths = demo_shards(task.name, DATA / "demo")
        else:
            paths = args.data if len(tasks) == 1 else [args.data[i]]
        data = open_task(task, paths, setting(args, task, "size"), split_by, args.seed)
        if args.overfit:
            data = overfit(data, args.overfit * setting(args, task, "bs"))
        opened.append(data)
    return opened


def training_batches(
    args: Namespace, data: list[TaskData], step: int, ranks: Ranks
) -> Iterator[tuple[list[Batch], float]]:
    """Per step from `step` on: `accum` batches of every task, the seconds they took."""
    from datasets.dataset import train_loader

    loaders = []
    for d in data:
        batch = setting(args, d.task, "bs")
        loaders.append(
            iter(train_loader(d.train, batch, args.workers, step * args.accum, ranks.part))
        )
    while True:
        start = time.perf_counter()
        batches = [next(loader) for _ in range(args.accum) for loader in loaders]
        yield batches, time.perf_counter() - start


def model_spec(args: Namespace, tasks: list[Task]) -> ModelSpec:
    """The network that the flags and the tasks' outputs ask for."""
    from models.unet import HeadSpec, ModelSpec

    heads = {
        output.name: HeadSpec(output.kind, output.channels, output.decoder, output.max_depth)
        for task in tasks
        for output in task.outputs
    }
    convs = tuple(args.convs)
    shape = (args.encoder, args.width, args.depth, args.centre, convs, args.norm, args.dropout)
    return ModelSpec(heads, *shape)


def make_criterion(args: Namespace, data: list[TaskData]) -> Criterion:
    """The loss of every output: its task's terms and weight, unless flags say otherwise."""
    from datasets.histogram import class_weights
    from losses.weighted import Criterion, LossSpec

    learned = args.loss_weights == ["uncertainty"]
    weights = {} if learned else pairs("--loss-weights", args.loss_weights)
    terms = pairs("--losses", args.losses)
    specs = {}
    for d in data:
        counted = setting(args, d.task, "class_weights")
        balanced = class_weights(d.train, DATA / "cache") if counted else {}
        for output in d.task.outputs:
            weight = float(weights.get(output.name, output.weight))
            text = terms.get(output.name, output.loss)
            specs[output.name] = LossSpec(output.kind, text, weight, balanced.get(output.name))
    return Criterion(specs, uncertainty=learned)


def make_learner(
    args: Namespace,
    data: list[TaskData],
    spec: ModelSpec,
    total: int,
    compute: Compute,
    ranks: Ranks,
) -> Learner:
    """Network, loss, optimiser and schedule on the device, as the flags ask."""
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from models.recompute import recompute
    from models.unet import UNet
    from utils import checkpoint, optim
    from utils.engine import Learner

    model = UNet(spec, args.pretrained)
    if args.init:
        model.load_encoder(checkpoint.load_weights(args.init))
    model = model.to(compute.device, memory_format=torch.channels_last)
    recompute(model, args.ckpt)
    if args.compile:
        model.compile()
    criterion = make_criterion(args, data).to(compute.device)
    optimizer = optim.make_optimizer(
        args.optimizer, [model, criterion], args.lr, args.momentum, args.weight_decay
    )
    half = compute.dtype == torch.float16
    return Learner(
        model=model,
        parallel=ranks.wrap(model, partial_outputs=len(data) > 1),
        criterion=criterion,
        optimizer=optimizer,
        schedule=optim.Schedule(optimizer, args.schedule, args.warmup, total),
        scaler=torch.amp.GradScaler(compute.device.type, enabled=half),
        compute=compute,
        ranks=ranks,
        ema=AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(args.ema), use_buffers=True)
        if args.ema
        else None,
        clip=args.clip,
    )


def announcement(args: Namespace, data: list[TaskData], learner: Learner, steps: Steps) -> str:
    """What is about to be trained, on what, and where it goes."""
    lines = []
    for task, train, val in data:
        height, width = setting(args, task, "size")
        counts = f"{len(train)} images to train on, {len(val)} to validate"
        lines.append(
            f"{task.name}: {counts}, {height}x{width} pixels, batch {setting(args, task, 'bs')}"
        )
    million = sum(p.numel() for p in learner.model.parameters()) / 1e6
    dtype = str(learner.compute.dtype or "torch.float32").removeprefix("torch.")
    lines.append(f"{args.encoder}, {million:.2f} M parameters, {learner.compute.device}, {dtype}")
    lines.append(f"{steps.total} steps, {steps.epoch} an epoch, into {args.out}")
    return "\n".join(lines)


def progress_bar(step: int, total: int, shown: bool) -> tqdm:
    """A bar over the steps of the run, on a terminal and for the first rank only."""
    return tqdm(
        total=total, initial=step, unit="step", disable=None if shown else True, dynamic_ncols=True
    )


def conclude(out: Path, tasks: list[Task]) -> None:
    """Draw the curves and the confusion of the best checkpoint; print its scores."""
    from utils import checkpoint
    from utils.metrics import ClassMetrics
    from utils.visualize import draw_confusion, draw_curves

    draw_curves(out / "metrics.jsonl", out / "curves.png")
    best = checkpoint.load(out / "best.pt")
    for task in tasks:
        for output in task.outputs:
            if output.kind == "classes":
                metrics = ClassMetrics(output.classes)
                metrics.load_state(best["confusion"][output.name].flatten())
                draw_confusion(metrics.confusion, output.classes, out / "confusion.png")
                print(report.class_table(output.name, metrics.per_class()))
    for task in tasks:
        print(report.best(task.best, best["scores"], best["step"]))
    print(f"best weights in {out}/best.pt, curves in {out}/curves.png, pictures in {out}/samples")


if __name__ == "__main__":
    sys.exit(main())
