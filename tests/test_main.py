"""The package itself, called: it says which commands there are."""

import subprocess
import sys
from pathlib import Path

import pytest


def called(*arguments):
    command = [sys.executable, "-m", "jaxch5", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_commands_are_listed_with_what_they_do():
    """Where one would guess to find them."""
    ended = called()
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("python -m jaxch5.") == 12
    assert "python -m jaxch5.evaluate RUN\n    how good a trained classifier is" in ended.stdout


def test_a_command_after_a_space_is_bad_usage():
    ended = called("train")
    assert ended.returncode == 2
    assert "python -m jaxch5.train\n" in ended.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_cannot_be_printed_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "jaxch5"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "python -m jaxch5: No space left on device\n"
