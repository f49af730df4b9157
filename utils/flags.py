"""The flags of train.py, and what checks any; a mistake becomes one line."""

import argparse
import math
import re
import sys
from argparse import ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from datasets import TASKS
from datasets.task import Task, UserError
from utils.command import run_command

Number = TypeVar("Number", int, float)
OPTIMIZERS = ("sgd", "adamw", "muon")
LOSS_WEIGHTS = ("uncertainty", "log", "balance", "dwa", "max")  # ways to find them
SCHEDULES = ("plateau", "poly", "cosine", "rsqrt", "constant")
CKPT_MODES = ("none", "selective", "full")  # what is recomputed, from the most memory to the least


def _number(
    kind: type[Number], least: float, below: float, expected: str
) -> Callable[[str], Number]:
    """A parser of numbers from `least` to less than `below`."""

    def parse(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value < below:
            raise ArgumentTypeError(f"{text!r}, expected {expected}")
        return value

    return parse


positive = _number(int, 1, 2**31, "a whole number from 1 to less than 2^31")
side = _number(int, 3, 2**31, "a whole number of pixels from 3 to less than 2^31")  # as blur needs
natural = _number(int, 0, 2**31, "a whole number from 0 to less than 2^31")
real = _number(float, 0, math.inf, "a number from 0")
above_zero = _number(float, math.ulp(0.0), math.inf, "a number above 0")
seed = _number(int, 0, 2**63, "a whole number from 0 to less than 2^63")
share = _number(float, 0, 1, "a number from 0 to less than 1")
portion = _number(float, 0, math.nextafter(1, 2), "a number from 0 to 1")


def batch_size(text: str) -> int | str:
    """A number of images, or "auto"."""
    return text if text == "auto" else positive(text)


def ckpt(text: str) -> str:
    """One of `CKPT_MODES`, one for each block with commas, or a size."""
    if not ({*text.split(",")} <= {*CKPT_MODES} or num_bytes(text)):
        expected = f"{', '.join(CKPT_MODES)}, or a size such as 6GiB or 600MiB"
        raise ArgumentTypeError(f"{text!r}, expected {expected}")
    return text


def num_bytes(size: str) -> int:
    """6GiB or 600MiB in bytes; 0 for what is no such size."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([GM])iB", size, re.ASCII)
    return int(float(found[1]) * {"G": 2**30, "M": 2**20}[found[2]]) if found else 0


def field_value(text: str) -> tuple[str, str]:
    """FIELD=VALUE as a pair."""
    field, equals, value = text.partition("=")
    if not (field and equals):
        raise ArgumentTypeError(f"{text!r}, expected FIELD=VALUE")
    return field, value


def pair(text: str) -> tuple[str, str]:
    """OUTPUT=VALUE as a pair."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ArgumentTypeError(f"{text!r}, expected NAME=VALUE")
    return name, value


def weight(text: str) -> tuple[str, float] | str:
    """OUTPUT=W as a pair, or one of LOSS_WEIGHTS."""
    if text in LOSS_WEIGHTS:
        return text
    name, value = pair(text)
    try:
        return name, real(value)
    except ArgumentTypeError as error:
        raise ArgumentTypeError(f"{name}={error}") from None


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise what `main` reports."""
        raise UserError(message.removeprefix("argument "))

    def given(self, words: list[str]) -> dict[str, Any]:
        """The values of those flags that stand among the words, without any default."""
        names = vars(self.parse_args([]))
        values = vars(self.parse_args(words, Namespace(**dict.fromkeys(names))))
        return {name: value for name, value in values.items() if value is not None}


def train_parser(tasks: Mapping[str, Task]) -> Parser:
    """Every flag of training. What a task sets itself stands in its file under `defaults`."""
    lines = [
        f"  {name:<13} {' '.join(as_flags(task.defaults))}\n{'':16}{task.about}"
        for name, task in tasks.items()
    ]
    parser = Parser(
        description="Train one encoder with the heads of one or more tasks.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="tasks and their own defaults:\n" + "\n".join(lines),
    )
    for add_flags in (_add_data, _add_model, _add_learning, _add_losses, _add_speed, _add_habit):
        add_flags(parser)
    return parser


def _add_data(parser: Parser) -> None:
    add = parser.add_argument_group("what").add_argument
    add("--task", nargs="+", metavar="NAME|FILE", help="tasks by name, or task files (.json)")
    text = "folder, zip, HDF5, or address of one: any number for one task, one each for several"
    add("--data", nargs="+", metavar="PATH", help=f"{text} (default: a demo, drawn)")
    text = "learn these outputs of the tasks alone (all)"
    add("--outputs", nargs="+", metavar="NAME", help=text)
    text = "also learn one class per image, from a column of the metadata or a field of its name"
    add("--label", nargs="+", metavar="FIELD", help=text)
    text = "run folder (default: runs/TASK, or the next free runs/TASK-2, ...)"
    add("--out", type=Path, help=text)
    text = "training size in pixels (256 256)"
    add("--size", nargs=2, type=side, metavar=("H", "W"), help=text)
    text = "validate where a field of the path or the metadata has this value, train on the rest"
    add("--split-by", type=field_value, metavar="FIELD=VALUE", help=text)
    add("--workers", type=natural, default=2, help="processes that read and decode (2)")
    text = "shards: samples that lie near each other are read at about the same time (global)"
    add("--shuffle", choices=("global", "shards"), default="global", help=text)
    text = "go on without at most N damaged members, listed in the run folder (0)"
    add("--skip-bad", type=natural, default=0, metavar="N", help=text)


def _add_model(parser: Parser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--encoder", default="unet", metavar="unet|TIMM", help="own encoder, or a timm name (unet)")
    text = "timm encoder: weights from its hub, or a state dict on disk"
    add("--pretrained", nargs="?", const=True, default=False, metavar="PATH", help=text)
    text = "channels at the finest scale, doubled at each below (32)"
    add("--width", type=positive, default=32, help=text)
    text = "predict at 1/N of the size, and enlarge (1; 2 with a timm encoder)"
    add("--output-stride", type=int, choices=(1, 2, 4, 8), metavar="N", help=text)
    add("--depth", type=positive, default=4, help="number of 2x2 poolings (4)")
    text = "channels at the bottom (2^depth times the width; none below a timm encoder)"
    add("--centre", type=natural, default=0, help=text)
    text = "convolutions per block: one number, or encoder, centre, decoder (2)"
    add("--convs", nargs="+", type=positive, default=[2], help=text)
    norms = ("batch", "group", "none")
    add("--norm", choices=norms, default="batch", help="after each convolution (batch)")
    add("--dropout", type=share, default=0.0, help="share of channels dropped per block (0)")
    add(
        "--init",
        metavar="CKPT",
        help="start from the encoder of another run: file, folder, address",
    )


def _add_learning(parser: Parser) -> None:
    add = parser.add_argument_group("learning").add_argument
    add("--epochs", type=positive, default=12, help="passes over the longest training split (12)")
    add("--steps", type=positive, help="optimiser steps, instead of --epochs")
    text = "fewer steps where all of them would take longer than this (no limit; a demo: 5)"
    add("--minutes", type=above_zero, metavar="M", help=text)
    add("--eval-steps", type=positive, help="steps between evaluations (an epoch, at least 20)")
    text = "images of each task in a batch (8); auto: as many as fit into --vram"
    add("--bs", type=batch_size, metavar="N|auto", help=text)
    add("--accum", type=positive, default=1, help="batches per optimiser step (1)")
    add("--optimizer", choices=OPTIMIZERS, default="muon", help="(muon)")
    add("--lr", type=real, default=5e-3, help="highest learning rate (0.005)")
    text = "learning rate of the encoder, as a share of --lr, such as 0.1 (1)"
    add("--encoder-lr", type=real, default=1.0, metavar="SHARE", help=text)
    add("--momentum", type=share, default=0.9, help="of SGD and Muon; first beta of AdamW (0.9)")
    add("--weight-decay", type=real, default=1e-2, help="biases and norms are left alone (0.01)")
    add("--schedule", choices=SCHEDULES, default="cosine", help="of the learning rate (cosine)")
    add("--warmup", type=natural, default=20, help="steps of quadratic rise (20)")
    add("--clip", type=real, default=0.0, help="largest gradient norm, 0 is unlimited (0)")
    text = "weights that are scored and kept: averages that decay so per step; 0 is off (0.99)"
    add("--ema", type=share, default=0.99, help=text)


def _add_losses(parser: Parser) -> None:
    add = parser.add_argument_group("losses").add_argument
    text = "such as damage=ce+dice or depth=l1+2*grad; classes: ce dice focal smooth ohem lovasz "
    text += "tversky focal_tversky; mask: the same, bce for ce, no smooth; depth: l1 silog grad bce"
    add("--losses", nargs="+", type=pair, default=[], metavar="OUTPUT=TERMS", help=text)
    text = f"share of an output in the total, or one way to find them: {', '.join(LOSS_WEIGHTS)}"
    add("--loss-weights", nargs="+", type=weight, default=[], metavar="OUTPUT=W", help=text)
    text = "share of the loss of heads at half size, halved at each coarser scale, such as 0.4; "
    text += "they are there for training alone (0: none)"
    add("--aux", type=real, default=0.0, metavar="W", help=text)
    text = "rare classes count more (square root of median frequency)"
    add("--class-weights", action=BooleanOptionalAction, help=text)


def _add_speed(parser: Parser) -> None:
    add = parser.add_argument_group("memory, speed").add_argument
    text = "half precision where the device has it"
    add("--amp", action=BooleanOptionalAction, default=False, help=text)
    text = "recompute activations instead of storing them: none, selective, full (--ckpt alone), "
    text += "or as little as fits a step into a SIZE such as 6GiB or 600MiB (none)"
    name = "MODE|SIZE"
    add("--ckpt", nargs="?", const="full", default="none", type=ckpt, metavar=name, help=text)
    text = "print what a training step takes with each --amp and --ckpt, and stop"
    add("--plan", action="store_true", help=text)
    text = "memory that a training step may take (all of a CUDA device, else 8)"
    add("--vram", type=above_zero, metavar="GIB", help=text)
    text = "validation images with a longer side are predicted in tiles, 0 is never (1024)"
    add("--tile", type=natural, default=1024, help=text)
    text = "torch.compile the network"
    add("--compile", action=BooleanOptionalAction, default=False, help=text)
    text = "torch's own layers on a CPU too, to read and to compare: slower"
    add("--plain", action=BooleanOptionalAction, default=False, help=text)
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (auto)")


def _add_habit(parser: Parser) -> None:
    add = parser.add_argument_group("habit").add_argument
    text = "continue a stopped run with its own flags (the newest of the task, or this one)"
    add("--resume", nargs="?", const="", metavar="FOLDER|CKPT", help=text)
    text = "train and validate on the same N batches, by heart: for 300 steps, at a rate of its "
    text += "own and without class weights, unless flags say other"
    add("--overfit", type=natural, default=0, metavar="N", help=text)
    add("--seed", type=seed, default=0, help="(0)")
    text = "refuse operations that are not repeatable on the device"
    add("--deterministic", action=BooleanOptionalAction, default=False, help=text)
    text = "auto: online with a key, else offline (auto)"
    add("--wandb", choices=("auto", "online", "offline", "disabled"), default="auto", help=text)
    add("--name", help="of the run in wandb (the run folder's name)")


def as_flags(settings: Mapping[str, object]) -> list[str]:
    """{"size": [64, 96], "class_weights": True} -> --size 64 96 --class-weights, as words."""
    words = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, list | tuple) else [value])]
    return words


def given_again(parser: Parser, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a checkpoint holds, checked as those of a command line are; none that this
    version does not know."""
    words = []
    for name in vars(parser.parse_args([])).keys() & stored.keys():
        flag, value = f"--{name.replace('_', '-')}", stored[name]
        if isinstance(value, dict):
            value = [f"{key}={item}" for key, item in value.items()]
        if name == "split_by" and value:
            value = "=".join(value)
        if isinstance(value, list | tuple):
            words += [flag, *map(str, value)] if value else []
        elif value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words.append(f"{flag}={value}")
    return parser.given(words)


def answer_help(
    words: list[str], make_parser: Callable[[Mapping[str, Task]], Parser] = train_parser
) -> None:
    """Answer --help, and refuse what is no flag, before torch is imported, which takes seconds."""

    def parse() -> None:
        make_parser(TASKS).parse_args(words)

    if status := run_command(parse):
        sys.exit(status)
