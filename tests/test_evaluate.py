"""`python -m jaxch5.evaluate RUN`: the run's own numbers, and those of other pictures."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxch5.cli import run as run_command
from jaxch5.data.table import from_csv
from jaxch5.evaluate import EvaluateOptions, evaluate, unused
from jaxch5.predictor import load_learner


def evaluated(capsys, *argv):
    argv = [str(argument) for argument in argv]
    status = run_command(evaluate, EvaluateOptions, "python -m jaxch5.evaluate", argv)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_it_is_the_runs_last_validation(trained, tmp_path, capsys):
    """Its accuracy, its confusions, three figures and a list of labels to look at."""
    path, learn = trained
    status, out, err = evaluated(capsys, path, "--out", tmp_path / "seen", "--json")
    assert status == 0, err
    document = json.loads(out)
    assert document["pictures"] == 8
    assert document["accuracy"] == pytest.approx(learn.records[-1]["accuracy"])
    matrix = learn.interpret().confusion_matrix()
    assert document["confusion_matrix"] == matrix.tolist()
    assert document["classes"] == ["blue", "red"]
    for name in ("confusion_matrix", "top_losses", "calibration"):
        assert Image.open(tmp_path / "seen" / f"{name}.png").size[0] > 200
    assert (tmp_path / "seen" / "suspects.csv").read_text().startswith("image,label,prediction,")
    assert "precision" in err
    assert "accuracy" in err


def test_the_report_fits_a_narrow_terminal(trained, tmp_path, capsys, monkeypatch):
    # The one makes rich take what pytest captures for a terminal, the other says how wide it is.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    status, out, err = evaluated(capsys, trained[0], "--out", tmp_path / "seen")
    assert status == 0, err
    head, first, *_ = out.splitlines()
    assert head.endswith("f1")
    assert len(first) == len(head) <= 40


def test_other_pictures_are_all_evaluated_by_the_names_of_their_classes(
    trained, pictures, tmp_path, capsys
):
    """A folder with its own order and number of classes: red alone would be class 0."""
    path, _ = trained
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    status, out, err = evaluated(
        capsys, path, "--data.path", other, "--json", "--out", tmp_path / "out"
    )
    assert status == 0, err
    document = json.loads(out)
    assert document["pictures"] == 40
    names = sorted(str(file) for file in (other / "red").glob("*.jpg"))
    predictions = list(load_learner(path).predict_many(names))
    right = sum(prediction.label == "red" for prediction in predictions)
    assert document["confusion_matrix"][1][1] == right

    (other / "red").rename(other / "green")
    status, _, err = evaluated(capsys, path, "--data.path", other, "--out", tmp_path / "none")
    assert status == 2
    assert "class green is none that the run knows (blue, red)" in err
    assert not (tmp_path / "none").exists()


def test_suspects_can_be_mended_and_trained_on(trained, pictures, tmp_path, capsys):
    """Every label is made wrong; the list of them is a source of the same files."""
    _, learn = trained
    interp = learn.interpret()
    wrong = type(interp)(
        1 - interp.predictions, interp.probabilities, interp.classes, interp.references
    )
    file = tmp_path / "suspects.csv"
    count = wrong.write_suspects(file, min_loss=0.0, min_probability=0.0)
    assert count == 8
    source = from_csv(file)
    assert len(source) == 8
    assert source.file(0).is_file()


def test_a_list_that_is_there_is_never_overwritten(tmp_path):
    assert unused(tmp_path / "a.csv") == tmp_path / "a.csv"
    (tmp_path / "a.csv").touch()
    assert unused(tmp_path / "a.csv") == tmp_path / "a-2.csv"


def test_what_is_no_run_is_named(tmp_path, capsys):
    status, _, err = evaluated(capsys, tmp_path)
    assert status == 2
    assert "is no run directory" in err


def test_the_learner_shows_its_results_and_predicts(trained, pictures, tmp_path):
    path, learn = trained
    figure = learn.show_results(2, 2)
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 4
    assert all(set(title.split(" / ")) <= {"blue", "red"} for title in titles)
    file = pictures / "red" / "3.jpg"
    mine, loaded = learn.predict(file), load_learner(path).predict(file)
    np.testing.assert_allclose(mine.probabilities, loaded.probabilities, atol=1e-6)
    learn.save(tmp_path / "learner.safetensors")
    again = load_learner(tmp_path / "learner.safetensors").predict(file)
    np.testing.assert_allclose(again.probabilities, mine.probabilities, atol=1e-6)
