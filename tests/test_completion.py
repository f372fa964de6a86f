"""`jaxch5 completion SHELL`: what the Tab key offers, asked of the shell itself."""

import shutil
import subprocess

import pytest

from jaxch5.__main__ import commands
from jaxch5.cli import run
from jaxch5.completion import CompletionOptions, completion

LINES = {
    "jaxch5 tr": "train transfer_profile",
    "jaxch5 ": " ".join(commands()),
    "jaxch5 train --data.sp": "--data.split --data.split-column --data.split-seed",
    "jaxch5 train --data.split ": "auto random given",
    "jaxch5 train --model.arch convnext_n": "convnext_nano",
    "jaxch5 lr-find --num": "--num-it",
    # A setting that it does not read, and a place, for which the shell offers files.
    "jaxch5 predict --fit": "",
    "jaxch5 predict runs": "",
}
ASK = 'ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _jaxch5; echo "${COMPREPLY[*]}"; }\n'


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_commands_options_and_values_are_completed(shell, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    assert run(completion, CompletionOptions, "jaxch5 completion", [shell]) == 0
    script = capsys.readouterr().out + "emulate ksh\n" * (shell == "zsh") + ASK
    for line in LINES:
        *words, last = line.split(" ")
        script += f"ask {' '.join(words)} '{last}'\n"
    ended = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True)
    assert dict(zip(LINES, ended.stdout.splitlines(), strict=True)) == LINES
