"""Which device computes, and in which precision; tensors on their way there."""

import os
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.task import UserError
from utils.memory.heap import keep_freed_memory


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """The half precision that the device computes natively; None where it would be emulated."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu":
        tell = getattr(torch.cpu, "get_capabilities", None)  # torch 2.9 does not
        capabilities = tell() if tell else {}
        native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        return torch.bfloat16 if native else None
    return torch.float16


@dataclass(frozen=True)
class Compute:
    """Where and how precisely the network runs. dtype: None is float32 throughout."""

    device: torch.device
    dtype: torch.dtype | None = None

    def autocast(self) -> AbstractContextManager:
        """Half precision for what is run inside, or nothing."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def keep_freed(self, first_step: bool = False) -> None:
        """`keep_freed_memory`, where tensors are in the C library's memory."""
        if self.device.type == "cpu":
            keep_freed_memory(first_step)

    def image(self, image: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) on the host -> float32 in [0, 1] on the device, channels last."""
        image = image.to(self.device, non_blocking=True)
        return image.to(torch.float32, memory_format=torch.channels_last).div_(255)

    def targets(self, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same targets on the device."""
        return {name: target.to(self.device, non_blocking=True) for name, target in targets.items()}


def busy_notice(device: torch.device) -> str:
    """A line for those whose processor has other work, else nothing.

    Threads of one operation wait for each other: where one of them has no core of its own, a step
    takes several times as long. Their number is left alone all the same: sums over another number
    of parts differ in their last bits, and a resumed run would not repeat the one that it resumes.
    """
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    if device.type != "cpu" or threads == 1 or "OMP_NUM_THREADS" in os.environ:
        return ""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= cores / 2:
        return ""
    return (
        f"this machine is busy ({load:.1f} of {cores} cores): {threads} threads wait for each "
        "other; OMP_NUM_THREADS=1 before the command may be several times faster"
    )


def make_compute(device: str, amp: bool, keep_memory: bool = True) -> Compute:
    """The named device ("auto": the first found), in half precision if asked and native.

    keep_memory: on a CPU, `keep_freed_memory` of this process, which should then be our own.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = accelerator.type if accelerator is not None else "cpu"
    try:
        chosen = torch.device(device)
        if chosen.type == "cuda" and chosen.index is None:  # processes of torchrun have one each
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None
    if chosen.type == "cpu" and keep_memory:
        keep_freed_memory()
    dtype = amp_dtype(chosen) if amp else None
    if amp and dtype is None and int(os.environ.get("RANK", 0)) == 0:
        notice = f"--amp: this {chosen.type} would emulate half precision; float32 it is"
        print(notice, file=sys.stderr)
    return Compute(chosen, dtype)
