"""`jaxch5 suspects` judges all labels of a set out of fold, and writes the suspicious ones."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxch5.cli import parse
from jaxch5.cli import run as run_command
from jaxch5.config.building import load_source
from jaxch5.configured import judge_by_training
from jaxch5.data.sources.table import from_csv
from jaxch5.suspects import SuspectsOptions, suspects

SMALL = ("--data.presize", 36, "--data.size", 32, "--data.batch-size", 8)


def judged(capsys, *argv):
    argv = [str(argument) for argument in argv]
    status = run_command(suspects, SuspectsOptions, "jaxch5 suspects", argv)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def mislabelled(pictures, tmp_path):
    """A table of the pictures in which three of the red ones are labelled blue."""
    rows = ["image,label"]
    for name in ("blue", "red"):
        for number in range(20):
            label = "blue" if name == "red" and number < 3 else name
            rows.append(f"{pictures / name / f'{number}.jpg'},{label}")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def test_wrong_labels_are_found_in_all_of_a_set(mislabelled, pictures, trained, tmp_path, capsys):
    """The features of another network find wrong labels in the entire set before any run.

    The table that is written can be read as a set.
    """
    argv = ("--data.path", mislabelled, "--model.weights", trained[0], *SMALL)
    status, out, err = judged(capsys, *argv, "--out", tmp_path / "out", "--json")
    assert status == 0, err
    document = json.loads((tmp_path / "out" / "suspects.json").read_text())
    said = json.loads(out)
    assert said.pop("out") == str(tmp_path / "out")
    assert said == document
    assert (document["format"], document["by"], document["run"]) == (1, "features", None)
    assert document["classes"] == ["blue", "red"]
    assert document["judged"] == 40
    found = document["suspects"]
    assert {one["image"] for one in found[:3]} == {
        str(pictures / "red" / f"{number}.jpg") for number in range(3)
    }
    assert [one["doubt"] for one in found] == sorted((one["doubt"] for one in found), reverse=True)
    for one in found[:3]:
        assert (one["label"], one["prediction"]) == ("blue", "red")
        assert one["probability"] > 0.5 > one["label_probability"]
        assert one["loss"] == pytest.approx(-np.log(one["label_probability"]))
        assert one["part"] in ("train", "valid")
        assert len(one["nearest"]["label"]) == len(one["nearest"]["prediction"]) == 3
        assert one["image"] not in one["nearest"]["label"]
    assert found[0]["likely_wrong"]
    assert sum(one["likely_wrong"] for one in found) <= document["wrong"] < 8
    assert f"next  jaxch5 clean {tmp_path / 'out'}" in err

    table = from_csv(tmp_path / "out" / "suspects.csv")
    assert len(table) == len(found)
    assert [table.classes[label] for label in table.labels] == [one["label"] for one in found]
    status, _, _ = judged(capsys, *argv, "--out", tmp_path / "out")
    assert status == 0
    # The first table is not replaced, because a person may have corrected labels in it.
    assert (tmp_path / "out" / "suspects-2.csv").exists()


def test_a_run_has_its_own_pictures_judged_by_its_own_network(trained, pictures, tmp_path, capsys):
    """A run's recorded pictures, training and validation, are judged even if they have moved.

    A warning says that the run's network was trained on the labels that it judges.
    """
    path, learn = trained
    moved = shutil.copytree(pictures, tmp_path / "moved")
    (moved / "red" / "3.jpg").unlink()
    shutil.copy(moved / "red" / "4.jpg", moved / "red" / "new.jpg")
    argv = (path, "--data.path", moved, "--out", tmp_path / "out", "--json")
    status, out, err = judged(capsys, *argv)
    assert status == 0, err
    assert "left out: 1 of the run's 40 pictures, which could not be found" in err
    assert "left out: 1 picture that the run has no record of" in err
    assert f"{path} was trained on labels that it now judges" in err
    assert f"next  jaxch5 clean {tmp_path / 'out'} --data.path {moved}" in err
    document = json.loads(out)
    assert document["judged"] == 39
    assert document["run"] == str(path)
    valid = {learn.data.source.references[item] for item in learn.data.valid.items}
    for one in document["suspects"]:
        reference = os.path.relpath(one["image"], moved)
        assert one["part"] == ("valid" if reference in valid else "train")


def test_a_home_that_the_shell_left_is_that_of_the_run(
    trained, pictures, tmp_path, capsys, monkeypatch
):
    """The pictures of the run's record are judged, not those that its folder has by now."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(trained[0], tmp_path / "run")
    moved = shutil.copytree(pictures, tmp_path / "moved")
    shutil.copy(moved / "red" / "4.jpg", moved / "red" / "new.jpg")
    status, out, err = judged(capsys, "~/run", "--data.path=~/moved", "--out=~/found", "--json")
    assert status == 0, err
    assert json.loads(out)["judged"] == 40
    assert "left out: 1 picture that the run has no record of" in err
    assert (tmp_path / "found" / "suspects.json").is_file()


def test_the_next_command_names_every_place_that_was_given(trained, pictures, tmp_path, capsys):
    """A run on a table has its pictures below a folder, and both may have moved."""
    run = shutil.copytree(trained[0], tmp_path / "run")
    table, moved = tmp_path / "labels.csv", shutil.copytree(pictures, tmp_path / "moved")
    names = [path.relative_to(moved) for path in sorted(moved.rglob("*.jpg"))]
    table.write_text("\n".join(["image,label", *(f"{name},{name.parent}" for name in names)]))
    config = (run / "config.toml").read_text()
    places = f'path = "/gone/labels.csv"\nroot = "{pictures}"'
    (run / "config.toml").write_text(config.replace(f'path = "{pictures}"', places))
    places = ("--data.path", table, "--data.root", moved)
    status, out, err = judged(capsys, run, *places)
    assert status == 0, err
    assert f"next  jaxch5 clean {run} --data.path {table} --data.root {moved}\n" in out


def test_copies_are_said_and_what_cannot_be_read_is_left_out_if_asked(
    pictures, trained, tmp_path, capsys
):
    folder = shutil.copytree(pictures, tmp_path / "set")
    shutil.copy(folder / "red" / "4.jpg", folder / "blue" / "copy.jpg")
    (folder / "red" / "broken.jpg").write_bytes(b"no picture")
    argv = ("--data.path", folder, "--model.weights", trained[0], *SMALL, "--out", tmp_path / "o")
    status, _, err = judged(capsys, *argv)
    assert status == 1
    assert "broken.jpg" in err
    assert "--data.on-bad skip" in err
    status, out, err = judged(capsys, *argv, "--data.on-bad", "skip", "--json")
    assert status == 0, err
    assert "1 picture cannot be read and is left out" in err
    document = json.loads(out)
    assert document["judged"] == 41
    (group,) = [one for one in document["near_duplicates"] if one["kind"] == "conflicts"]
    assert {os.path.relpath(image, folder) for image in group["images"]} == {
        "blue/copy.jpg",
        "red/4.jpg",
    }
    assert sorted(group["labels"]) == ["blue", "red"]


def test_a_class_of_one_picture_is_not_judged_and_this_is_said(pictures, trained, tmp_path, capsys):
    """Random splits refuse a class of one picture, but the labels of other classes are judged."""
    folder = shutil.copytree(pictures, tmp_path / "set")
    (folder / "green").mkdir()
    Image.new("RGB", (40, 40), "green").save(folder / "green" / "one.png")
    argv = ("--data.path", folder, "--model.weights", trained[0], *SMALL, "--out", tmp_path / "o")
    status, out, err = judged(capsys, *argv, "--json")
    assert status == 0, err
    assert "not split, so all count as training pictures: class green has 1 picture" in err
    assert "1 of the labels cannot be judged: no other fold has pictures of green to compare" in err
    assert json.loads(out)["judged"] == 40


def test_names_are_what_they_are(pictures, trained, tmp_path, capsys):
    """Names with HTML, commas, quotes, line breaks or bytes that are not text stay as they are."""
    folder = tmp_path / "set"
    names = [b"a,b\"c'.jpg", b"<b>&.jpg", b"line\nbreak.jpg", b"\xff\xfe.jpg"]
    for label, other in (("red", "blue<i>"), ("blue", "red, or not")):
        (folder / other).mkdir(parents=True)
        for number, name in enumerate(names):
            # Some pictures are in the wrong class, so that there are suspects to list.
            source = label if number % 2 else "blue"
            shutil.copy(
                pictures / source / f"{number}.jpg", os.fsencode(folder / other) + b"/" + name
            )
    argv = ("--data.path", folder, "--model.weights", trained[0], *SMALL, "--folds", 2)
    argv += ("--data.batch-size", 4, "--out", tmp_path / "o", "--json")
    status, out, err = judged(capsys, *argv)
    assert status == 0, err
    document = json.loads(out)
    assert document["suspects"]
    assert all(os.path.isfile(one["image"]) for one in document["suspects"])
    table = from_csv(tmp_path / "o" / "suspects.csv")
    assert [os.path.abspath(table.file(item)) for item in range(len(table))] == [
        one["image"] for one in document["suspects"]
    ]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("--model.weights", "none"), "model.weights = none: features need a trained network"),
        (("--fit.epochs", 3), "fit.epochs: only works with --by training; leave it out"),
        (("--log", "tensorboard"), "log: jaxch5 suspects does not use it"),
        (("--by", "training", "--checkpoint.every-steps", 5), "checkpoint.every_steps: jaxch5 su"),
        (("--folds", 1), "folds"),
        (("RUN", "--data.size", 24), "data.size: a run is judged with"),
        (("RUN", "--by", "training", "--fit.epochs", 3), "fit.epochs: a run is judged"),
        (("RUN", "--config", "digits"), "--config: cannot be combined with a run"),
        (("RUN", "--data.path", "EMPTY"), "EMPTY"),
        (("no run",), "no run: there is no such run; to list the runs"),
    ],
)
def test_what_would_do_nothing_is_refused(argv, line, trained, pictures, tmp_path, capsys):
    (tmp_path / "EMPTY").mkdir()
    given = {"RUN": trained[0], "EMPTY": tmp_path / "EMPTY"}
    if "RUN" not in argv and argv != ("no run",):
        argv = ("--data.path", pictures, *argv)
    status, _, err = judged(capsys, *(given.get(word, word) for word in argv))
    assert status in (1, 2)
    assert line in err
    assert not (trained[0] / "suspects.json").exists()


def test_the_digits_are_judged_and_are_no_files(tmp_path, capsys):
    """The digits are judged, but as they are not files, no table to correct is written.

    The network is only a head, whose features are the pixels.
    """
    status, out, err = judged(
        capsys, "--by", "training", "--folds", 2, "--fit.epochs", 1, "--out", tmp_path, "--json",
        "--model.arch", "tests.test_suspects:PIXELS",
    )  # fmt: skip
    assert status == 0, err
    document = json.loads(out)
    assert document["judged"] == 1797
    assert document["suspects"][0]["image"].startswith("image 0")
    assert "these pictures are not files" in err
    assert "jaxch5 clean" not in err
    assert not (tmp_path / "suspects.csv").exists()


def pixels(num_classes):
    import flax.linen as nn

    class Pixels(nn.Module):
        num_classes: int

        @nn.compact
        def __call__(self, x, train):
            x = x[:, ::8, ::8].reshape(len(x), -1)
            return nn.Dense(self.num_classes, name="head")(x)

    return Pixels(num_classes)


def __getattr__(name):
    from jaxch5.models.spec import ModelSpec

    if name == "PIXELS":
        return ModelSpec("pixels", pixels)
    raise AttributeError(name)


def test_a_training_judges_the_labels_too(mislabelled, pictures, tmp_path, capsys):
    """With `--by training`, wrong labels are found by networks trained from scratch.

    This also works for a task with sigmoids; a network that knows only pixels suffices here.
    """
    status, out, err = judged(
        capsys, "--data.path", mislabelled, *SMALL, "--by", "training", "--folds", 4,
        "--model.weights", "none", "--model.task", "sigmoid", "--fit.epochs", 40, "--fit.lr", 0.05,
        "--model.arch", "tests.test_suspects:PIXELS", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert status == 0, err
    document = json.loads(out)
    assert document["by"] == "training"
    found = document["suspects"]
    assert {f"{pictures}/red/{number}.jpg" for number in range(3)} == {
        one["image"] for one in found[:3]
    }
    assert all("nearest" not in one for one in found)
    assert not (tmp_path / "out" / "folds").exists()


def test_a_run_and_a_configuration_of_ones_own_are_not_written_over(
    pictures, trained, tmp_path, capsys
):
    """Without a run, the results have settings too; only those of an earlier call are replaced."""
    run, mine = shutil.copytree(trained[0], tmp_path / "run"), tmp_path / "mine"
    mine.mkdir()
    (mine / "config.toml").write_text("seed = 3  # mine")
    argv = ("--data.path", pictures, "--model.weights", trained[0], *SMALL, "--out")
    for folder in (run, mine):
        (folder / "suspects.json").unlink(missing_ok=True)
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        status, _, err = judged(capsys, *argv, folder)
        assert status == 2
        assert f"out = {folder}: has a config.toml, but is not a folder of suspects" in err
        assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert judged(capsys, run)[0] == 0
    assert judged(capsys, *argv, run)[0] == 2
    for _ in range(2):
        status, _, err = judged(capsys, *argv, tmp_path / "out")
        assert status == 0, err


@pytest.mark.parametrize("by", ["features", "training"])
def test_a_folder_of_ones_own_named_folds_stays(by, pictures, trained, tmp_path, capsys):
    """Only the results of the folds are removed, whatever else is in the folder of that name."""
    mine = tmp_path / "folds" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    how = ("--model.weights", trained[0])
    if by == "training":
        how = ("--model.weights", "none", "--model.arch", "tests.test_suspects:PIXELS")
        how += ("--folds", 2, "--fit.epochs", 1)
    argv = ("--data.path", pictures, *SMALL, "--by", by, *how, "--out", tmp_path)
    status, _, err = judged(capsys, *argv)
    assert status == 0, err
    assert list(mine.parent.iterdir()) == [mine]


def test_a_batch_size_that_nobody_chose_fits_the_training_set_of_each_fold(pictures, tmp_path):
    """This holds whichever fold comes first; one leaves 20 pictures for training, the other 30."""
    own = "--model.arch", "tests.test_suspects:PIXELS", "--model.weights", "none"
    words = ("--data.path", str(pictures), *map(str, SMALL[:4]), *own, "--fit.epochs", "1")
    config = parse(SuspectsOptions, [*words, "--by", "training"], "suspects").settings()
    source = load_source(config.data)
    folds = np.where(np.arange(len(source)) % 4 == 1, 1, 0)
    folds = np.where(np.arange(len(source)) % 4 == 3, -1, folds)
    for order in (folds, np.where(folds >= 0, 1 - folds, -1)):
        console = Console(file=io.StringIO())
        found, _ = judge_by_training(config, source, order, tmp_path, console)
        np.testing.assert_allclose(found.sum(axis=1), order >= 0, atol=1e-5)


@pytest.mark.slow
def test_an_interrupted_training_goes_on(pictures, tmp_path):
    """An interrupted `--by training` keeps the folds that are done when it is repeated.

    It then writes the same document as one that was not interrupted.
    """
    command = [
        sys.executable, "-m", "jaxch5.suspects", "--data.path", pictures, *map(str, SMALL), "--by",
        "training", "--folds", "3", "--model.weights", "none", "--fit.epochs", "2", "--model.arch",
        "tests.test_suspects:PIXELS",
    ]  # fmt: skip
    out, other = tmp_path / "out", tmp_path / "other"
    process = subprocess.Popen([*command, "--out", out], stderr=subprocess.PIPE, text=True)
    while not list(out.glob("folds/*/0.npy")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert f"to resume, repeat the command with --out {out}" in err
    assert not (out / "suspects.json").exists()
    folder = next(out.glob("folds/*"))
    ended = subprocess.run([*command, "--out", out], capture_output=True, text=True, check=True)
    assert ended.stdout.count("epoch  train_loss") < 3
    assert not folder.exists()
    subprocess.run([*command, "--out", other], capture_output=True, check=True)
    assert (out / "suspects.json").read_bytes() == (other / "suspects.json").read_bytes()
