"""The settings of a training run, from its flags, its task and an earlier run.

Flags -> one frozen value, resolved and checked at the door; nothing here imports torch.

What is said more than once holds in this order: flags given, flags of the run that is resumed,
defaults of the first task (each task's own for `size`, `bs` and `class_weights`), defaults of all.
"""

import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from datasets import TASKS, load_task
from datasets.task import Label, Output, Task, UserError
from utils.flags import Parser, given_again, train_parser
from utils.task_defaults import OVERFIT, PER_TASK, defaults_of

RUNS = Path("runs")
DEMO_MINUTES = 5.0  # of training on a demo, however slow the machine is


@dataclass(frozen=True)
class TaskSettings:
    """A task as this run trains it. data: paths or addresses, none for the demo; size: height and
    width in pixels; bs: images in a batch; class_weights: whether rare classes count more."""

    task: Task
    data: tuple[str, ...]
    size: tuple[int, int]
    bs: int
    class_weights: bool

    @property
    def eval_bs(self) -> int:
        """Images that are validated at once: no more than usual, however many a step takes."""
        return min(self.bs, self.task.defaults.get("bs", PER_TASK["bs"]))

    def __str__(self) -> str:
        return "{} {}x{}".format(self.task.name, *self.size)


@dataclass(frozen=True)
class NetworkSettings:
    """What `ModelSpec.of` makes a network from, beside the outputs of the tasks."""

    encoder: str
    width: int
    depth: int
    centre: int
    convs: tuple[int, int, int]
    norm: str
    dropout: float
    output_stride: int


@dataclass(frozen=True)
class OptimSettings:
    """How weights are learnt. momentum: of SGD and Muon, or the first beta of AdamW. encoder_lr:
    the encoder's share of the learning rate. warmup: steps. clip: largest norm of the gradient, 0
    is unlimited. ema: decay of averaged weights per step, 0 is off.
    """

    optimizer: str = "muon"
    lr: float = 5e-3
    momentum: float = 0.9
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    warmup: int = 20
    clip: float = 0.0
    ema: float = 0.0
    encoder_lr: float = 1.0


@dataclass(frozen=True)
class Settings:
    """All of a run's settings, named as their flags.

    losses: terms by output name, of those that do not take their task's. loss_weights: the same of
    weights, or one of LOSS_WEIGHTS, which finds them. aux: share of auxiliary heads in the loss.
    fit_batch: `--bs auto`, the batch is not known yet. minutes: most that the steps may take, None
    once they are counted. vram: GiB. out: the run folder, None for a new one. resume: the
    checkpoint to go on from.
    """

    tasks: tuple[TaskSettings, ...]
    network: NetworkSettings
    optim: OptimSettings
    losses: dict[str, str]
    loss_weights: dict[str, float] | str
    aux: float
    epochs: int
    steps: int | None
    minutes: float | None
    eval_steps: int | None
    overfit: int
    accum: int
    fit_batch: bool
    split_by: tuple[str, str] | None
    workers: int
    shuffle: str
    skip_bad: int
    pretrained: bool | str
    init: str | None
    amp: bool
    ckpt: str
    tile: int
    compile: bool
    plain: bool
    device: str
    vram: float | None
    plan: bool
    seed: int
    deterministic: bool
    wandb: str
    name: str | None
    out: Path | None
    resume: Path | None

    @property
    def outputs(self) -> list[Output]:
        """Of all tasks, in their order."""
        return [output for each in self.tasks for output in each.task.outputs]

    def with_tasks(self, tasks: Sequence[Task]) -> Self:
        """The same with these tasks in their place, of which more is known."""
        each = zip(self.tasks, tasks, strict=True)
        return replace(self, tasks=tuple(replace(own, task=task) for own, task in each))

    def to_json(self) -> dict[str, Any]:
        """Plain values by flag name, from which a resumed run goes on; the tasks stand beside."""
        values = asdict(replace(self, tasks=()))
        values |= values.pop("network") | values.pop("optim")
        for name in ("tasks", "plan", "fit_batch", "out", "resume"):
            del values[name]
        own = {name: [getattr(each, name) for each in self.tasks] for name in PER_TASK}
        return values | own | {"cwd": os.getcwd()}  # from where relative paths are meant


# what a run keeps to its end, however often it is resumed
OF_A_RUN = {f.name for f in fields(NetworkSettings)} - {"dropout"}
OF_A_RUN |= {"optimizer", "pretrained", "init", "split_by", "overfit"}


def check_norm(settings: Settings, stride: int, world_size: int) -> None:
    """Refuse a batch of which the bottom of the network, at its stride, sees a single value per
    channel: batch norm has no variance then."""
    for each in settings.tasks:
        height, width = each.size
        values = each.bs * world_size * math.ceil(height / stride) * math.ceil(width / stride)
        if values == 1 and settings.network.norm == "batch":
            raise UserError(
                f"--size {height} {width} --bs {each.bs}: batch norm sees one value per channel at "
                f"the network's stride of {stride}: a larger size or batch, or --norm group"
            )


def parse(words: list[str]) -> Settings:
    """The settings that the words of a command line ask for; UserError names what contradicts."""
    parser = train_parser(TASKS)
    given = parser.given(words)
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))  # torchrun --max-restarts
    if again and (given.get("out", RUNS) / "last.pt").exists():
        given = {"resume": str(given["out"])}
    if "resume" in given:
        settings = _resumed(parser, given)
    elif "task" in given:
        whole = [load_task(name) for name in given["task"]]
        beside = OVERFIT if given.get("overfit") else {}
        own = [defaults_of(parser, task) | beside for task in whole]
        tasks = _asked(whole, own, given.get("outputs", []), given.get("label", []))
        shared = {name: value for name, value in own[0].items() if name not in PER_TASK}
        if given.get("encoder", "unet") != "unet" and "encoder" not in shared:
            shared.pop("centre", None)  # that of our own encoder; others reach their bottom alone
        if not given.get("data"):
            shared["minutes"] = DEMO_MINUTES
        settings = _resolve(parser, tasks, own, shared, given)
    else:
        raise UserError(f"--task: expected one or more of {', '.join(TASKS)}, or a task file")
    _check(settings)
    return settings


def _resolve(
    parser: Parser,
    tasks: list[Task],
    own: list[dict[str, Any]],
    shared: Mapping[str, Any],
    given: dict[str, Any],
) -> Settings:
    """own: of each task, what is its own. shared: defaults that stand behind the flags given."""
    values = {**vars(parser.parse_args([])), **shared}
    values["steps"] = None if "epochs" in given else values["steps"]  # not those of a task or run
    if given.keys() & {"epochs", "steps", "overfit"}:
        values["minutes"] = None
    values |= given
    values["convs"] = tuple(values["convs"]) * (3 if len(values["convs"]) == 1 else 1)
    values["output_stride"] = values["output_stride"] or (1 if values["encoder"] == "unet" else 2)
    values["losses"] = dict(values["losses"])
    values["loss_weights"] = _weights(values["loss_weights"])
    values["fit_batch"] = values["bs"] == "auto"
    data = _data_of_each(given.get("data"), len(tasks))
    of_all = _only(["size", "class_weights"] + ["bs"] * (not values["fit_batch"]), given)
    each = []
    for task, named, paths in zip(tasks, own, data, strict=True):
        picked = PER_TASK | named | of_all | ({"data": paths} if paths else {})
        picked |= {name: tuple(picked[name]) for name in ("data", "size")}
        each.append(TaskSettings(task, **_only(PER_TASK, picked)))
    values["tasks"] = tuple(each)
    values["network"] = NetworkSettings(**_only(NetworkSettings, values))
    values["optim"] = OptimSettings(**_only(OptimSettings, values))
    return Settings(**_only(Settings, values))


def _asked(
    tasks: list[Task], own: list[dict[str, Any]], names: list[str], labels: list[str]
) -> list[Task]:
    """The tasks with the outputs of --outputs alone, if any, their own defaults without what is of
    others; and with an output for each field of --label."""
    known = [output.name for task in tasks for output in task.outputs]
    for name in set(names) - set(known):
        raise UserError(f"--outputs: no output {name!r}, expected some of {', '.join(known)}")
    if labels and len(tasks) > 1:
        raise UserError("--label: expected a single task")
    for defaults in own if names else ():
        for flag in defaults.keys() & {"losses", "loss_weights"}:  # pairs, or a word for all
            defaults[flag] = [x for x in defaults[flag] if isinstance(x, str) or x[0] in names]
    added = tuple(Label(name, field=name) for name in labels)
    tasks = [task.only(names or known) for task in tasks]
    return [replace(task, outputs=task.outputs + added) for task in tasks]


def _resumed(parser: Parser, given: dict[str, Any]) -> Settings:
    """The settings of a stopped run, with the flags that are given beside --resume."""
    from utils import checkpoint  # it needs torch

    name = given.pop("resume")
    path = Path(name) if name else newest(given.get("task"), checkpoint.LAST)
    path, state = checkpoint.load_last(path)
    if (out := given.pop("out", path.parent)) != path.parent:
        raise UserError(f"--out {out}: a run is resumed in its own folder, {path.parent}")
    if "learner" not in state:
        raise UserError(f"{path}: holds weights alone, --resume expects a last.pt")
    for flag in given.keys() & {"label", "outputs"}:
        raise UserError(f"--{flag}: a resumed run goes on with its own outputs")
    ranks = int(os.environ.get("WORLD_SIZE", 1))  # of torchrun
    with checkpoint.well_formed(path):
        config = state["config"]
        if not (tasks := [Task.from_json(task) for task in config["tasks"]]):  # as they were
            raise UserError("holds no task")
        stored, cwd = dict(config["settings"]), str(config["settings"].get("cwd", ""))
        each_own = [{n: stored[n][i] for n in PER_TASK if n in stored} for i in range(len(tasks))]
        own = [given_again(parser, values) for values in each_own]
        shared = given_again(parser, {n: stored[n] for n in stored.keys() - PER_TASK.keys()})
        begun_on = operator.index(config.get("ranks", 0))
        images = [operator.index(values["bs"]) * (begun_on or ranks) for values in own]
    named, trained = given.get("task", []), [task.name for task in tasks]
    now = [load_task(name) for name in named] or tasks
    if [task.name for task in now] != trained:
        raise UserError(f"--task {'+'.join(named)}: {path} was trained for {'+'.join(trained)}")
    if keys := [key for task, then in zip(now, tasks, strict=True) for key in task.changed(then)]:
        raise UserError(f"--task: {keys[0]} changed since {path} began: omit it, or begin anew")
    for each in own if "data" not in given else ():
        each["data"] = [_found_again(text, cwd) for text in each.get("data", [])]
    for each, num in zip(own, images, strict=True) if not given.keys() & {"bs", "accum"} else ():
        each["bs"], rest = divmod(num, ranks)
        if rest:
            raise UserError(f"{path}: batches of {num} do not divide by {ranks} ranks: say --bs")
    settings = replace(_resolve(parser, tasks, own, shared, given), out=path.parent, resume=path)
    ours, what = settings.to_json(), "a resumed run goes on with its own network, data and weights"
    for name in sorted(given.keys() & OF_A_RUN & ours.keys()):
        if ours[name] != stored.get(name):
            raise UserError(f"--{name.replace('_', '-')}: {what}: {path}")
    return settings


def _found_again(text: str, begun: str) -> str:
    """Data of a run that is resumed, seen from here, else from the folder where it was begun."""
    elsewhere = begun and Path(begun) != Path.cwd()
    if "://" in text or Path(text).exists() or not elsewhere:
        return text
    if not Path(begun, text).exists():
        where = f"not found here, nor in {begun}, where the run was started"
        raise UserError(f"--data {text}: {where}; give --data with --resume")
    return str(Path(begun, text))


def newest(task_names: list[str] | None, file: str) -> Path:
    """The newest checkpoint of that name below runs/, of these tasks if any are named."""
    from utils import checkpoint  # it needs torch

    wanted = [load_task(name).name for name in task_names or []]
    for path, trained in checkpoint.newest(RUNS, file):
        if wanted in ([], trained):
            return path
    raise UserError(f"--resume: no run of {'+'.join(wanted) or 'any task'} below {RUNS}/")


def _data_of_each(paths: list[str] | None, num: int) -> list[list[str]]:
    """--data by task: all of it for a single one, one path each for several."""
    if not paths or num == 1:
        return [paths or []] * num
    if len(paths) != num:
        raise UserError(f"--data: {len(paths)} paths for {num} tasks, expected one each")
    return [[path] for path in paths]


def _weights(values: Any) -> dict[str, float] | str:
    """--loss-weights as a run uses them: by output, or one of LOSS_WEIGHTS."""
    if isinstance(values, str | dict):  # of a run that is resumed
        return values
    words = [value for value in values if isinstance(value, str)]
    if words and len(values) > 1:
        raise UserError(f"--loss-weights: expected `{words[0]}` alone, or OUTPUT=W")
    return words[0] if words else dict(values)


def _check(settings: Settings) -> None:
    """Refuse settings that contradict each other or the tasks."""
    names = [output.name for output in settings.outputs]
    if len(set(names)) != len(names):
        raise UserError(f"--task: two of these tasks share an output name: {', '.join(names)}")
    if settings.pretrained and settings.network.encoder == "unet":
        raise UserError("--pretrained: only timm encoders have such weights, see --encoder")
    if len(settings.network.convs) != 3:
        raise UserError(f"--convs: {len(settings.network.convs)} numbers, expected 1 or 3")
    if settings.split_by and len(settings.tasks) > 1:
        raise UserError("--split-by: expected a single task")
    weights = settings.loss_weights
    for flag, named in (("losses", settings.losses), ("loss-weights", weights)):
        for name in named if isinstance(named, dict) else ():
            if name not in names:
                raise UserError(f"--{flag}: no output {name!r}, expected one of {', '.join(names)}")
    out = settings.out
    if out and out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: a file, expected a folder")
    if out and not settings.resume and (out / "last.pt").exists():
        raise UserError(f"--out {out}: holds a run; continue it with --resume {out}/last.pt")


def _only(names: Iterable[str] | type, values: Mapping[str, Any]) -> dict[str, Any]:
    wanted = [f.name for f in fields(names)] if isinstance(names, type) else names
    return {name: values[name] for name in wanted if name in values}
