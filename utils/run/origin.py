"""Where a run's figures come from: its command, the code, the machine. Kept in its config.json."""

import platform
import shlex
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def origin(device: torch.device) -> dict[str, str | int]:
    """Plain values that a table of results prints beside a score."""
    return {
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "hardware": _hardware(device),
        "threads": torch.get_num_threads(),
    }


def _commit() -> str:
    """The commit of this code, with a + where files differ from it; "" outside a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = torch.backends.cpu.get_cpu_capability()
    return f"{name} with AMX" if torch.cpu._is_amx_tile_supported() else name
