"""Readers of every kind of file refuse changed ones in a line: some of each, the same every time.

`python tests/fuzz.py TARGET --seconds 600` looks for longer.
"""

import pytest
from fuzz import fuzz
from fuzz_targets import TARGETS


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of Pillow, as it reads what is broken
@pytest.mark.filterwarnings("ignore:Duplicate name")  # some shards have them
@pytest.mark.filterwarnings("ignore:torch.quantize")  # one of the tensors that are refused
@pytest.mark.parametrize("name", TARGETS)
def test_changed_files_are_refused_in_a_line(name, tmp_path):
    count, findings = fuzz(TARGETS[name], tmp_path, seed=0, seconds=60, most=40)
    assert count == 40
    assert [finding.what for finding in findings] == []
