"""`jaxch5 completion SHELL` makes the Tab key offer the right words, as the shells confirm."""

import os
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
    "jaxch5 train --model.head ": "linear concat_pool mean_pool",
    "jaxch5 train --model.arch convnext_n": "convnext_nano",
    "jaxch5 lr-find --num": "--num-it",
    # `predict` reads no fit setting; for a path, the shell itself offers files.
    "jaxch5 predict --fit": "",
    "jaxch5 predict runs": "",
}
ASK = 'ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _jaxch5; echo "${COMPREPLY[*]}"; }\n'


def test_commands_options_and_values_are_completed(capsys):
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    assert run(completion, CompletionOptions, "jaxch5 completion", ["bash"]) == 0
    script = capsys.readouterr().out + ASK
    for line in LINES:
        *words, last = line.split(" ")
        script += f"ask {' '.join(words)} '{last}'\n"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert dict(zip(LINES, ended.stdout.splitlines(), strict=True)) == LINES


def test_zsh_completes_what_is_typed(capsys, tmp_path):
    """zsh picks the matching words itself, after the script ends, so the test uses a terminal."""
    pexpect = pytest.importorskip("pexpect")
    if shutil.which("zsh") is None:
        pytest.skip("needs zsh")
    assert run(completion, CompletionOptions, "jaxch5 completion", ["zsh"]) == 0
    (tmp_path / ".zshrc").write_text(f"PS1='> '\n{capsys.readouterr().out}")
    (tmp_path / "photographs").mkdir()
    home = {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "TERM": "dumb"}
    shell = pexpect.spawn(
        "zsh", ["-i"], env=os.environ | home, cwd=tmp_path, encoding="utf-8", timeout=60
    )
    try:
        shell.expect_exact("> ")
        for typed, completed in (
            ("jaxch5 sus\t", "jaxch5 suspects "),
            ("\x15jaxch5 train --data.sp\t", "jaxch5 train --data.split"),
            ("\x15jaxch5 train --model.arch convnext_n\t", "--model.arch convnext_nano "),
            ("\x15jaxch5 train photog\t", "jaxch5 train photographs"),
        ):
            shell.send(typed)
            shell.expect_exact(completed)
    finally:
        shell.close(force=True)
