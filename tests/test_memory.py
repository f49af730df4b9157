"""The plan promises what a real step then takes, and a step that finds less memory goes on."""

import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import QUIET, SMALL, needs_gpu
from learners import make_case

from datasets import TASKS
from datasets.task import UserError
from models.recompute import MODES, recompute
from train import build_state
from utils import engine
from utils.checkpoint import rng_state
from utils.compute import Compute
from utils.distributed import Distributed
from utils.flags import CKPT_MODES
from utils.memory import plan as memory
from utils.memory.allocators import Heap, play
from utils.memory.footprint import BLOCK, BORROWED, READY, Footprint
from utils.memory.plan import GIB
from utils.memory.trace import FakeStep, Mode, Tracker, stages, trace
from utils.settings import Settings, parse

pytestmark = pytest.mark.usefixtures("small_is_worth_it")
CPU = torch.device("cpu")
ALONE = Distributed(CPU, alone=True)
EACH = memory.all_modes(half=True)
NAMES = [mode.flags or "neither" for mode in EACH]


class Bench:
    """A tiny network of some flags: as it is planned, and as it is."""

    def __init__(self, *words: str) -> None:
        self.settings = parse([*SMALL, *words])
        self.fake_step = FakeStep(self.build, self.batches, recompute, self.settings.accum)

    def build(self, compute: Compute, distributed: Distributed) -> engine.TrainState:
        outputs = [output for output in self.settings.outputs if output.balanced]
        weights = {output.name: (1.0,) * output.channels for output in outputs}
        return build_state(self.settings, weights, 9, compute, distributed)

    def batches(self, images: tuple[int, ...]) -> list:
        each = zip(self.settings.tasks, images, strict=True)
        return [own.task.empty_batch(num, own.size) for own, num in each]

    def real(self, mode: Mode, images: tuple[int, ...]):
        """The footprint of a second step of real tensors."""
        state = self.build(Compute(CPU, torch.bfloat16 if mode.amp else None), ALONE)
        recompute(state.model, mode.ckpt)
        batches = self.batches(images) * self.settings.accum
        engine.train_step(state, batches, self.settings.accum)
        return trace(state, batches, self.settings.accum)

    def grown(self, plan: memory.MemoryPlan, mode: Mode, images: tuple[int, ...]) -> int:
        """Bytes that a process grows by, of a trace of just so many images."""
        return self.fake_step.trace(mode, images).grown(plan.spread(mode))

    def with_budget(self, vram: float | None) -> Settings:
        """The settings with a budget of so many GiB."""
        return replace(self.settings, vram=vram)

    def plan(self, vram: float | None = None) -> memory.MemoryPlan:
        """The plan that train.py makes, with a budget of so many GiB."""
        return memory.make_plan(self.with_budget(vram), CPU, build_state, recompute)


def within(planned: float, real: float, share: float) -> bool:
    return abs(planned / real - 1) <= share


@pytest.mark.parametrize("task", TASKS)
def test_plan_equals_the_tracked_peak_of_a_real_step(task):
    bench = Bench("--task", task, "--size", "37", "50")
    for mode in EACH if task in ("damage", "maskdepth") else (EACH[0], EACH[-1]):
        planned, real = bench.fake_step.trace(mode, (3,)), bench.real(mode, (3,))
        assert planned.parts.keys() == real.parts.keys()
        assert within(planned.peak, real.peak, 0 if not mode.amp else 1e-3)


@pytest.mark.parametrize(
    "flags",
    [
        "--task damage maskdepth",
        "--task damage --optimizer sgd --ema 0.9 --clip 1 --loss-weights uncertainty",
        "--task damage maskdepth --aux 0.4 --optimizer muon",
        "--task maskdepth --norm group --dropout 0.2 --accum 3",
        pytest.param(
            "--task damage --encoder resnet10t",
            marks=pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed"),
        ),
    ],
)
def test_plan_equals_the_tracked_peak_with_other_flags(flags):
    bench = Bench(*flags.split())
    images = (2, 3)[: len(bench.settings.tasks)]
    for mode in (Mode(False, "none"), Mode(True, "full")):
        planned, real = bench.fake_step.trace(mode, images), bench.real(mode, images)
        assert within(planned.peak, real.peak, 1e-3 if not mode.amp else 0.01)


@pytest.mark.parametrize(
    "flags",
    [
        "--task damage --width 10 --size 256 256",
        "--task cityscapes --norm group --size 50 118",
        "--task maskdepth --accum 2 --ema 0.9 --ckpt selective --amp",
        "--task damage maskdepth --loss-weights uncertainty",
    ],
)
def test_one_footprint_scales_to_every_batch(flags):
    bench = Bench(*flags.split())
    plan = bench.plan()
    assert plan.traced != plan.images
    for mode in (plan.mode, EACH[-1]):
        for images in (plan.least, plan.least + 7, 3 * plan.least):
            both = (images, images + 5)[: len(bench.settings.tasks)]
            scaled, traced = plan.footprint(mode, both), bench.fake_step.trace(mode, both)
            assert within(scaled.peak, traced.peak, 1e-3)
            assert scaled.parts.keys() == traced.parts.keys()


def test_no_batch_is_too_small_to_be_planned():
    bench = Bench("--task", "damage")
    plan = bench.plan()
    assert plan.least > 2
    for images in (1, 2, plan.least - 1):
        exact = bench.fake_step.trace(EACH[0], (images,))
        assert plan.footprint(EACH[0], (images,)).peak == exact.peak


def test_the_largest_batch_is_the_largest():
    bench = Bench("--task", "damage", "--size", "128", "96")
    for gib in (0.12, 0.3):
        plan = bench.plan(gib)
        for mode in (EACH[0], EACH[-1]):
            most = plan.largest(mode)
            assert most > 1
            taken = [bench.grown(plan, mode, (images,)) for images in (most, most + 1)]
            assert taken[0] <= plan.budget < taken[1]


def test_parts_add_up_and_say_what_they_hold():
    bench = Bench("--task", "damage", "--optimizer", "sgd")
    footprint = bench.fake_step.trace(Mode(False, "none"), (8,))
    model = bench.build(Compute(CPU), ALONE).model
    tensors = [*model.parameters(), *model.buffers()]
    weights = sum(-(-t.untyped_storage().nbytes() // BLOCK) * BLOCK for t in tensors)
    assert sum(footprint.parts.values()) == footprint.peak == footprint.held.max()
    assert weights <= footprint.parts["weights"] <= weights + 8 * BLOCK  # and the criterion's few
    assert {"weights", "optimiser", "batch", "encoder.0"} < set(footprint.parts)
    names = [name for name, _ in stages(model)]
    assert names[:2] == ["encoder.0", "encoder.1"]
    assert names[-1] == "heads.damage"
    others = {"weights", "averaged weights", "optimiser", "batch", "gradients", "loss"}
    assert {part.removeprefix("backward of ") for part in footprint.parts} <= {*names, *others}


def test_tracker_counts_what_is_alive():
    with Tracker() as tracker:
        first = torch.zeros(1000)  # 4000 bytes in 8 blocks
        view = first[10:]
        tracker.label = "second"
        second = first + 1
        del first
        third = second * 2
        del view, second
        fourth = third + 1
    assert fourth.shape == third.shape
    found = tracker.footprint()
    assert found.peak == 3 * 8 * BLOCK
    assert found.held.tolist() == [8 * BLOCK * n for n in (1, 2, 3, 2, 1, 2)]
    assert found.parts == {"batch": 8 * BLOCK, "second": 2 * 8 * BLOCK}


MIB = 2**20
approx = partial(pytest.approx, rel=1e-3)


@pytest.mark.parametrize(
    ("sizes", "events", "mib"),
    [
        ([100, 200], "+0 +1", 2),  # small ones share a segment
        ([MIB, MIB, MIB], "+0 +1 +2", 4),
        ([MIB + 1], "+0", 20),
        ([11 * MIB + 1], "+0", 12),
        ([9 * MIB, 9 * MIB, 9 * MIB], "+0 +1 +2", 40),
        ([30 * MIB, 20 * MIB], "+0 -0 +1", 30),  # what is freed is taken again
        ([30 * MIB, 20 * MIB, 11 * MIB], "+0 -0 +1 +2", 42),  # but 10 are left
        ([30 * MIB, 20 * MIB, 9 * MIB], "+0 -0 +1 +2", 30),
        ([20 * MIB, 20 * MIB, 40 * MIB], "+0 +1 -0 -1 +2", 80),  # two segments are not one
    ],
)
def test_reserved_as_torch_does_on_cuda(sizes, events, mib):
    changes = [(int(word[1:]), 1 if word[0] == "+" else -1) for word in events.split()]
    assert Footprint(sizes, ["x"] * len(sizes), changes).reserved == mib * MIB


def test_a_heap_has_gaps():
    """A place between others takes what is smaller; one for what is larger is made at the top."""
    sizes = [10 * MIB, MIB, 9 * MIB, 10 * MIB + 200]
    assert play(Heap(), sizes, [(0, 1), (1, 1), (0, -1), (2, 1)]) == approx(11 * MIB)
    assert play(Heap(), sizes, [(0, 1), (1, 1), (0, -1), (3, 1)]) == approx(21 * MIB)
    assert play(Heap(), sizes, [(0, 1), (0, -1), (3, 1)]) == approx(10 * MIB)  # the top sinks


def test_a_process_grows_by_its_tensors_gaps_and_what_kernels_borrow():
    footprint = Footprint(
        [8 * MIB, 6 * MIB, 3 * MIB, 2 * MIB],
        ["weights", "a", BORROWED, "a"],
        [(0, 1), (1, 1), (2, 1), (2, -1), (3, 1), (1, -1), (3, -1)],
        present=1,
    )
    assert footprint.peak == 16 * MIB
    assert footprint.lasting == 8 * MIB
    assert footprint.spread == pytest.approx(9 / 8, abs=1e-3)  # 6 and 3 of the one borrowed
    assert footprint.grown(1.5) == READY + 8 * MIB + 12 * MIB
    assert footprint.reserved == 20 * MIB  # kernels of CUDA borrow elsewhere


def test_recomputation_and_half_precision_save_memory():
    bench = Bench("--task", "maskdepth", "--size", "64", "64")
    plain, selective, full = (bench.fake_step.trace(Mode(False, m), (8,)).peak for m in MODES)
    assert full < selective < plain
    assert bench.fake_step.trace(Mode(True, "none"), (8,)).peak < 0.7 * plain


def test_auto_takes_the_largest_batch_that_fits():
    for flags in (("--task", "damage"), ("--task", "damage", "maskdepth")):
        bench = Bench(*flags, "--bs", "auto", "--size", "64", "64")
        plan = bench.plan(vram=0.1)
        (images,) = set(plan.images)
        each = [(num,) * len(bench.settings.tasks) for num in (images, images + 1)]
        taken = [bench.grown(plan, plan.mode, images) for images in each]
        assert images > 1
        assert taken[0] <= plan.budget < taken[1]


@needs_gpu
@pytest.mark.parametrize("ckpt", [(), ("--ckpt",)], ids=" ".join)
@pytest.mark.parametrize("amp", [(), ("--amp",)], ids=" ".join)
def test_a_gpu_allocates_what_is_planned(amp, ckpt):
    """And what its libraries need beside the tensors: 64 to 140 MiB on an H200."""
    words = ("--width", "16", "--size", "256", "256", "--bs", "8")
    facts = make_case("maskdepth", *words, *amp, *ckpt).memory()
    assert facts["plan_bytes"] == pytest.approx(facts["tracked_bytes"], rel=0.02)
    assert 0 <= facts["allocated_bytes"] - facts["tracked_bytes"] < 200 * 2**20


def test_planning_draws_no_random_numbers():
    before = rng_state()
    Bench("--task", "damage", "--dropout", "0.5").plan(vram=1).summary()
    after = rng_state()
    assert torch.equal(before["torch"], after["torch"])
    assert before["python"] == after["python"]


def fit(bench: Bench, vram: float) -> str:
    """What train.py says of a batch that does not fit into so many GiB."""
    with pytest.raises(UserError) as error:
        memory.fit_to_memory(bench.with_budget(vram), CPU, build_state, recompute)
    return str(error.value)


@pytest.fixture
def native(monkeypatch):
    """A CPU that computes in half precision."""
    monkeypatch.setattr("utils.memory.plan.amp_dtype", lambda device: torch.bfloat16)


def test_misfit_names_a_smaller_batch_and_flags_that_fit(native):
    bench = Bench("--task", "damage", "--size", "96", "96", "--bs", "16")
    text = fit(bench, 0.999 * bench.plan().taken(Mode(False, "none")) / GIB)
    assert "a batch of 16 needs" in text
    assert "--bs 15 or --amp would fit" in text


def test_misfit_of_a_single_image_names_a_size_that_fits(native):
    words = ("--task", "damage", "--size", "256", "256", "--width", "8", "--bs", "auto")
    bench = Bench(*words)
    one = Bench(*words, "--bs", "1")
    vram = 0.95 * one.plan().taken(Mode(True, "full")) / GIB
    text = fit(bench, vram)
    assert "a batch of 1 needs" in text
    assert "\n" not in text
    (way,) = text.split("; ")[-1].removesuffix(" would fit").split(" or ")
    assert way == "--size 192 192 --amp --ckpt full"
    assert Bench(*words, *way.split()).plan(vram=vram).fits


def test_misfit_of_anything_says_so(monkeypatch):
    monkeypatch.setattr(memory, "SMALLER", (1 / 2,))
    text = fit(Bench("--task", "damage", "--bs", "auto"), 1e-6)
    assert text.endswith("nothing that was tried would fit")


def test_a_run_goes_on_when_memory_runs_out(run_train, tiny_json, monkeypatch):
    path, folder = tiny_json
    real, failures = engine._predict, [torch.OutOfMemoryError("out"), RuntimeError("x")]

    def failing(state, image, outputs):
        if failures[1:] and len(image) > 1 and state.schedule.step == 2:
            raise failures.pop(0)
        return real(state, image, outputs)

    monkeypatch.setattr(engine, "_predict", failing)
    ran = run_train("--task", path, "--data", folder, "--steps", 4, "--workers", 0)
    assert ran.status == 0
    assert "out of memory; memory plan: " in ran.out + ran.err
    assert "in 2 parts: same effective batch" in ran.out + ran.err


def test_other_errors_and_hopeless_steps_end_the_run(monkeypatch):
    bench = Bench("--task", "damage")
    state, (batch,) = bench.build(Compute(CPU), ALONE), bench.batches((2,))

    def fail(error):
        def raising(*_):
            raise error

        return raising

    monkeypatch.setattr(engine, "_predict", fail(RuntimeError("sizes differ")))
    with pytest.raises(RuntimeError, match="sizes differ"):
        engine.train_step(state, [batch])
    message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes"
    monkeypatch.setattr(engine, "_predict", fail(RuntimeError(message)))
    with pytest.raises(ValueError, match="out of memory with 1 images of 32x32 .* --plan"):
        engine.train_step(state, [batch])
    assert state.micro_batches == 2


def test_allocation_of_too_much_is_recognised():
    with pytest.raises(RuntimeError) as error:
        torch.empty(10**15)
    assert engine.is_out_of_memory(error.value)
    assert engine.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not engine.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_plan_of_the_command_line_opens_no_data(tmp_path):
    script = Path(__file__).parents[1] / "train.py"
    words = [*SMALL, *QUIET, "--task", "maskdepth", "--data", tmp_path / "none.zip", "--plan"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, script, *map(str, words), "--vram", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    print(f"--plan: {time.perf_counter() - start:.1f} s")
    assert done.returncode == 0, done.stderr
    for name in (*NAMES, "most in 2", "per image", "optimiser", "all else"):
        assert name in done.stdout
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("--bs", "0"), ("--bs", "all"), ("--vram", "0")])
def test_flags_of_the_plan_are_checked(words):
    with pytest.raises(ValueError, match=f"{words[0]}.*{words[1]}.*expected"):
        parse(["--task", "damage", *words])


def test_auto_is_resumed_with_the_batch_it_chose(run_train, tiny_json):
    path, folder = tiny_json
    words = ("--task", path, "--data", folder, "--workers", 0, "--vram", "0.05", "--bs", "auto")
    ran = run_train(*words, "--steps", 2, "--out", "one")
    assert ran.status == 0, ran.err
    from utils import checkpoint

    (chosen,) = checkpoint.load(Path("one/last.pt"))["config"]["settings"]["bs"]
    assert chosen >= 1
    assert f"batch of {chosen}" in ran.out
    resumed = parse(["--resume", "one/last.pt", "--steps", "3"])
    assert (resumed.tasks[0].bs, resumed.fit_batch, resumed.vram) == (chosen, False, 0.05)


def test_the_modes_of_a_plan_are_those_of_recomputation():
    assert CKPT_MODES == MODES
