"""The benchmarks start, their figures are what they claim, and their output keeps its form."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxch5.util.libraries import variable

FOLDER = Path(__file__).parent.parent / "benchmarks"
# The scripts that a person starts, which take arguments; the other files are parts of them.
SCRIPTS = sorted(
    file.name
    for file in FOLDER.glob("*.py")
    if "parse_args" in file.read_text(encoding="utf-8") and file.name != "common.py"
)


@pytest.fixture(scope="module")
def common():
    """Provides the benchmarks' shared module, which is beside them and in no package."""
    sys.path.insert(0, str(FOLDER))
    import common

    yield common
    sys.path.remove(str(FOLDER))


def step(*arguments):
    """Runs the step benchmark with a tiny step in a process of its own, and returns its output."""
    tiny = ["--arch", "resnet18", "--size", "16", "--batch", "2", "--turns", "1", "--seconds", "0"]
    ended = subprocess.run(
        [sys.executable, FOLDER / "step.py", *tiny, *arguments, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(FOLDER.parent)},
    )
    return json.loads(ended.stdout)


def test_the_shared_functions_do_as_their_examples_say(common):
    import doctest

    result = doctest.testmod(common)
    assert result.attempted >= 8
    assert not result.failed


def test_a_side_has_its_turn_after_the_other(common):
    """The sides alternate, so a slow minute affects both; each side's first turn is not counted."""
    order = []

    def side(name):
        return lambda: order.append(name) or len(order)

    figures = common.in_turn({"ours": side("ours"), "peer": side("peer")}, turns=3, rest=0)
    assert order == ["ours", "peer"] * 4
    assert figures == {"ours": [3, 5, 7], "peer": [4, 6, 8]}


def test_a_ratio_is_of_turns_and_not_of_medians(common):
    """A slowdown that affects both sides in the same turn cancels out."""
    ours, peer = [10.0, 20.0, 90.0], [5.0, 40.0, 30.0]
    assert common.ratio(ours, peer) == {"median": 2.0, "low": 0.5, "high": 3.0}
    values = common.spread(ours)
    assert values == {"median": np.median(ours), "low": min(ours), "high": max(ours)}


def test_sides_that_do_different_work_are_not_compared(common):
    common.same("the work", {"steps": 3}, {"steps": 3})
    with pytest.raises(SystemExit, match="disagree on the work: ours 3, the peer's 4"):
        common.same("the work", 3, 4)


@pytest.mark.parametrize("script", ["collect.py", *SCRIPTS])
def test_each_takes_what_its_page_and_its_description_say(script):
    """docs/benchmarks.md has a command for each script, with arguments that the script accepts."""
    page = (FOLDER.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    text = (FOLDER / script).read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    commands = [line for line in page.splitlines() if f"benchmarks/{script}" in line]
    assert commands, f"docs/benchmarks.md does not name {script}"
    known = text + (FOLDER / "common.py").read_text(encoding="utf-8")
    known += (FOLDER / "ours_learner.py").read_text(encoding="utf-8")
    for command in commands:
        for word in command.split():
            if word.startswith("--"):
                assert f'"{word.strip("`")}"' in known, f"{script} takes no {word}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_says_what_it_takes(common, script, monkeypatch, capsys):
    """Each script can be imported and prints its help, where most faults would show."""
    monkeypatch.setattr("sys.argv", [script, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(script.removesuffix(".py")).main()
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {script}")
    if script != "photographs.py":
        assert "--json" in shown


def test_without_a_peer_a_benchmark_says_what_is_missing(common, monkeypatch):
    from peer import peer_python

    monkeypatch.delenv("JAXCH5_PEER_PYTHON", raising=False)
    assert peer_python() is None
    with pytest.raises(SystemExit, match="JAXCH5_PEER_PYTHON should name the interpreter"):
        peer_python(required=True)


def test_what_several_said_becomes_one_table(common, tmp_path):
    from collect import collect

    spread = {"median": 2.0, "low": 1.0, "high": 4.0}
    (tmp_path / "step.json").write_text(json.dumps({"ours": spread, "turns": 3}))
    (tmp_path / "broken.json").write_text("")
    collect(tmp_path)
    collect(tmp_path)
    table = (tmp_path / "results.md").read_text().splitlines()
    assert table[2:] == [
        "| broken | failed | see the log |",
        "| step | ours | 2.000 (1.000 to 4.000) |",
        "| step | turns | 3 |",
    ]
    assert json.loads((tmp_path / "results.json").read_text())["step"]["ours"] == spread


def test_photographs_are_a_set_of_their_own(common, tmp_path):
    from photographs import HEIGHT, WIDTH, write

    from jaxch5.data.image import decode
    from jaxch5.data.sources.folder import from_folder

    write(tmp_path, 20, classes=2)
    source = from_folder(tmp_path)
    assert source.classes == ("class_00", "class_01")
    assert len(source) == 20
    content = source.file(0).read_bytes()
    assert decode(content).shape == (HEIGHT, WIDTH, 3)
    assert 30_000 < len(content) < 120_000


@pytest.mark.slow
def test_the_step_takes_options_of_the_compiler_and_prints_one_document():
    """The benchmark runs only jaxch5's side, as in a sweep of compiler options."""
    options = ["--options", "xla_backend_optimization_level=1"]
    document = step("--alone", *options)
    assert document["ours"].keys() == {"median", "low", "high"}
    assert document["options"] == options[1:]


@pytest.mark.slow
@pytest.mark.skipif(not variable("JAXCH5_PEER_PYTHON"), reason="there is no peer")
def test_the_step_prints_both_sides_and_their_ratio():
    # With very few pixels, batch norm would magnify rounding errors until the losses disagree.
    document = step("--modes", "eager", "--size", "32", "--batch", "8")
    for name in ("ours", "peer", "ratio"):
        assert {"median", "low", "high"} <= document[name].keys()
    expected = document["ours"]["median"] / document["peer"]["median"]
    assert document["ratio"]["median"] == pytest.approx(expected)
