"""What the memory plan promises, how long it takes, and what a process really grows by."""

import gc
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from learners import make_case
from torch.nn import functional as F

import utils.compute
from utils.compute import make_compute
from utils.flags import CKPT_MODES

pytest_plugins = ["bench_plugin"]
STATUS = Path("/proc/self/status")
SCRIPT = Path(__file__).parents[2] / "train.py"
NETWORKS = {
    "mask + depth": "maskdepth --bs 8",
    "damage": "damage --bs 4",
    "cityscapes": "cityscapes --bs 2",
    "ResNet-18": "damage --bs 4 --encoder resnet18",
    "64..1024": "damage --bs 2 --convs 1 --width 64 --centre 1024 --norm group --optimizer sgd",
}


@pytest.mark.parametrize("convs", [1, 2])
def test_images_in_8_gib(bench, convs):
    """Images of 512x512 in 8 GiB by plan: U-Net 64..1024, 16 classes, --amp --ckpt, SGD"""
    words = "--size 512 512 --width 64 --centre 1024 --vram 8 --optimizer sgd --losses damage=ce"
    words = words if bench.full else "--size 256 256 --vram 0.02"
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


@pytest.mark.parametrize("ckpt", ["none", "full"])
def test_resident_memory(bench, ckpt):
    """Growth of the process in three training steps against the tracked peak, mask + depth net

    Each in a fresh process: as train.py does on a CPU, where the C library keeps what is freed, and
    without that. Beyond the peak is what kernels borrow inside an operation; what keeping adds to
    it are gaps between blocks that no later request fits.
    """
    if not STATUS.exists():
        pytest.skip("the resident memory is read as Linux tells it")
    flags = (*bench.tiny, *bench.half("cpu"), "--ckpt", ckpt, "--device", "cpu")
    grown = []

    def run():
        if not bench.full:
            grown.append(resident_growth(flags, keep=True))
            return
        for keep in (True, False):
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                grown.append(fresh.submit(resident_growth, flags, keep).result())

    bench.measure(run, rounds=1, warm=0)
    case = bench.case("maskdepth", *flags)
    tracked = case.footprint().peak
    bench.row(
        case,
        tracked_bytes=tracked,
        resident_bytes=grown[0],
        not_kept_bytes=grown[-1],
        resident_share=grown[0] / tracked,
        not_kept_share=grown[-1] / tracked,
    )


def resident_growth(flags: tuple[str, ...], keep: bool) -> int:
    """Bytes by which this process becomes larger than a mere import of everything makes it."""
    if not keep:
        utils.compute.keep_freed_memory = lambda: None
    F.conv2d(torch.rand(1, 8, 64, 64), torch.rand(8, 8, 3, 3))  # libraries and threads
    before = resident("VmRSS")
    case = make_case("maskdepth", *flags)
    for _ in range(3):
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
