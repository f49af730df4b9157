"""Several ranks are one process: the same losses, weights, statistics, scores and samples."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUIET, SMALL, TINY, members_of, put
from examples import EXAMPLES
from test_engine import batch_of, make_state, scores_of, split, weights
from test_sampler import KINDS
from test_skipped import free_port

import train
from datasets.dataset import InfiniteBatchSampler
from datasets.task import Batch
from losses import Criterion
from losses.weighted import TERMS
from models import ModelSpec, UNet
from utils import checkpoint, engine
from utils.build import model_spec
from utils.compute import Compute
from utils.distributed import Distributed
from utils.engine import TrainState, train_step
from utils.metrics import metrics_of
from utils.predict import Predictor
from utils.settings import OptimSettings, parse
from utils.validation import evaluate

CPU = torch.device("cpu")
WORLDS = (2, 3)
STEPS, ACCUM, SIZE = 2, 2, (16, 24)
RESUMED = (1, 2, 3, 1)  # with so many ranks a run goes on in turn


def state_of(kind, distributed):
    """A network with one output of that kind, whose loss is every term that there is."""
    torch.manual_seed(0)
    output = EXAMPLES[kind].output
    spec = ModelSpec.of((output,), width=4, depth=1, convs=(1, 1, 1), norm="batch")
    criterion = Criterion.of((output,), losses={output.name: "+".join(TERMS[kind])})
    optim = OptimSettings(optimizer="sgd", lr=0.02, schedule="constant", warmup=0)
    return TrainState.of(UNet(spec), criterion, optim, 10, Compute(CPU, None), distributed)


def samples_of(kind, num, seed):
    """Batches of one image; about a third of each is labelled otherwise, if at all."""
    example, rng = EXAMPLES[kind](), np.random.default_rng(seed)
    for i in range(num):
        image = rng.integers(0, 256, (1, 3, *SIZE), np.uint8)
        target = np.asarray(example.target(rng, SIZE))
        if i == 1:  # the second has few labels
            target = np.where(rng.random(target.shape[-2:]) < 0.8, example.output.fill, target)
        target = torch.from_numpy(target.astype(example.output.dtype))[None]
        yield Batch(torch.from_numpy(image), {example.output.name: target}, [f"{seed}-{i}"])


def joined(batches):
    """One batch of several."""
    images, targets, keys = zip(*[each[:3] for each in batches], strict=True)
    stacked = {name: torch.cat([target[name] for target in targets]) for name in targets[0]}
    return Batch(torch.cat(images), stacked, [key for each in keys for key in each])


def learnt(kind, distributed, accum):
    """What a rank finds in a few steps of `accum` batches of two images, and in an evaluation."""
    state, (rank, world_size) = state_of(kind, distributed), distributed.part
    losses = []
    for step in range(STEPS):
        samples = list(samples_of(kind, 2 * accum * world_size, step))
        batches = [joined(samples[i : i + 2]) for i in range(0, len(samples), 2)]
        terms = train_step(state, batches[rank * accum : (rank + 1) * accum], accum)
        losses.append(distributed.mean({name: float(term) for name, term in terms.items()}))
    samples = list(samples_of(kind, 7, 99))[rank::world_size]
    batches = [joined(samples[i : i + 3]) for i in range(0, len(samples), 3)]
    predictor, metrics = (
        Predictor(state.averaged, state.compute),
        metrics_of([EXAMPLES[kind].output]),
    )
    scores = evaluate(predictor, batches, state.criterion, metrics, distributed).scores
    named = {n: v for n, v in state.model.state_dict().items() if not n.endswith("tracked")}
    return {"losses": losses, "scores": scores, "state": named}


def learnt_weights(distributed):
    """After two steps with learnt weights of outputs, whose samples only the first rank has."""
    state, (rank, world_size) = (
        make_state(uncertainty=True, distributed=distributed),
        distributed.part,
    )
    for step in range(2):
        batches = split(batch_of(4, seed=step), 1)
        each = len(batches) // world_size
        train_step(state, batches[rank * each :][:each], accum=each)
    few = scores_of(state, [batch_of(1, seed=9)] if rank == 0 else []).scores
    return {"weights": weights(state), "learnt": state.criterion.log_variances.detach(), "few": few}


def said(distributed):
    """What one of two ranks hears from the others."""
    rank = distributed.rank
    return {
        "learnt weights": learnt_weights(distributed),
        "any": distributed.any(rank == 1),
        "mean": distributed.mean({"b": rank, "a": 0.5} if rank else {"a": 0.5, "b": rank}),
        "said": distributed.main_says(lambda: f"by rank {rank}"),
    }


def joins(rank, world_size, port):
    """Be one of so many processes, if that many have this rank."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    return rank < world_size


def one_of_three(rank, ports, folder):
    """What one process does: it is a rank of two, then of three; then of a run that goes on."""
    torch.set_num_threads(1)
    os.chdir(folder)
    for world_size in WORLDS:
        if joins(rank, world_size, ports.pop()):
            distributed = Distributed(CPU)
            found = {kind: learnt(kind, distributed, ACCUM) for kind in EXAMPLES}
            found |= said(distributed) if world_size == 2 else {}
            torch.save(found, f"{world_size}ranks{rank}.pt")
            distributed.close()
    seen = []
    for turn, world_size in enumerate(RESUMED):
        while turn and not (folder / f"turn{turn - 1}").exists():
            time.sleep(0.01)
        if joins(rank, world_size, ports.pop()):
            seen += steps_of(turn)
        if rank == 0:
            (folder / f"turn{turn}").touch()
    torch.save(seen, f"seen{rank}.pt")


def steps_of(turn):
    """The images that this process sees while the run makes two more steps."""
    step, seen = engine.train_step, []

    def recorded(state, batches, accum):
        seen.extend(key for batch in batches for key in batch.keys)
        return step(state, batches, accum)

    engine.train_step = recorded
    begin = ["--task", "tiny.json", "--data", "data", *SMALL, *QUIET, "--bs", "6", "--out", "run"]
    words = ["--resume", "run"] if turn else begin
    sys.argv = ["train.py", *words, "--steps", str(2 * turn + 2)]
    assert train.main() == 0
    engine.train_step = step
    return seen


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """A folder in which three processes have left what they found."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "tiny.json").write_text(json.dumps(TINY.to_json()))
    put(folder / "data", members_of(TINY, 12))
    ports = [free_port() for _ in (*WORLDS, *RESUMED)]
    torch.multiprocessing.spawn(one_of_three, (ports, folder), nprocs=3)
    return folder


@pytest.fixture(scope="module")
def alone():
    """alone(kind, accum): what one process finds."""
    return cache(lambda kind, accum: learnt(kind, Distributed(CPU), accum))


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("world_size", WORLDS)
def test_ranks_are_one_process_that_accumulates(ranks, alone, world_size, kind):
    """Every loss term, with batch norm, images labelled unequally and unequal shares to judge."""
    expected = alone(kind, ACCUM * world_size)
    for rank in range(world_size):
        found = torch.load(ranks / f"{world_size}ranks{rank}.pt")[kind]
        for one, other in zip(found["losses"], expected["losses"], strict=True):
            assert one == pytest.approx(other, rel=1e-6, abs=1e-6)
        assert found["scores"] == pytest.approx(expected["scores"], rel=1e-6, abs=1e-6)
        for name, value in expected["state"].items():
            torch.testing.assert_close(found["state"][name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_ranks_agree(ranks):
    expected = learnt_weights(Distributed(CPU))
    for rank in (0, 1):
        found = torch.load(ranks / f"2ranks{rank}.pt")
        assert (found["any"], found["said"]) == (True, "by rank 0")
        assert found["mean"] == {"a": 0.5, "b": 0.5}
        for name in ("weights", "learnt"):
            one = found["learnt weights"][name]
            torch.testing.assert_close(one, expected[name], rtol=0, atol=1e-6)
        few = expected["few"]
        assert found["learnt weights"]["few"] == pytest.approx(few, rel=1e-4, abs=1e-5)


def test_a_run_that_goes_on_with_other_ranks_sees_each_image_once_an_epoch(ranks):
    seen = Counter(key for rank in range(3) for key in torch.load(ranks / f"seen{rank}.pt"))
    assert seen.total() == 6 * 2 * len(RESUMED)
    assert max(seen.values()) - min(seen.values()) <= 1


@pytest.mark.parametrize("accum", [1, 2])
@pytest.mark.parametrize("neighbours", [None, np.arange(35, dtype=np.int32)[::-1]], ids=KINDS)
def test_any_number_of_ranks_sees_the_same_images(neighbours, accum):
    """420 images a step, by 1, 2, 3, 5 and 7 ranks, and by each after any other."""

    def steps(world_size, start, num):
        """The images of each step, whichever rank sees them."""
        bs = 420 // (world_size * accum)
        streams = [
            InfiniteBatchSampler(35, bs, 4, start * accum, (rank, world_size), neighbours, accum)
            for rank in range(world_size)
        ]
        parts = [list(islice(stream, num * accum)) for stream in streams]
        return [
            Counter(i for part in parts for b in part[n * accum :][:accum] for i in b)
            for n in range(num)
        ]

    whole = steps(1, 0, 4)
    assert sum(whole, Counter()) == Counter((e, i) for e in range(48) for i in range(35))
    for before in (1, 2, 3, 5, 7):
        for after in (1, 2, 3, 5, 7):
            assert steps(before, 0, 2) + steps(after, 2, 2) == whole


def test_the_page_on_scaling_out_counts_right():
    """The table of utils/README.md, by the lines above it, of the network that it names."""
    page = (Path(__file__).parents[1] / "utils" / "README.md").read_text()
    found = {}
    exec(re.search(r"```python\n(def times_as_fast.*?)```", page, re.DOTALL)[1], found)
    times = found["times_as_fast"]
    model = UNet(model_spec(parse(["--task", "maskdepth"])))
    assert sum(p.numel() for p in model.parameters()) == times.__defaults__[1]
    statistics = [b for b in model.buffers() if b.is_floating_point()]
    assert f"({sum(b.numel() for b in statistics):,} numbers" in page
    links = {"1 Gbit/s": 125e6, "10 Gbit/s": 1.25e9, "PCIe 4.0 x16, 31.5 GB/s": 31.5e9}
    rows = re.findall(r"\| (\d+) images/s: .*? \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|", page)
    assert len(rows) == 5
    for rate, link, *told in rows:
        counted = [times(ranks, links[link], int(rate)) for ranks in (2, 4, 8)]
        assert [f"{each:.2f}" for each in counted] == told


def children(pid):
    """The processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for task in tasks for child in task.read_text().split()}


def lives(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="Linux tells of a child's children"
)
def test_a_rank_is_killed_and_the_run_goes_on_and_a_launcher_is_killed_and_it_ends(tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(TINY.to_json()))
    put(tmp_path / "data", members_of(TINY, 12))
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    torchrun += ["--master-port", str(free_port()), train.__file__]
    words = ["--task", "tiny.json", "--data", "data", *SMALL, *QUIET, "--workers", "1"]
    words += ["--out", "run", "--steps", "100000", "--eval-steps", "10"]
    last, log = tmp_path / "run" / "last.pt", tmp_path / "log"
    shared = set(os.listdir("/dev/shm"))
    with log.open("w") as file:
        command = [sys.executable, *torchrun, *words]
        launcher = subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=file)
    try:
        wait_until(last.exists)
        first = children(launcher.pid)
        os.kill(max(first), signal.SIGKILL)
        wait_until(lambda: not any(map(lives, first)))
        saved = last.stat().st_mtime_ns
        wait_until(lambda: last.stat().st_mtime_ns > saved)
        both = children(launcher.pid)
        every = both | {worker for rank in both for worker in children(rank)}
    finally:
        launcher.kill()
        launcher.wait()
    assert len(both) == 2
    wait_until(lambda: not any(map(lives, every)))
    said = log.read_text()
    assert said.count("error: run: another rank has ended; the last good checkpoint is run/") == 1
    assert said.count("stopped after step") == 1
    assert "Traceback" not in said.replace("Traceback : Signal", "")
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name[0] == "."] == []
    assert set(os.listdir("/dev/shm")) <= shared
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == sorted(set(steps))
    assert checkpoint.load(last)["step"] == steps[-1]
