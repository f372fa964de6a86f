"""The command `jaxch5 lr_find` suggests rates, draws them, and names mistakes in its options."""

import json

import pytest
from PIL import Image

from jaxch5.cli import run
from jaxch5.errors import TrainingError
from jaxch5.learner import Learner
from jaxch5.lr_find import LrFindOptions, lr_find

SMALL = ["--data.presize", "24", "--data.size", "16", "--data.batch-size", "8", "--num-it", "24"]
SMALL += ["--model.weights", "none"]


def started(*argv):
    return run(lr_find, LrFindOptions, "jaxch5 lr_find", list(argv))


def test_it_suggests_and_draws(pictures, tmp_path, capsys):
    out = tmp_path / "lr.png"
    argv = ["--data.path", str(pictures), *SMALL, "--out", str(out), "--json", "--repeats", "2"]
    assert started(*argv) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    names = {"valley", "slide", "minimum", "steep", "last_decrease"}
    assert [set(rates) for rates in document["suggested"]] == [names, names]
    assert all(1e-8 <= rate <= 10 for rates in document["suggested"] for rate in rates.values())
    assert " to " in captured.err
    (line,) = [line for line in captured.err.splitlines() if "recommended" in line]
    assert line.startswith("valley")
    assert line.endswith(f"--fit.lr {document['recommended']:.1e}")
    assert Image.open(out).size[0] > 400


def test_a_sweep_without_a_suggestion_leaves_the_others(pictures, tmp_path, capsys, monkeypatch):
    """Only if no sweep gives a rate does the command end with an error."""
    argv = ["--data.path", str(pictures), *SMALL, "--out", str(tmp_path / "lr.png"), "--json"]
    sweep, failing = Learner.lr_find, [True, False, True]

    def failing_at_first(*arguments):
        if failing.pop(0):
            raise TrainingError("the loss never fell")
        return sweep(*arguments)

    monkeypatch.setattr(Learner, "lr_find", failing_at_first)
    assert started(*argv, "--repeats", "2") == 0
    captured = capsys.readouterr()
    assert "sweep 1 of 2 is left out: the loss never fell" in captured.err
    assert len(json.loads(captured.out)["suggested"]) == 1
    assert started(*argv) == 1
    assert capsys.readouterr().err.endswith("lr_find: the loss never fell\n")


@pytest.mark.parametrize("schedule", ["one_cycle", "fine_tune"])
def test_every_sweep_trains_the_layers_that_training_begins_with(
    trained, pictures, monkeypatch, schedule
):
    """With pretrained weights, a learner is made with all layers frozen but the head."""
    frozen = []

    def sweep(learn, *arguments):
        frozen.append(learn._frozen.frozen_to)
        raise TrainingError("the loss never fell")

    monkeypatch.setattr(Learner, "lr_find", sweep)
    argv = ["--data.path", str(pictures), *SMALL, "--model.weights", str(trained[0])]
    assert started(*argv, "--fit.schedule", schedule, "--repeats", "3") == 1
    assert frozen == [0 if schedule == "one_cycle" else 2] * 3


def test_a_wrong_folder_is_named_before_weights_are_looked_for(tmp_path, capsys):
    assert started("--data.path", str(tmp_path / "nowhere")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "nowhere: there is no such folder (--data.path)" in line


def test_rates_that_do_not_rise_are_named_before_any_work(capsys):
    assert started("--start-lr", "1", "--end-lr", "0.1") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_seed_beyond_the_greatest_is_named_before_any_work(capsys):
    assert started("--seed", str(2**32 - 2), "--repeats", "3") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "seed + repeats - 1 = 4294967296: should be a whole number from 0 to" in line
