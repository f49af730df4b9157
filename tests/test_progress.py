"""Who cannot see a bar is told now and then; who does not watch any more ends nothing."""

import sys

from utils.run import progress
from utils.run.progress import Progress, line


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    told = Progress(4, 104, shown=True)
    for _ in range(50):
        now[0] += 2
        told.advance()
    told.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "step 19 of 104, 2 s/step, 02:50 left"
    assert [text.split(",")[0] for text in lines] == [
        f"step {step} of 104" for step in (19, 34, 49)
    ]


def test_only_one_of_several_ranks_tells(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0)
    silent = Progress(0, 9, shown=False)
    silent.advance()
    silent.write("a line")
    assert capsys.readouterr() == ("", "")


def test_rate_and_rest_in_words():
    assert line(40, 640, 0.05) == "step 40 of 640, 20 steps/s, 00:30 left"
    assert line(1, 3601, 1.5) == "step 1 of 3601, 1.5 s/step, 1:30:00 left"


def test_a_terminal_that_went_away_ends_nothing(monkeypatch):
    class Gone:
        def write(self, text):
            raise OSError(5, "Input/output error")

        def flush(self):
            raise OSError(5, "Input/output error")

        def isatty(self):
            return False

    told = Progress(0, 9, shown=True)
    monkeypatch.setattr(sys, "stdout", Gone())
    told.write("a line")
