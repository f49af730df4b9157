"""What the README tells people to type is understood by the scripts."""

import re
import shlex
from pathlib import Path

import pytest

from datasets import TASKS
from utils.infer_flags import infer_parser
from utils.settings import parse

ROOT = Path(__file__).parents[1]
FRONT = (ROOT / "README.md").read_text()
PAGES = [
    FRONT,
    *((ROOT / room / "README.md").read_text() for room in ("datasets", "models", "utils")),
]
TEXT = "\n".join(PAGES)
COMMANDS = re.findall(r"^(?:.*&& )?python (train|infer)\.py (.+)$", TEXT, re.MULTILINE)


@pytest.mark.parametrize(("script", "words"), COMMANDS, ids=lambda part: part[:40])
def test_a_command_of_the_readme_parses(script, words, monkeypatch, tmp_path):
    words = [
        str(ROOT / word) if word.startswith("datasets/") else word for word in shlex.split(words)
    ]
    monkeypatch.chdir(tmp_path)
    theirs = ("leaves.json", "composites/task.json")
    if "--resume" in words or any(word.endswith(theirs) for word in words):
        pytest.skip("names a file of the reader's")
    if script == "train":
        settings = parse(words)
        assert settings.tasks
        assert settings.out is None or settings.out.parts[0] == "runs"
    else:
        infer_parser(TASKS).parse_args(words)


def test_the_pages_have_the_recipes_and_the_two_commands():
    assert len(COMMANDS) >= 8
    assert "pip install -r requirements.txt && python train.py --task damage" in FRONT
    assert "pip install -r requirements.txt && pytest" in FRONT


def test_the_front_page_is_short():
    assert len(FRONT.splitlines()) <= 150
    assert len(FRONT.split()) <= 1300
    prose = re.sub(r"```.*?```|^\|.*$|^#.*$|^!.*$|^- ", "", FRONT, flags=re.DOTALL | re.MULTILINE)
    sentences = re.split(r"(?<=[.:?])\s+|\n\n", prose)
    assert max(len(sentence.split()) for sentence in sentences) <= 20


def test_what_the_pages_name_is_there():
    """Files and folders in backquotes that look like paths of the repository, and links."""
    for page, folder in zip(PAGES, ("", "datasets", "models", "utils"), strict=True):
        named = re.findall(r"`((?:datasets|models|losses|utils|tests)/[\w./]*)`", page)
        named += [link for link in re.findall(r"\]\((\w[\w./]*)\)", page) if "://" not in link]
        for name in named:
            assert (ROOT / name).exists() or (ROOT / folder / name).exists(), name
