"""What the memory plan promises, how long it takes, and what a process really grows by."""

import gc
import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from learners import make_case
from torch.nn import functional as F

from models.recompute import recompute
from utils.compute import make_compute
from utils.flags import CKPT_MODES
from utils.memory.choose_blocks import choose
from utils.memory.heap import start_with_tunables
from utils.memory.trace import trace

pytest_plugins = ["bench_plugin"]
STATUS = Path("/proc/self/status")
SCRIPT = Path(__file__).parents[2] / "train.py"
NETWORKS = {
    "mask + depth": "maskdepth --bs 8",
    "damage": "damage --bs 8",
    "cityscapes": "cityscapes --bs 4",
    "ResNet-18": "damage --bs 8 --encoder resnet18",
    "64..1024": "damage --bs 2 --convs 1 --width 64 --centre 1024 --norm group --optimizer sgd",
}


@pytest.mark.parametrize("convs", [1, 2])
def test_images_in_8_gib(bench, convs):
    """Images of 512x512 in 8 GiB by plan: U-Net 64..1024, 16 classes, --amp --ckpt, SGD"""
    words = "--size 512 512 --width 64 --centre 1024 --vram 8 --optimizer sgd --losses damage=ce"
    words = words if bench.full else "--size 256 256 --vram 0.08"
    flags = (*words.split(), "--convs", str(convs), "--bs", "auto", "--amp", "--ckpt")
    plans = []

    def plan():
        plans.append(bench.plan("damage", *flags))

    (seconds,) = bench.measure(plan, rounds=1, warm=0)
    plan = plans[-1]
    bench.row(
        None,
        convs_per_block=convs,
        images=plan.images[0],
        plan_bytes=int(plan.peak(plan.mode)),
        seconds=seconds,
    )
    assert plan.fits


def test_time_of_a_plan(bench):
    """Time of --plan for all settings, mask + depth net: as a function, and as a command"""

    def command():
        if bench.full:
            words = [sys.executable, SCRIPT, "--task", "maskdepth", "--plan"]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    function, whole = bench.measure(
        lambda: bench.plan("maskdepth", "--plan").text(), command, rounds=3, warm=1
    )
    bench.row(None, task="maskdepth", function_seconds=function, command_seconds=whole)


@pytest.mark.parametrize("share", [0.2, 0.7])
@pytest.mark.parametrize("network", ["mask + depth", "damage", "cityscapes"])
def test_ckpt_of_a_size(bench, network, share):
    """--ckpt SIZE, between what full and none take, against the quickest mode that fits"""
    flags = (*NETWORKS[network].split(), *bench.tiny, *bench.half())
    plan, case = bench.plan(*flags), bench.case(*flags)
    peaks = {ckpt: plan.peak(plan.mode._replace(ckpt=ckpt)) for ckpt in CKPT_MODES}
    budget = int(peaks["full"] + share * (peaks["none"] - peaks["full"]))
    chosen = choose(plan, budget).ckpt

    def step(ckpt):
        recompute(case.state.model, ckpt)
        case.step()

    modes = [chosen, *(ckpt for ckpt in CKPT_MODES if peaks[ckpt] <= budget)]
    seconds, *others = bench.measure(*(partial(step, ckpt) for ckpt in modes), rounds=7, warm=2)
    recompute(case.state.model, chosen)
    tracked = trace(case.state, [case.batch]).peak
    bench.row(
        None,
        network=network,
        budget_bytes=budget,
        tracked_bytes=tracked,
        of_best=seconds / min(others),
        chosen=chosen,
    )
    assert tracked <= budget


@pytest.mark.parametrize("ckpt", CKPT_MODES)
@pytest.mark.parametrize("network", NETWORKS)
def test_plan_on_a_cpu(bench, network, ckpt):
    """Plan against what a process grows by in five training steps on a CPU

    Each in a fresh process, which starts as train.py does, beyond a mere import of everything.
    """
    if not STATUS.exists():
        pytest.skip("the resident memory is read as Linux tells it")
    if not bench.full and (network, ckpt) != ("mask + depth", "full"):
        pytest.skip("one is enough to see that it works")
    half = bench.half("cpu")
    flags = (*NETWORKS[network].split(), *bench.tiny, *half, "--ckpt", ckpt, "--device", "cpu")
    plan, grown = bench.plan(*flags), []

    def run():
        paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, __file__, *flags]
        grown.append(
            int(subprocess.run(command, env=paths, capture_output=True, check=True).stdout)
        )

    bench.measure(run, rounds=1, warm=0)
    planned, tracked = plan.taken(plan.mode), plan.peak(plan.mode)
    bench.row(
        None,
        network=network,
        ckpt=ckpt,
        tracked_bytes=tracked,
        plan_bytes=planned,
        grown_bytes=grown[0],
        plan_share=planned / grown[0],
        tracked_share=tracked / grown[0],
    )


def growth(*flags: str) -> int:
    """Bytes by which this process becomes larger than a mere import of everything makes it."""
    with suppress(ImportError):
        import timm  # noqa: F401
    F.conv2d(torch.rand(1, 8, 64, 64), torch.rand(8, 8, 3, 3))  # libraries and threads
    before = resident("VmRSS")
    case = make_case(*flags)
    for _ in range(5):
        case.step()
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """Resident bytes: VmRSS now, VmHWM at most. `getrusage` would tell the parent's largest."""
    lines = STATUS.read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


@pytest.mark.parametrize("ckpt", CKPT_MODES)
@pytest.mark.parametrize("network", NETWORKS)
def test_plan_on_cuda(bench, network, ckpt):
    """Plan against what torch allocates and reserves on CUDA in three steps, 16 images"""
    device = make_compute("auto", False).device
    if device.type != "cuda":
        pytest.skip("no CUDA device")
    flags = (*NETWORKS[network].split(), *bench.tiny, "--bs", "16", "--amp", "--ckpt", ckpt)
    plan = bench.plan(*flags)
    planned = plan.footprint(plan.mode)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)

    def run():
        case = bench.case(*flags)
        for _ in range(3):
            case.step()
        torch.cuda.synchronize(device)

    bench.measure(run, rounds=1, warm=0)
    allocated = torch.cuda.max_memory_allocated(device) - before[0]
    reserved = torch.cuda.max_memory_reserved(device) - before[1]
    bench.row(
        None,
        network=network,
        ckpt=ckpt,
        plan_bytes=planned.peak,
        allocated_bytes=allocated,
        plan_reserved_bytes=planned.reserved,
        reserved_bytes=reserved,
        of_allocated=planned.peak / allocated,
        of_reserved=planned.reserved / reserved,
    )


if __name__ == "__main__":
    start_with_tunables()
    print(growth(*sys.argv[1:]))
