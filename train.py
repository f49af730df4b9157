"""Train one encoder with the heads of one or more tasks: flags in, runs/TASK/ out."""

import gc
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from utils.flags import answer_help, num_bytes
from utils.memory.heap import start_with_tunables
from utils.settings import Settings, parse
from utils.stop import Stopped, StopSignals, end_on_signals

if __name__ == "__main__":
    end_on_signals()
    answer_help(sys.argv[1:])  # what follows imports torch, which takes seconds
    start_with_tunables()

from datasets.class_weights import class_weights
from datasets.dataset import TaskData, open_task, overfit
from datasets.demo import demo_shards
from datasets.loader import WorkerDied, train_batches
from datasets.look import first_epoch, look
from datasets.stores import parse_path
from datasets.task import Batch
from models.recompute import recompute
from utils import engine
from utils.agreement import agreement, looks_at
from utils.build import build_state, make_criterion, model_spec
from utils.command import printable, run_command
from utils.compute import busy_notice, make_compute
from utils.distributed import Distributed
from utils.engine import TrainState
from utils.memory.choose_blocks import fit_blocks
from utils.memory.plan import Weights, fit_to_memory, make_plan
from utils.run.folder import RunFolder, check_best
from utils.run.progress import count_steps
from utils.skipped import Skipped
from utils.terminal import announcement
from utils.validation import validate

DATA = Path("data")  # demo pictures and class counts
LOG_STEPS = 10
PACE_STEPS = 20  # from which a machine's pace is known


def main() -> int:
    """Train; 0 when done, 2 with one line for a mistake, 130 when stopped by a signal, 75 when
    that was SIGUSR1."""
    return run_command(lambda: train(parse(sys.argv[1:])))


def train(settings: Settings) -> int:
    """Train from the start, or from where a checkpoint stands, to the last step."""
    for each in settings.tasks:
        check_best(each.task)
    make_criterion(settings, {})  # refuses terms that there are none of, before data is opened
    compute = make_compute(settings.device, settings.amp)
    compute.keep_freed(first_step=True)
    distributed = Distributed(compute.device)
    if num_bytes(settings.ckpt):
        settings, summary = fit_blocks(settings, compute.device, build_state, recompute)
        distributed.say(summary)
    if settings.plan:
        distributed.say(make_plan(settings, compute.device, build_state, recompute).text())
        return 0
    distributed.say(busy_notice(compute.device))
    if settings.vram or settings.fit_batch:
        settings, summary = fit_to_memory(settings, compute.device, build_state, recompute)
        distributed.say(summary)
    engine.seed_everything(settings.seed, settings.deterministic)
    data = open_data(settings)
    settings = settings.with_tasks([each.task for each in data])  # they know all classes now
    for line in [line for each in data for line in look(each)] if distributed.is_main else []:
        print(f"worth a look: {printable(line)}", file=sys.stderr)
    steps = count_steps(settings, [len(each.train) for each in data], distributed.world_size)

    with RunFolder(settings, model_spec(settings).to_json(), distributed) as run:
        weights = count_classes(settings, data, run.skipped)
        state = build_state(settings, weights, steps.total, compute, distributed)
        step = run.restore(state, data)
        samples = [(len(each.train), len(each.val)) for each in data]
        plan = partial(make_plan, settings, compute.device, build_state, recompute)
        run.begin(step, steps, announcement(settings, samples, state, steps, run.path), plan)
        try:
            step = fit(data, state, step, run)
        except WorkerDied as error:
            raise run.rescue(error, state) from None
        distributed.close()
        return run.conclude(step)


def fit(data: list[TaskData], state: TrainState, step: int, run: RunFolder) -> int:
    """Take steps until the last one is done or a signal asks for the end; the number of steps."""
    settings, begun = run.settings, step
    batches = feed(data, state, step, run)
    with StopSignals() as stop:
        try:
            if run.due:
                judge(data, state, step, run, stop)
            while step < run.steps.total:
                batch, micro_batches = next(batches), state.micro_batches
                if step == begun + 1:
                    state.compute.keep_freed()
                terms = engine.train_step(state, batch, settings.accum)
                step += 1
                if step % run.steps.epoch == 0:
                    state.criterion.end_epoch()
                if looks_at(settings, run.steps, step):
                    terms |= agreement(state, batch)
                run.add(terms, batch)
                if state.micro_batches > micro_batches:
                    run.say(split_notice(settings, state))
                if settings.minutes and step == begun + PACE_STEPS:
                    run.fit_to_minutes(step, state)
                evaluates = step % run.steps.eval == 0 or step == run.steps.total
                logs = evaluates or step % LOG_STEPS == 0  # nowhere else do ranks wait
                stops = (logs or state.distributed.world_size == 1) and state.distributed.stops(
                    stop.requested
                )
                if logs or stops:
                    run.log(step, state.schedule.lr)
                saves = evaluates or stops or (logs and run.is_late())
                if saves:
                    run.check_finite(step, state)
                if evaluates:
                    judge(data, state, step, run, stop)
                elif saves:
                    run.save(step, state)
                if stops:
                    break
        except Stopped:
            run.save(step, state)
        run.status = stop.status
    return step


def feed(
    data: list[TaskData], state: TrainState, step: int, run: RunFolder
) -> Iterator[list[Batch]]:
    """The batches of each step from `step` on, without end; those of the first epoch are looked
    at."""
    settings = run.settings
    batches = run.meter.timed(
        train_batches(
            data,
            [each.bs for each in settings.tasks],
            settings.accum,
            step,
            workers=settings.workers,
            part=state.distributed.part,
            shuffle=settings.shuffle,
            on_bad=run.skipped.add,
            pin=state.compute.device.type == "cuda",
        )
    )
    if step or settings.overfit:
        return batches
    return first_epoch(batches, run.steps.epoch, settings.outputs, state.distributed.union, run.say)


def judge(
    data: list[TaskData], state: TrainState, step: int, run: RunFolder, stop: StopSignals
) -> None:
    """Evaluate and save. Until it is done it is due: a signal, or a worker's death, may end it."""
    run.due = True
    validation = validate(run.settings, data, state, run.skipped, stop)
    run.due = False
    state.schedule.evaluated(validation.score)
    run.evaluated(step, validation, state)
    run.save(step, state)


def open_data(settings: Settings) -> list[TaskData]:
    """Every task's training and validation samples; a demo where no data is named."""
    opened = []
    for each in settings.tasks:
        paths = [parse_path(text) for text in each.data] or demo_shards(each.task, DATA / "demo")
        data = open_task(
            each.task, paths, each.size, settings.split_by, settings.seed, settings.skip_bad
        )
        opened.append(overfit(data, settings.overfit * each.bs) if settings.overfit else data)
    return opened


def count_classes(settings: Settings, data: list[TaskData], skipped: Skipped) -> Weights:
    """The class weights of outputs whose task wants them, counted on its training split."""
    weights: Weights = {}
    for each, opened in zip(settings.tasks, data, strict=True):
        if each.class_weights:
            weights |= class_weights(opened.train, DATA / "cache", skipped.add)
    return weights


def split_notice(settings: Settings, state: TrainState) -> str:
    """Memory ran out in a step, which was then done in parts: what was planned, and what now."""
    plan = make_plan(settings, state.compute.device, build_state, recompute)
    return (
        f"out of memory; {plan.summary()}. From here on a batch goes through the network in "
        f"{state.micro_batches} parts: same effective batch and gradient, slower; "
        "batch norm sees a part"
    )


if __name__ == "__main__":
    status = main()
    gc.freeze()  # a last look for garbage in all of torch takes half a second
    sys.exit(status)
