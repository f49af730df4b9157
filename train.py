"""Flags -> tasks, data, one network -> a run folder. `python train.py --help` lists the flags."""

from __future__ import annotations

import gc
import math
import sys
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from datasets import TASKS, load_task
from datasets.task import Task, UserError
from utils import report
from utils.command import printable, run_command
from utils.flags import Parser, as_flags, check_choices, pairs, real, train_parser

if TYPE_CHECKING:  # torch takes seconds to import: `--help` answers without it
    import torch
    from PIL.Image import Image

    from datasets.dataset import TaskData
    from datasets.task import Batch
    from losses.weighted import Criterion
    from models.unet import ModelSpec
    from utils.compute import Compute
    from utils.distributed import Ranks
    from utils.engine import Learner
    from utils.memory import Plan, Setting
    from utils.skipped import Skipped

DATA = Path("data")  # demo scenes and class counts
RUNS = Path("runs")
LOG_STEPS = 10
OVERFIT_STEPS = 300  # enough to learn a batch by heart
SAVE_SECONDS = 300  # a crash costs at most so much training
NUM_PICTURES = 4
SMALLER = (3 / 4, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8)  # of size or width, to find what fits
PER_TASK = {"size": (256, 256), "bs": 8, "class_weights": False}  # each task may have its own


def main() -> int:
    """Train; 0 when done, 2 with one line for a mistake, 130 when stopped by a signal."""
    return run_command(train)


def train() -> int:
    """Train as the command line says."""
    args, tasks = parse(sys.argv[1:])
    unnamed = args.out is None
    try:
        return run(args, tasks)
    finally:
        if unnamed and args.out:
            with suppress(OSError):
                args.out.rmdir()  # empty where a mistake was found before there was a run


def parse(words: list[str]) -> tuple[Namespace, list[Task]]:
    """Flags given > flags of the run resumed > defaults of the first task > defaults of all."""
    parser = train_parser(TASKS)
    given = parser.parse_args(words)
    if given.resume is not None:
        from utils import checkpoint

        path = Path(given.resume) if given.resume else newest(given.task, "last.pt")
        if given.out not in (None, path.parent):
            raise UserError(f"--out {given.out}: a run is resumed in its own folder, {path.parent}")
        state = checkpoint.load(path, "config")
        if "learner" not in state:
            raise UserError(f"{path}: holds weights alone, --resume expects a last.pt")
        config = state["config"]
        trained = [task["name"] for task in config["tasks"]]
        if given.task and [load_task(name).name for name in given.task] != trained:
            raise UserError(f"{path}: trained for {'+'.join(trained)}, not {'+'.join(given.task)}")
        words = [*config["flags"], *words]
        args = parser.parse_args(words)
        args.resume, args.out = path, path.parent
        tasks = [Task.from_json(task) for task in config["tasks"]]  # as they were, not as they are
    elif given.task:
        tasks = [load_task(name) for name in given.task]
        for task in tasks:
            check_defaults(task, parser)
        defaults = tasks[0].defaults
        shared = {name: value for name, value in defaults.items() if name not in PER_TASK}
        if given.encoder != "unet" and "encoder" not in defaults:
            shared.pop("centre", None)  # that of our own encoder; others reach their bottom alone
        words = [*as_flags(shared), *words]
        args = parser.parse_args(words)
    else:
        raise UserError(f"--task: expected one or more of {', '.join(TASKS)}, or a task file")
    args.flags = [w for w in words if w != given.resume and not w.startswith("--resume")]
    args.convs = args.convs * 3 if len(args.convs) == 1 else args.convs
    check(args, tasks)
    return args, tasks


def check(args: Namespace, tasks: list[Task]) -> None:
    """Refuse flags that contradict each other or the tasks."""
    outputs = [output for task in tasks for output in task.outputs]
    names = [output.name for output in outputs]
    if len(set(names)) != len(names):
        raise UserError(f"--task: two of these tasks share an output name: {', '.join(names)}")
    if args.data and len(tasks) > 1 and len(args.data) != len(tasks):
        raise UserError(f"--data: {len(args.data)} paths for {len(tasks)} tasks, expected one each")
    if args.pretrained and args.encoder == "unet":
        raise UserError("--pretrained: only timm encoders have such weights, see --encoder")
    if len(args.convs) != 3:
        raise UserError(f"--convs: {len(args.convs)} numbers, expected 1 or 3")
    if args.split_by and len(tasks) > 1:
        raise UserError("--split-by: expected a single task")
    if args.out and args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out}: a file, expected a folder")
    if args.out and not args.resume and (args.out / "last.pt").exists():
        raise UserError(
            f"--out {args.out}: holds a run; continue it with --resume {args.out}/last.pt"
        )
    for task in tasks:
        check_best(task)
    learned = args.loss_weights == ["uncertainty"]
    weights = {} if learned else pairs("--loss-weights", args.loss_weights)
    for flag, given in (("--loss-weights", weights), ("--losses", pairs("--losses", args.losses))):
        for name in given:
            if name not in names:
                raise UserError(f"{flag}: no output {name!r}, expected one of {', '.join(names)}")
    for name, weight in weights.items():
        try:
            real(weight)
        except ArgumentTypeError as error:
            raise UserError(f"--loss-weights {name}={error}") from None
    make_criterion(args, tasks, {})  # refuses terms that there are none of, before data is opened


def check_defaults(task: Task, parser: Parser) -> None:
    """Refuse a task whose defaults are no flags, or not of their kind."""
    try:
        check_choices(task.defaults)
        parsed = parser.parse_args(as_flags(task.defaults))
    except ValueError as error:
        raise UserError(f"task {task.name}: defaults: {error}") from None
    for name in PER_TASK.keys() & task.defaults:
        value, expected = task.defaults[name], getattr(parsed, name)
        if value != expected:
            raise UserError(f"task {task.name}: defaults: {name}: {value!r}, not {expected!r}")


def check_best(task: Task) -> None:
    """Refuse a task whose best checkpoint nothing would pick."""
    from utils.metrics import picking_scores

    name, _, metric = task.best.partition("/")
    output = next(output for output in task.outputs if output.name == name)
    known = picking_scores(output)
    if metric not in known:
        raise UserError(
            f"task {task.name}: best is {task.best!r}, expected {name}/ and one of "
            f"{', '.join(known)}"
        )


def new_folder(folder: Path) -> Path:
    """Make the folder, or the first of folder-2, folder-3, ... that is not there.

    Of runs that start at once, each has its own.
    """
    candidate, number = folder, 1
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate
        except FileExistsError:
            number += 1
            candidate = folder.with_name(f"{folder.name}-{number}")


def newest(task_names: list[str] | None, file: str) -> Path:
    """The newest checkpoint of that name below runs/, of these tasks if any are named."""
    from utils import checkpoint

    wanted = [load_task(name).name for name in task_names or []]
    for path, trained in checkpoint.newest(RUNS, file):
        if wanted in ([], trained):
            return path
    raise UserError(f"--resume: no run of {'+'.join(wanted) or 'any task'} below {RUNS}/")


def run(args: Namespace, tasks: list[Task]) -> int:
    """Train from the start, or from where a checkpoint stands, to the last step."""
    from datasets.look import look
    from utils import checkpoint, engine
    from utils.compute import make_compute
    from utils.distributed import Ranks
    from utils.logger import NullLogger, RunLogger
    from utils.meter import Meter
    from utils.skipped import Skipped
    from utils.stop import StopSignals

    compute = make_compute(args.device, args.amp)
    if args.plan or args.vram or args.bs == "auto":
        plan = make_plan(args, tasks, compute.device)
        if args.plan:
            print(plan.text())
            return 0
        fit(args, tasks, plan, compute.device)
        print(plan.summary())
    ranks = Ranks(compute.device)
    engine.seed_everything(args.seed, args.deterministic)
    data = open_data(args, tasks)
    for line in [line for d in data for line in look(d)] if ranks.first else []:
        print(f"worth a look: {printable(line)}", file=sys.stderr)
    steps = plan_steps(args, data, ranks.world)
    spec = model_spec(args, tasks)
    if not args.out:
        folder = RUNS / "+".join(task.name for task in tasks)
        args.out = Path(ranks.first_says(lambda: str(new_folder(folder))))
    skipped = Skipped(args.skip_bad, ranks, tqdm.write, args.out, resumed=bool(args.resume))
    criterion = make_criterion(args, tasks, balanced_weights(args, data, skipped))
    learner = make_learner(args, spec, criterion, steps.total, compute, ranks)
    check_norm(args, tasks, learner)
    state = {"step": 0, "best": -1.0, "run_id": None}
    if args.resume:
        state = checkpoint.load(args.resume)
        try:
            learner.load_state_dict(state["learner"])
        except ValueError as error:
            raise UserError(f"{args.resume}: {error}") from None
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

    def save_last() -> None:
        facts = {"step": step, "best": best, "learner": learner.state_dict()}
        ranks.save(args.out / "last.pt", facts | about)

    meter, saved = Meter(compute.device), time.monotonic()
    bar = progress_bar(step, steps.total, ranks.first)
    with StopSignals() as stop, bar, saved_from_dead_workers(args, learner, save_last):
        for batches, waited in training_batches(args, data, step, steps.total, ranks, skipped):
            parts = learner.parts
            terms = engine.train_step(learner, batches, args.accum)
            if learner.parts > parts:
                bar.write(split_notice(args, tasks, learner))
            step += 1
            meter.add(terms, sum(len(batch.keys) for batch in batches) * ranks.world, waited)
            bar.update()
            end = step == steps.total or ranks.any(stop.requested)
            due = step % steps.eval == 0 or step == steps.total
            logged = step % LOG_STEPS == 0 or due or end
            if logged:
                skipped.settle()
                line = ranks.mean(meter.flush()) | {"lr": learner.schedule.lr} | skipped.count
                if not math.isfinite(line["loss"]):
                    raise UserError(diverged(args, step, "the loss"))
                logger.log(step, {f"train/{name}": value for name, value in line.items()})
                bar.set_postfix_str(report.postfix(line), refresh=False)
            late = logged and ranks.any(time.monotonic() - saved > SAVE_SECONDS)
            saves = end or due or late
            broken = checkpoint.not_finite(learner.state_dict()) if saves else None
            if saves and ranks.any(broken is not None):
                raise UserError(diverged(args, step, broken or "the state of another rank"))
            if due:
                found = validate(args, data, learner, skipped)
                learner.schedule.evaluated(found.score)
                logger.log(step, {f"val/{name}": value for name, value in found.scores.items()})
                if not math.isfinite(found.scores["loss"]):
                    raise UserError(diverged(args, step, "the loss on validation images"))
                logger.images(step, found.pictures)
                where = f"step {step} (epoch {step / steps.epoch:.1f})"
                bar.write(report.evaluation(where, line, found.scores, [t.best for t in tasks]))
                # nan, where nothing is labelled, is never better; but some best.pt there must be
                if found.score > best or best < 0:
                    best = max(best, found.score)
                    weights = learner.averaged.state_dict()
                    ranks.save(
                        args.out / "best.pt", found.facts | {"step": step, "model": weights} | about
                    )
                meter.restart()
            logger.skipped(step, skipped.listed)
            if saves:
                saved = time.monotonic()
                save_last()
            if end:
                break
    logger.finish({"best": best, "step": step} | skipped.count)
    ranks.close()
    if not ranks.first:
        return 0
    if step < steps.total:
        print(f"stopped after step {step}; go on with: python train.py --resume {args.out}/last.pt")
        return 130
    conclude(args.out, tasks)
    return 0


@contextmanager
def saved_from_dead_workers(
    args: Namespace, learner: Learner, save: Callable[[], None]
) -> Iterator[None]:
    """Where a worker of a loader dies, which is only told between steps, the last whole step is
    saved before the run ends."""
    from datasets.dataset import WorkerDied
    from utils import checkpoint

    try:
        yield
    except WorkerDied as error:
        step = learner.schedule.step
        if broken := checkpoint.not_finite(learner.state_dict()):
            raise UserError(f"{error}. {diverged(args, step, broken)}") from None
        save()
        saved = f"step {step}" if learner.ranks.first else "what the first rank saved last"
        kept = f"{saved} is in {args.out / 'last.pt'}"
        raise UserError(f"{error}. Fewer --workers need less memory; {kept}") from None


class Validation(NamedTuple):
    """score: mean over tasks of what picks the best. facts: what best.pt tells of itself."""

    score: float
    scores: dict[str, float]
    facts: dict[str, Any]
    pictures: dict[str, Image]


def validate(
    args: Namespace, data: list[TaskData], learner: Learner, skipped: Skipped
) -> Validation:
    """Every task's validation split: its scores, their counts, some predictions as pictures."""
    from datasets.dataset import eval_batches
    from utils.engine import evaluate
    from utils.metrics import metrics_of
    from utils.predict import Predictor
    from utils.visualize import sample_panel

    scores, counts, pictures, losses = {}, {}, {}, []
    for task, _, val in data:
        resized = setting(args, task, "size") if task.resize else None
        predictor = Predictor(
            learner.averaged, learner.compute, args.tile, args.tile // 8, size=resized
        )
        metrics = metrics_of(task.outputs)
        size = min(setting(args, task, "bs"), task.defaults.get("bs", PER_TASK["bs"]))
        batches = eval_batches(val, size, args.workers, learner.ranks.part, skipped.add)
        found = evaluate(
            predictor, batches, learner.criterion, metrics, learner.ranks, NUM_PICTURES
        )
        losses.append(found.scores["loss"])
        scores |= found.scores
        counts |= {name: metric.state().cpu() for name, metric in metrics.items()}
        names = [output.name for output in task.outputs]
        targets = {name: [shown.targets[name] for shown in found.shown] for name in names}
        predictions = {name: [shown.predictions[name] for shown in found.shown] for name in names}
        images = [shown.image for shown in found.shown]
        if images:  # a rank's own samples may all be bad
            pictures[task.name] = sample_panel(images, targets, predictions, task.outputs)
    skipped.settle()
    scores["loss"] = sum(losses)
    score = sum(scores[task.best] for task, _, _ in data) / len(data)
    return Validation(score, scores, {"scores": scores, "counts": counts}, pictures)


class Steps(NamedTuple):
    """Optimiser steps: of the whole run, of one epoch, from one evaluation to the next."""

    total: int
    epoch: int
    eval: int


def plan_steps(args: Namespace, data: list[TaskData], world: int) -> Steps:
    """An epoch is one pass over the longest training split; when overfitting they do not count."""
    each = [len(d.train) / (setting(args, d.task, "bs") * args.accum * world) for d in data]
    epoch = math.ceil(max(each))
    total = args.steps or (OVERFIT_STEPS if args.overfit else args.epochs * epoch)
    return Steps(total, epoch, min(args.eval_steps or max(epoch, 20), total))


def setting(args: Namespace, task: Task, name: str) -> Any:
    """A flag that each task may set for itself."""
    given = getattr(args, name)
    return task.defaults.get(name, PER_TASK[name]) if given is None else given


def open_data(args: Namespace, tasks: list[Task]) -> list[TaskData]:
    """Every task's training and validation samples; demo scenes where no data is named."""
    from datasets.dataset import open_task, overfit
    from datasets.stores import parse_path

    opened = []
    for i, task in enumerate(tasks):
        if not args.data:
            from datasets.demo import demo_shards

            paths = demo_shards(task.name, DATA / "demo")
        else:
            paths = [
                parse_path(text) for text in (args.data if len(tasks) == 1 else [args.data[i]])
            ]
        data = open_task(task, paths, setting(args, task, "size"), args.split_by, args.seed)
        if args.overfit:
            data = overfit(data, args.overfit * setting(args, task, "bs"))
        opened.append(data)
    return opened


def training_batches(
    args: Namespace,
    data: list[TaskData],
    step: int,
    total: int,
    ranks: Ranks,
    skipped: Skipped,
) -> Iterator[tuple[list[Batch], float]]:
    """Per step after `step` up to `total`: `accum` batches of every task, seconds they took."""
    from datasets.dataset import train_loader

    loaders = []
    for d in data:
        batch, start = setting(args, d.task, "bs"), step * args.accum
        pin = ranks.device.type == "cuda"
        loaders.append(
            train_loader(
                d.train, batch, args.workers, start, ranks.part, args.shuffle, skipped.add, pin
            )
        )
    for _ in range(step, total):
        start = time.perf_counter()
        batches = [next(loader) for _ in range(args.accum) for loader in loaders]
        yield batches, time.perf_counter() - start


def model_spec(args: Namespace, tasks: list[Task]) -> ModelSpec:
    """The network that the flags and the tasks' outputs ask for."""
    from models.unet import HeadSpec, ModelSpec

    heads = {
        output.name: HeadSpec(
            output.kind, output.channels, output.decoder, getattr(output, "max_depth", 1.0)
        )
        for task in tasks
        for output in task.outputs
    }
    convs = tuple(args.convs)
    shape = (args.encoder, args.width, args.depth, args.centre, convs, args.norm, args.dropout)
    return ModelSpec(heads, *shape)


def balanced_weights(
    args: Namespace, data: list[TaskData], skipped: Skipped
) -> dict[str, tuple[float, ...]]:
    """The class weights of outputs whose task wants them, counted on its training split."""
    from datasets.class_weights import class_weights

    weights = {}
    for d in data:
        if setting(args, d.task, "class_weights"):
            weights |= class_weights(d.train, DATA / "cache", skipped.add)
    return weights


def make_criterion(
    args: Namespace, tasks: list[Task], balanced: dict[str, tuple[float, ...]]
) -> Criterion:
    """The loss of every output: its task's terms and weight, unless flags say otherwise."""
    from losses.weighted import Criterion

    learned = args.loss_weights == ["uncertainty"]
    fixed = {} if learned else pairs("--loss-weights", args.loss_weights)
    try:
        return Criterion.of(
            [output for task in tasks for output in task.outputs],
            losses=pairs("--losses", args.losses),
            weights="uncertainty" if learned else {name: float(w) for name, w in fixed.items()},
            class_weights=balanced,
        )
    except ValueError as error:
        raise UserError(f"--losses, or the task's own: {error}") from None


def make_learner(
    args: Namespace,
    spec: ModelSpec,
    criterion: Criterion,
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
    if args.init and not args.resume:
        try:
            model.load_encoder(checkpoint.weights(checkpoint.load(args.init)))
        except ValueError as error:
            raise UserError(f"--init {args.init}: {error}") from None
    model = model.to(compute.device, memory_format=torch.channels_last)
    recompute(model, args.ckpt)
    if args.compile:
        model.compile()
    criterion = criterion.to(compute.device)
    optimizer = optim.make_optimizer(
        args.optimizer, [model, criterion], args.lr, args.momentum, args.weight_decay
    )
    half = compute.dtype == torch.float16
    return Learner(
        model=model,
        parallel=ranks.wrap(model, partial_outputs=len(args.task) > 1),
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


def check_norm(args: Namespace, tasks: list[Task], learner: Learner) -> None:
    """Refuse a batch of which the bottom of the network sees a single value per channel: batch norm
    has no variance then."""
    for task in tasks:
        (height, width), bs = setting(args, task, "size"), setting(args, task, "bs")
        stride = learner.model.stride
        values = bs * learner.ranks.world * math.ceil(height / stride) * math.ceil(width / stride)
        if values == 1 and args.norm == "batch":
            raise UserError(
                f"--size {height} {width} --bs {bs}: batch norm sees one value per channel at the "
                f"network's stride of {stride}: a larger size or batch, or --norm group"
            )


def make_plan(
    args: Namespace, tasks: list[Task], device: torch.device, asked: Setting | None = None
) -> Plan:
    """What a training step takes, by --amp and --ckpt; or in one setting, if it is given.

    Needs no data and allocates nothing. A plan that is only printed may be for another device.
    """
    from models.recompute import MODES, recompute
    from utils import memory
    from utils.compute import amp_dtype

    sizes = [setting(args, task, "size") for task in tasks]
    light = Namespace(**vars(args) | {"pretrained": False, "init": None, "compile": False})
    weights = {
        output.name: (1.0,) * output.channels
        for task in tasks
        for output in task.outputs
        if output.balanced and setting(args, task, "class_weights")
    }

    def build(compute: Compute, ranks: Ranks) -> Learner:
        criterion = make_criterion(args, tasks, weights)
        return make_learner(light, model_spec(args, tasks), criterion, 1, compute, ranks)

    def batches(images: tuple[int, ...]) -> list[Batch]:
        each = zip(tasks, images, sizes, strict=True)
        return [task.empty_batch(num, size) for task, num, size in each]

    half = args.plan or amp_dtype(device) is not None
    auto = args.bs == "auto"
    usual = Namespace(**vars(args) | {"bs": None}) if auto else args
    dummy = memory.Dummy(build, batches, recompute, args.accum)
    least = math.ceil(memory.PIXELS / min(math.prod(size) for size in sizes))
    return memory.Plan(
        dummy.trace,
        dummy.probe(least, len(tasks)),
        least,
        [asked] if asked else memory.settings(MODES, half),
        asked=asked or memory.Setting(args.amp and half, args.ckpt),
        images=tuple(setting(usual, task, "bs") for task in tasks),
        auto=auto,
        budget=memory.budget(args.vram, device),
        what=", ".join("{} {}x{}".format(t.name, *setting(args, t, "size")) for t in tasks),
    )


def fit(args: Namespace, tasks: list[Task], plan: Plan, device: torch.device) -> None:
    """Set the batch of `--bs auto`; UserError if what is asked for needs more than --vram."""
    if not plan.fits:
        height, width = max((setting(args, task, "size") for task in tasks), key=math.prod)
        sizes = [
            [max(8, int(part * side) // 8 * 8) for side in (height, width)] for part in SMALLER
        ]
        widths = [max(1, int(part * args.width)) for part in SMALLER]
        changes = [[{"size": size} for size in sizes], [{"width": width} for width in widths]]
        bs = 1 if args.bs == "auto" else args.bs
        leanest = plan.leanest()

        def changed(row: list[dict[str, Any]]) -> Iterator[tuple[str, Plan]]:
            for change in row:
                varied = Namespace(**vars(args) | change | {"bs": bs})
                smaller = make_plan(varied, tasks, device, leanest)
                with suppress(ValueError):  # one value per channel is too few for batch norm
                    if smaller.fits:
                        yield " ".join(as_flags(change)), smaller

        raise UserError(plan.misfit(map(changed, changes)))
    if args.bs == "auto":
        args.bs = plan.images[0]
        args.flags += as_flags({"bs": args.bs})  # a resumed run takes the same


def split_notice(args: Namespace, tasks: list[Task], learner: Learner) -> str:
    """Memory ran out in a step, which was then done in parts: what was planned, and what now."""
    plan = make_plan(args, tasks, learner.compute.device)
    return (
        f"out of memory; {plan.summary()}. From here on a batch goes through the network in "
        f"{learner.parts} parts: same effective batch and gradient, slower; batch norm sees a part"
    )


def diverged(args: Namespace, step: int, what: str) -> str:
    """What to do about a loss or a state that is not a number, and from where to go on."""
    clip = "" if args.clip else ", or --clip 1"
    last = args.out / "last.pt"
    good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint came before"
    what = f"step {step}: {what} is infinite or not a number, and not saved"
    return f"{what}: try a smaller --lr than {args.lr:g}{clip}; {good}"


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
    from utils.charts import draw_confusion, draw_curves
    from utils.metrics import metrics_of

    draw_curves(out / "metrics.jsonl", out / "curves.png")
    best = checkpoint.load(out / "best.pt")
    for task in tasks:
        metrics = metrics_of(task.outputs)
        for output in task.outputs:
            found = metrics[output.name]
            found.load_state(best["counts"][output.name])
            if found.confusion is not None:
                chart = out / f"confusion_{output.name}.png"
                draw_confusion(found.confusion, output.labels, chart)
            table = found.table(output.name)
            if table is not None:
                print(table)
    for task in tasks:
        print(report.best(task.best, best["scores"], best["step"]))
    print(f"best weights in {out}/best.pt, curves in {out}/curves.png, pictures in {out}/samples")


if __name__ == "__main__":
    status = main()
    gc.freeze()  # a last look for garbage in all of torch takes half a second
    sys.exit(status)
