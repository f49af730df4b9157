"""What a command says of an error is one line, whatever stands in the names of files."""

import errno
import os
import sys
from itertools import count

import numpy as np
import pytest
import torch

from datasets.task import UserError
from utils.command import one_line, print_lines, printable, run_command
from utils.distributed import Distributed
from utils.skipped import Skipped

MEANT_FOR_TERMINALS = "\x1b\x07\x9b\x85\x0b\x1c\u2028\u2029\u202e\u2066\u200f\ud800"


@pytest.mark.parametrize("character", MEANT_FOR_TERMINALS)
def test_no_character_of_a_name_cuts_or_turns_the_line(character, capsys):
    def work():
        raise UserError(f"d.zip: img/a{character}b.png: no image")

    assert run_command(work) == 2
    said = capsys.readouterr().err
    escaped = character.encode("unicode_escape").decode()
    assert said == f"error: d.zip: img/a{escaped}b.png: no image\n"


def test_handles_that_run_out_are_a_line_with_the_cure(capsys):
    def work():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.zip")

    assert run_command(work) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "'a.zip'; fewer --workers need less, `ulimit -n 4096` allows more" in said


def test_what_people_call_their_files_stays_readable():
    name = "Bäume/樹/дерево/עץ/درخت\u200cها 🌳.png"
    assert printable(name) == name


def test_an_error_out_of_a_worker_is_its_last_line():
    error = RuntimeError("Traceback:\n  x\ndatasets.json_values.UserError: a\u2028b: no image\n")
    assert one_line(error) == r"a\u2028b: no image"


def test_skipped_members_are_named_in_one_line():
    said = []
    Skipped(1, Distributed("cpu"), said.append).add("d.zip: a\u2028\x9bb.png", "not an image")
    assert said == [r"skipped d.zip: a\u2028\x9bb.png: not an image"]


def test_what_no_memory_holds_is_one_line(capsys):
    for ask in (lambda: torch.empty(2**58), lambda: np.empty(2**58)):
        assert run_command(ask) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: out of memory: ")
        assert "--size" in said
        assert said.count("\n") == 1


def test_another_runtime_error_is_a_bug():
    with pytest.raises(RuntimeError, match="shape"):
        run_command(lambda: torch.zeros(2).view(3))


def test_who_reads_may_stop_reading(monkeypatch):
    """As of `| head -2`."""
    reads, writes = os.pipe()
    with open(reads) as reader, open(writes, "w") as writer:
        monkeypatch.setattr(sys, "stdout", writer)
        said = []

        def lines():
            for number in count():
                if number == 2:
                    said.append(reader.readline() + reader.readline())
                    reader.close()
                yield str(number)

        print_lines(lines())
        print_lines(["more"])
    assert said == ["0\n1\n"]


def test_a_run_goes_on_where_nobody_reads(monkeypatch):
    """As of `| head`, or of a terminal that is gone."""
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w") as writer:
        monkeypatch.setattr(sys, "stdout", writer)
        Distributed(torch.device("cpu"), alone=True).say("more")
