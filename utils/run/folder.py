"""A run's folder: its record, its checkpoints, what is said meanwhile, and its conclusion."""

import math
import operator
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from datasets.contents import Contents, contents, difference
from datasets.dataset import TaskData
from datasets.task import Batch, Task, UserError
from utils import checkpoint, terminal
from utils.command import printable
from utils.distributed import Distributed
from utils.engine import TrainState
from utils.files import check_folder, lock_folder, new_folder, unlock_folder
from utils.memory.plan import MemoryPlan
from utils.metrics import picking_scores
from utils.run.charts import draw_confusion, draw_curves
from utils.run.logger import NullLogger, RunLogger
from utils.run.origin import origin
from utils.run.progress import Meter, Progress, Steps
from utils.run.record import flat_terms
from utils.run.report import RunReport, read_best
from utils.settings import RUNS, Settings
from utils.skipped import Skipped
from utils.stop import STOPPED
from utils.validation import Validation

IN_A_ROW = 5  # steps that are left out before the run ends
PICTURES = 50  # evaluations whose pictures are kept, spread over the run, and the last one
SAVE_SECONDS = 300  # a crash costs at most so much training


class RunFolder:
    """All that a run writes. Each rank has one, and only the main one writes, while no other
    process does: UserError names one.

    Made anew below runs/ where the settings name no folder; a mistake that ends the run before it
    has written anything takes a folder that it made away again. model: the network as plain values.
    """

    def __init__(self, settings: Settings, model: dict[str, Any], distributed: Distributed) -> None:
        self.settings, self.distributed = settings, distributed
        self.tasks = [each.task for each in settings.tasks]
        named = RUNS / "+".join(task.name for task in self.tasks)
        self.made = settings.out is None or not settings.out.exists()
        self.path = settings.out or Path(distributed.main_says(lambda: str(new_folder(named))))
        check_folder(self.path)
        self.config = {
            "tasks": [task.to_json() for task in self.tasks],
            "sizes": [list(each.size) for each in settings.tasks],
            "model": model,
            "settings": settings.to_json(),
            "ranks": distributed.world_size,
            "origin": origin(distributed.device),
        }
        self.report = RunReport(self.path, self.config, distributed.device)
        self.lock = lock_folder(self.path) if distributed.is_main else None
        self.steps = Steps(0, 0, 0)  # known when it begins
        self.progress = Progress(0, 0, distributed.is_main)
        resumed = settings.resume is not None
        self.skipped = Skipped(settings.skip_bad, distributed, self.say, self.path, resumed)
        self.logger: RunLogger | NullLogger = NullLogger()
        self.meter = Meter(distributed.device)
        self.status = STOPPED  # what the process ends with where it was stopped
        self.best = -1.0
        self.due = False  # whether the last step's evaluation was begun, and not ended
        self.run_id: str | None = None
        self.data: dict[str, Contents] = {}  # of each split, see `restore`
        self.line: dict[str, float] = {}  # what was logged last
        self.taken: list[tuple[dict[str, Tensor], list[str]]] = []  # steps since, and their images
        self.in_a_row = 0  # steps left out up to now
        self.saved = time.monotonic()
        self.lost = ""  # what is to be said of pictures
        self.doubts: dict[str, str] = {}  # of the last evaluation

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.progress.close()
        if self.lock is not None:
            unlock_folder(self.path, self.lock)
        if self.made:
            with suppress(OSError):
                self.path.rmdir()  # empty where a mistake was found before there was a run
        if isinstance(error, OSError) and checkpoint.is_full(error):  # it names no file
            raise UserError(f"{self.path}: {error.strerror}; {self._good()}") from None
        if self.distributed.is_broken(error):
            raise UserError(f"{self.path}: another rank has ended; {self._good()}") from None

    def say(self, text: str) -> None:
        """A line for whoever watches, once for all ranks."""
        self.progress.write(text)

    def restore(self, state: TrainState, data: Sequence[TaskData]) -> int:
        """Bring the state to where the checkpoint to resume stands; the step, 0 without one.

        UserError: it was trained on other data, or is of another network.
        """
        path = self.settings.resume
        splits = {f"{d.task.name} {n}": getattr(d, n) for d in data for n in ("train", "val")}
        self.data = {name: contents(split) for name, split in splits.items()}
        if path is None:
            return 0
        saved = checkpoint.load(path, "step", "best", "run_id", "learner")
        then = saved.get("data", self.data)  # there is none in what an earlier version wrote
        with checkpoint.well_formed(path):
            changed = {n: difference(then[n], self.data[n], split) for n, split in splits.items()}
        if said := "; ".join(f"{name}: {what}" for name, what in changed.items() if what):
            raise UserError(
                f"{path}: its run began with other data, these samples changed: {said}; it goes on "
                "with what it began with, wherever --data says that this lies now"
            )
        with checkpoint.well_formed(path):
            state.load_state_dict(saved["learner"])
            self.best, self.run_id = float(saved["best"]), str(saved["run_id"])
            self.config["origin"] = saved["config"].get("origin", self.config["origin"])
            self.line = dict(saved.get("due") or {})
            self.due = bool(self.line)
            return operator.index(saved["step"])

    def begin(
        self, step: int, steps: Steps, about: str, plan: Callable[[], MemoryPlan] | None = None
    ) -> None:
        """Open the record, and go on in it after `step`. about: what is said. plan: of a step."""
        sizes = {name: len(next(iter(marks.values()), ())) for name, marks in self.data.items()}
        self.report.begin(plan, sizes)
        self.steps, resumed = steps, self.settings.resume
        if self.distributed.is_main:
            if resumed is not None and resumed.name == checkpoint.PREVIOUS:
                resumed.replace(self.path / checkpoint.LAST)  # else the next save would lose it
            wandb, name = self.settings.wandb, self.settings.name
            self.logger = RunLogger(self.path, self.config, wandb, name, self.run_id)
            self.run_id = self.logger.run_id
        self.logger.truncate(step)
        self.say("\n".join(filter(None, [about, self.logger.link])))
        self.progress = Progress(step, steps.total, self.distributed.is_main)
        self.meter.restart()
        self.saved = time.monotonic()

    def add(self, terms: dict[str, Tensor], batches: Sequence[Batch]) -> None:
        """A step is done: its loss terms, and what it saw."""
        images = sum(batch.batch_size for batch in batches)
        self.taken.append((terms, [key for batch in batches for key in batch.keys]))
        losses = {name: term for name, term in terms.items() if name != "not_finite"}
        self.meter.add(losses, images * self.distributed.world_size)
        self.progress.advance()

    def log(self, step: int, lr: float) -> None:
        """Write the means since the last time; all ranks are here at the same step.

        Waits for the device. UserError where too many steps in a row were left out.
        """
        self.skipped.settle()
        self._tell_left_out(step)
        self.line = self.distributed.mean(self.meter.flush()) | {"lr": lr} | self.skipped.count
        self.logger.log(step, {f"train/{name}": value for name, value in self.line.items()})
        self.logger.skipped(step, self.skipped.listed)
        self.progress.note(terminal.postfix(self.line))

    def _tell_left_out(self, step: int) -> None:
        """Write down the steps since the last time whose loss or gradient was not finite, and the
        images of the ranks where it was the loss. The last one taken was `step`."""
        flags = torch.stack([terms["not_finite"] for terms, _ in self.taken]).tolist()
        for number, (flag, (terms, keys)) in enumerate(
            zip(flags, self.taken, strict=True), step - len(flags) + 1
        ):
            self.in_a_row = self.in_a_row + 1 if flag else 0
            if flag:
                whose = self.distributed.union([] if math.isfinite(terms["loss"]) else keys)
                whose = whose or self.distributed.union(keys)
                self.logger.left_out(number, whose)
                shown = ", ".join([*whose[:4], *["..."][: len(whose) - 4]])
                what = "the loss, or its gradient, is infinite or not a number: left out"
                self.say(printable(f"step {number}: {what}, with {shown}"))
        self.taken.clear()
        if self.in_a_row >= IN_A_ROW:
            raise self._diverged(step, f"the loss, or its gradient, of {self.in_a_row} steps")

    def evaluated(self, step: int, validation: Validation, state: TrainState) -> None:
        """Write what validation found, right after `log`; the weights too where they are better."""
        self.logger.log(step, {f"val/{name}": value for name, value in validation.scores.items()})
        if not math.isfinite(validation.scores["loss"]):
            raise self._diverged(step, "the loss on validation images")
        steps = self.steps
        every = math.ceil(steps.total / steps.eval / PICTURES)
        if draws := step == steps.total or step // steps.eval % every == 0:
            self._draw(self.logger.images, step, validation.pictures())
        self.logger.skipped(step, self.skipped.listed)
        where = f"step {step} (epoch {step / steps.epoch:.1f})"
        picking = [task.best for task in self.tasks]
        self.say(terminal.evaluation(where, self.line, validation.scores, picking))
        # nan, where nothing is labelled, is never better; but some best.pt there must be
        if validation.score > self.best or self.best < 0:
            self.best = max(self.best, validation.score)
            self.report.best = {n: m for r in validation.results for n, m in r.metrics.items()}
            found = {"step": step, "model": state.averaged.state_dict()}
            self._write(checkpoint.BEST, validation.facts | found)
        if self.distributed.is_main:
            flat = flat_terms(self.path / "metrics.jsonl", [o.name for o in self.settings.outputs])
            validation = validation._replace(doubts=validation.doubts | flat)
            for what, doubt in validation.doubts.items():
                if what not in self.doubts:
                    self.say(f"worth a look: {doubt}")
            self.doubts = validation.doubts
            progress = f"{step} of {steps.total} in {self.logger.seconds / 60:.1f} minutes"
            self._draw(self.report.write, step, progress, self.line["memory_gib"], validation)
        if draws:
            self.logger.judged(step, validation.results, self.report.planned)
        self.meter.restart()

    def fit_to_minutes(self, step: int, state: TrainState) -> None:
        """Fewer steps where all of them, at the pace so far, would take longer than --minutes.

        Asked once in a run: its checkpoints hold what was decided, and a resumed one keeps to it.
        """
        steps, minutes = self.steps, self.settings.minutes or math.inf
        pace = self.progress.seconds_per_step()
        most = max(step + 1.0, 60 * minutes / pace)
        total = int(self.distributed.main_says(lambda: str(int(min(steps.total, most)))))
        if total < steps.total:
            what = f"{pace:.2g} s a step: {total} steps instead of {steps.total}"
            end = f"to end in {minutes:g} minutes; --epochs or --steps takes all of them"
            self.say(f"{what}, {end}")
        self.settings = replace(self.settings, steps=total, minutes=None)
        self.config["settings"] = self.settings.to_json()
        self.progress.shorten(total)
        state.schedule.total = total
        self.steps = steps._replace(total=total, eval=min(steps.eval, total))

    def is_late(self) -> bool:
        """Whether the last checkpoint is so old, on any rank's clock, that a crash would cost too
        much."""
        return self.distributed.any(time.monotonic() - self.saved > SAVE_SECONDS)

    def check_finite(self, step: int, state: TrainState) -> None:
        """UserError where any rank's state, which is about to be saved, holds what is no number."""
        broken = checkpoint.not_finite(state.state_dict())
        if self.distributed.any(broken is not None):
            raise self._diverged(step, broken or "the state of another rank")

    def _diverged(self, step: int, what: str) -> UserError:
        """What to do about a loss or a state that is not a number, and from where to go on."""
        lr, clip = self.settings.optim.lr, "" if self.settings.optim.clip else ", or --clip 1"
        what = f"step {step}: {what} is infinite or not a number, and not saved"
        return UserError(f"{what}: try a smaller --lr than {lr:g}{clip}; {self._good()}")

    def _good(self) -> str:
        last = self.path / checkpoint.LAST
        return f"the last good checkpoint is {last}" if last.exists() else "none came before"

    def save(self, step: int, state: TrainState) -> None:
        """Write last.pt, from which a run is resumed; not while steps are left out, for they may be
        the first of a run that has diverged."""
        if self.in_a_row and (self.path / checkpoint.LAST).exists():
            return
        # the name that the state has had in last.pt from the first format on
        facts = {"step": step, "best": self.best, "learner": state.state_dict()}
        due = self.line if self.due else None  # what was logged right before the evaluation
        self._write(checkpoint.LAST, facts | {"data": self.data, "due": due})
        self.saved = time.monotonic()
        self._tell_lost()

    def rescue(self, error: UserError, state: TrainState) -> UserError:
        """A process that loads data died, between two steps: save the last whole one. The error,
        and where to go on from."""
        step = state.schedule.step
        if broken := checkpoint.not_finite(state.state_dict()):
            return UserError(f"{error}. {self._diverged(step, broken)}")
        self.save(step, state)
        saved = f"step {step}" if self.distributed.is_main else "what the main rank saved last"
        where = f"{saved} is in {self.path / 'last.pt'}"
        return UserError(f"{error}. Fewer --workers need less memory; {where}")

    def _write(self, name: str, facts: dict[str, Any]) -> None:
        about = {"config": self.config, "run_id": self.run_id}
        try:
            if self.distributed.is_main:
                checkpoint.save(self.path / name, facts | about)
        except UserError as error:
            raise UserError(f"{error}; {self._good()}") from None

    def conclude(self, step: int) -> int:
        """Close the record; draw, and say what was reached and what can be done next.

        The exit status: that of the signal where the run was stopped before its last step.
        """
        self.progress.close()
        self.logger.finish({"best": self.best, "step": step} | self.skipped.count)
        last = shlex.quote(f"{self.path}/last.pt")
        if self.due or step < self.progress.total:
            self.say(f"stopped after step {step}; go on with: python train.py --resume {last}")
            return self.status
        if self.distributed.is_main:
            self._conclude()
        return 0

    def _conclude(self) -> None:
        outputs = self.settings.outputs
        self._draw(draw_curves, self.path / "metrics.jsonl", self.path / "curves.png", outputs)
        metrics, best = read_best(self.path, outputs)
        for output in outputs:
            metric = metrics[output.name]
            if metric.confusion is not None:
                chart = self.path / f"confusion_{output.name}.png"
                self._draw(draw_confusion, metric.confusion, output.labels, chart, metric.UNIT)
            table = metric.table(output.name)
            if table is not None:
                self.say(table)
        self._tell_lost()
        for task in self.tasks:
            self.say(terminal.best(task.best, best["scores"], best["step"]))
        files = "best weights in {0}/best.pt, report in {0}/report.html, pictures in {0}/samples"
        self.say(files.format(self.path))
        self.say(f"see its predictions: {terminal.next_command(self.settings, self.path)}")

    def _draw(self, draw: Callable[..., None], *what: Any) -> None:
        """Draw a picture; where it cannot be kept, the run goes on without it."""
        try:
            draw(*what)
        except OSError as error:
            self.lost = f"warning: {self.path}: {error.strerror}: went on without a picture"

    def _tell_lost(self) -> None:
        """A line for pictures that were lost, unless what followed has ended the run with one."""
        if self.lost:
            print(printable(self.lost), file=sys.stderr)
        self.lost = ""


def check_best(task: Task) -> None:
    """Refuse a task whose best checkpoint nothing would pick."""
    name, _, metric = task.best.partition("/")
    output = next(output for output in task.outputs if output.name == name)
    known = picking_scores(output)
    if metric not in known:
        raise UserError(
            f"task {task.name}: best is {task.best!r}, expected {name}/ and one of "
            f"{', '.join(known)}"
        )
