"""A signal that asks for the end is kept until the step in hand is saved."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.stop import StopSignals

ALL = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_the_first_signal_asks_and_ends_nothing(number):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.status == (75 if number == signal.SIGUSR1 else 130)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_outside_a_run_a_signal_is_one_line(number):
    code = "import os, time; from utils.stop import *; end_on_signals(); "
    code += f"os.kill(os.getpid(), {int(number)}); time.sleep(30)"
    told = {"capture_output": True, "text": True, "cwd": Path(__file__).parents[1]}
    ran = subprocess.run([sys.executable, "-c", code], **told)
    expected = 75 if number == signal.SIGUSR1 else 130
    assert (ran.returncode, ran.stdout, ran.stderr) == (expected, "", "stopped\n")


def test_the_first_of_two_signals_says_how_it_ends():
    """A scheduler warns first, and then asks for the end."""
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.status == 75


def test_a_second_sigterm_ends_at_once():
    code = "import os, time; from utils.stop import *; end_on_signals()\n"
    code += "with StopSignals():\n    for i in (1, 2): os.kill(os.getpid(), 15)\n"
    ran = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    assert ran.returncode == -15


def test_a_second_ctrl_c_ends_at_once():
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_notice_that_comes_twice_is_one(number):
    """The system and the shell both tell that a terminal closes."""
    with StopSignals() as stop:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop.requested


def test_what_is_ignored_stays_ignored():
    """Below `nohup` a run outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)
