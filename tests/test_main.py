"""The command `jaxch5` starts the other commands, and lists them."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from jaxch5.__main__ import WORKFLOW, commands, main

ROOT = Path(__file__).parent.parent
# Modules that a command line starts.
STARTED = {
    file.stem
    for file in (ROOT / "jaxch5").glob("[a-z]*.py")
    if "\ndef main() -> int:" in file.read_text("utf-8")
}


def called(*arguments):
    command = [sys.executable, "-m", "jaxch5", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_commands_are_listed_in_the_order_of_the_work():
    """Both `jaxch5` and `jaxch5 --help` list all commands, in lines of at most 80 characters."""
    ended = called()
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == called("--help").stdout
    lines = ended.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed[:4] == ["verify", "show", "lr_find", "train"]
    assert listed == list(WORKFLOW)
    assert set(listed) == STARTED


def test_the_order_of_the_work_comes_first(monkeypatch):
    """A command that is missing from the order is listed too, after the others."""
    monkeypatch.setattr("jaxch5.__main__.WORKFLOW", ("train", "show", "no_command"))
    first, second, *others = commands()
    assert [first, second] == ["train", "show"]
    assert set(others) == STARTED - {"train", "show"}


@pytest.mark.parametrize("name", sorted(STARTED | {"lr-find", "transfer-profile"}))
def test_a_command_is_started_by_its_name(name, monkeypatch, capsys):
    """A command can be started by its module's name, written with an underscore or a dash."""
    monkeypatch.setattr(sys, "argv", ["jaxch5", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    module = name.replace("-", "_")
    assert capsys.readouterr().out.startswith(f"usage: jaxch5 {module} ")


def test_a_command_gets_the_arguments_that_follow_its_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxch5", "lr-find", "--print-config", "--seed", "7"])
    assert main() == 0
    assert "seed = 7\n" in capsys.readouterr().out


def test_an_unknown_command_is_one_line_that_names_the_nearest(monkeypatch, capsys):
    for word, line in (
        ("trian", "jaxch5: trian: no such command; did you mean jaxch5 train?\n"),
        ("--nonsense", "jaxch5: --nonsense: no such command; jaxch5 lists all commands\n"),
    ):
        monkeypatch.setattr(sys, "argv", ["jaxch5", word])
        assert main() == 2
        assert capsys.readouterr().err == line


def test_what_is_installed_is_this_command():
    """The installed `jaxch5` calls the same function as `python -m jaxch5`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert EntryPoint("jaxch5", project["scripts"]["jaxch5"], "").load() is main


def test_a_setting_may_name_a_module_in_the_current_folder(tmp_path):
    """A setting can name a module in the current folder, even if `sys.path` lacks this folder.

    `-P` leaves the folder out, as it is when an installed script starts.
    """
    (tmp_path / "mine.py").write_text("import math\n", encoding="utf-8")
    start = "import sys; from jaxch5.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", start, "train", "--fit.loss", "mine:loss"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.stderr == "jaxch5 train: fit.loss = mine:loss: mine has no loss\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_cannot_be_printed_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "jaxch5"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "jaxch5: No space left on device\n"
