"""What the README tells people to type is understood by the scripts."""

import re
import shlex
from pathlib import Path

import pytest

from datasets import TASKS
from utils.flags import infer_parser
from utils.settings import parse

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^(?:.*&& )?python (train|infer)\.py (.+)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize(("script", "words"), COMMANDS, ids=lambda part: part[:40])
def test_a_command_of_the_readme_parses(script, words, monkeypatch, tmp_path):
    words = [
        str(ROOT / word) if word.startswith("datasets/") else word for word in shlex.split(words)
    ]
    monkeypatch.chdir(tmp_path)
    if "--resume" in words or any(word.endswith("leaves.json") for word in words):
        pytest.skip("names a file of the reader's")
    if script == "train":
        settings = parse(words)
        assert settings.tasks
        assert settings.out is None or settings.out.parts[0] == "runs"
    else:
        infer_parser(TASKS).parse_args(words)


def test_the_readme_has_the_recipes_and_the_two_commands():
    assert len(COMMANDS) >= 8
    assert "pip install -r requirements.txt && python train.py --task damage" in TEXT
    assert "pip install -r requirements.txt && pytest" in TEXT
