"""`jaxch5 evaluate RUN` reproduces the run's own scores, and scores other pictures."""

import csv
import io
import json
import shutil
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jaxch5.cli import parse
from jaxch5.cli import run as run_command
from jaxch5.config.building import load_data
from jaxch5.config.settings import Config, from_toml
from jaxch5.config.toml import flat, to_toml
from jaxch5.config.uses import USES
from jaxch5.data.packing import pack
from jaxch5.data.source import read_pixels
from jaxch5.data.sources.folder import from_folder
from jaxch5.data.sources.table import from_csv
from jaxch5.errors import DataError
from jaxch5.evaluate import MORE, EvaluateOptions, chosen, evaluate
from jaxch5.learner import vision_learner
from jaxch5.results.predictor import BATCH, Predictor, load_learner
from jaxch5.run.directory import create_run
from jaxch5.run.pictures import record_pictures
from jaxch5.task import OF_COMMANDS, task_of
from jaxch5.util.files import sha256_of


def evaluated(capsys, *argv):
    argv = [str(argument) for argument in argv]
    status = run_command(evaluate, EvaluateOptions, "jaxch5 evaluate", argv)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_it_is_the_runs_last_validation(trained, tmp_path, capsys):
    """`evaluate` gives the accuracy and the confusion matrix of the run's last validation.

    It also draws three figures and writes a list of labels that may be wrong.
    """
    path, learn = trained
    status, out, err = evaluated(capsys, path, "--out", tmp_path / "seen", "--json")
    assert status == 0, err
    document = json.loads(out)
    # `OF_COMMANDS` lists the fields that are not metrics, so that no metric takes their names.
    assert set(document) - set(task_of("softmax").scores(MORE)) <= set(OF_COMMANDS)
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


def test_a_home_that_the_shell_left_is_that_of_the_run(trained, tmp_path, capsys, monkeypatch):
    """The run's record of its pictures is read, and the figures are not in a folder named `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained[0], tmp_path / "run")
    status, out, err = evaluated(capsys, "~/run", "--json", "--out=~/seen")
    assert status == 0, err
    assert json.loads(out)["scored"]["part"] == "validated"
    assert (tmp_path / "seen" / "calibration.png").is_file()
    assert not (tmp_path / "~").exists()


def test_a_runs_own_metrics_are_printed_or_said_to_be_left_out(
    trained, tmp_path, capsys, monkeypatch
):
    """A metric does not replace another number of its name, and is kept even if it is trivial."""
    path, learn = trained
    run = shutil.copytree(path, tmp_path / "run")
    (tmp_path / "mine_of_evaluate.py").write_text("def calibration_error(*_): return 0.125")
    monkeypatch.syspath_prepend(tmp_path)
    metrics = ("mine_of_evaluate:calibration_error", "top_5")
    config = from_toml(run / "config.toml").model_copy(update={"fit": {"metrics": metrics}})
    (run / "config.toml").write_text(to_toml(config))
    status, out, err = evaluated(capsys, run, "--json")
    assert status == 0, err
    document = json.loads(out)
    assert document["top_5"] == 1
    error = learn.interpret().expected_calibration_error()
    assert document["calibration_error"] == pytest.approx(error)
    assert "the run's metric calibration_error is left out, since evaluate prints something" in err


def test_the_report_fits_a_narrow_terminal(trained, tmp_path, capsys, monkeypatch):
    # FORCE_COLOR makes rich treat the captured output as a terminal; COLUMNS sets its width.
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    status, out, err = evaluated(capsys, trained[0], "--out", tmp_path / "seen")
    assert status == 0, err
    _, head, first, *_ = out.splitlines()
    assert head.endswith("f1")
    assert len(first) == len(head) <= 40


def test_other_pictures_are_all_evaluated_by_the_names_of_their_classes(
    trained, pictures, tmp_path, capsys
):
    """All pictures of another folder are scored, even if they have the names of the run's pictures.

    Labels are matched by class names; a class that the run does not have is refused.
    """
    path, _ = trained
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    for file in other.rglob("*.jpg"):
        file.write_bytes(file.read_bytes() + b" ")
    status, out, err = evaluated(
        capsys, path, "--data.path", other, "--json", "--out", tmp_path / "out"
    )
    assert status == 0, err
    assert err.startswith(
        f"all 40 pictures of {other}: 40 different files with the names of some of the run's "
        "pictures\n"
    )
    document = json.loads(out)
    assert document["pictures"] == 40
    assert document["scored"] == {
        "part": "all",
        "validated": 0,
        "trained": 0,
        "changed": 40,
        "unproven": 0,
        "new": 0,
    }
    names = sorted(str(file) for file in (other / "red").glob("*.jpg"))
    predictions = list(load_learner(path).predict_many(names))
    right = sum(prediction.label == "red" for prediction in predictions)
    assert document["confusion_matrix"][1][1] == right

    (other / "red").rename(other / "green")
    status, _, err = evaluated(capsys, path, "--data.path", other, "--out", tmp_path / "none")
    assert status == 2
    assert "class green is not one of the run's classes (blue, red)" in err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("form", ["folder", "packed"])
def test_another_set_with_the_names_of_the_runs_files_is_not_the_runs(form, tmp_path):
    """All pictures of another set are scored, even if its files have the run's names and sizes.

    The run's own set is recognized even if the folder is a link or a copy with other file names.
    """
    rng, places = np.random.default_rng(0), []
    for name in ("one", "other"):
        for label in ("a", "b"):
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(10):
                pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / label / f"{number}.bmp")
        places.append(tmp_path / name)
        if form == "packed":
            places[-1] = tmp_path / f"{name} packed"
            pack(from_folder(tmp_path / name), places[-1], 8)
    data = {"path": places[0], "size": 8, "presize": 8, "batch_size": 4}
    config = Config.model_validate({"data": data})
    run = create_run(config, tmp_path / "run")
    record_pictures(run, load_data(config))

    def scored(**changes):
        settings = config.model_copy(update={"data": changes})
        return chosen(EvaluateOptions(run=run.path), settings, config)[1]

    assert scored().line == "4 pictures that the run validated on"
    other = scored(path=places[1])
    assert other.part == "all"
    # Digests show that the files are different pictures; a packed set has only names.
    kind = "changed" if form == "folder" else "unproven"
    assert other.counts[kind] == len(other.items) == 20
    if form == "folder":
        for file in list(shutil.copytree(places[0], tmp_path / "copy").rglob("*.bmp")):
            file.rename(file.with_stem(f"copy {file.stem}"))
        assert scored(path=tmp_path / "copy").line == "4 pictures that the run validated on"
        (tmp_path / "link").symlink_to(places[0])
        assert scored(path=tmp_path / "link").line == "4 pictures that the run validated on"


@pytest.fixture
def changed(trained, pictures, tmp_path):
    """A run, its learner, and a changed copy of its pictures.

    In the copy, one picture that the run validated on is missing, another one is broken, and one
    picture is new.
    """
    path, learn = trained
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    gone, broken = learn.data.valid.items[:2]
    (folder / learn.data.source.references[gone]).unlink()
    (folder / learn.data.source.references[broken]).write_bytes(b"no picture")
    (folder / "red" / "new.jpg").write_bytes((folder / "red" / "0.jpg").read_bytes())
    return path, learn, folder


def test_pictures_that_moved_are_those_that_the_run_validated(changed, tmp_path, capsys):
    path, learn, folder = changed
    argv = (path, "--data.path", folder, "--json", "--out", tmp_path / "out")
    status, out, err = evaluated(capsys, *argv)
    assert status == 0, err
    assert err.splitlines()[0] == (
        "6 of the 8 pictures that the run validated on; 1 is missing; 1 is a different file now "
        "and is left out; 1 is new to the run and is left out (--pictures all scores every picture)"
    )
    document = json.loads(out)
    counts = {"validated": 8, "missing": 1, "changed": 1, "relabelled": 0, "new": 1}
    assert document["scored"] == {"part": "validated", **counts}
    interp = learn.interpret()
    matrix = np.zeros((2, 2), int)
    np.add.at(matrix, (interp.targets[2:], interp.predictions[2:]), 1)
    assert document["confusion_matrix"] == matrix.tolist()

    status, out, err = evaluated(capsys, *argv, "--pictures", "all")
    assert status == 1
    assert "is not a picture in a known format" in err
    assert "--data.on-bad skip" in err
    status, out, err = evaluated(capsys, *argv, "--pictures", "all", "--data.on-bad", "skip")
    assert status == 0, err
    assert "32 seen in training, which makes the scores too good" in err
    assert "; 1 cannot be read and is left out" in err
    document = json.loads(out)
    assert document["scored"]["unreadable"] == 1
    assert document["pictures"] == 39


@pytest.mark.parametrize("form", ["folders", "parts", "table", "pattern", "zip", "zip around"])
@pytest.mark.parametrize("name", ["red", "green"])
def test_a_set_of_one_class_is_scored_where_the_run_knows_it(
    form, name, trained, pictures, tmp_path, capsys
):
    """A set of one class is scored, in any form, if the run knows the class; else it is refused.

    Training on such a set is refused too.
    """
    part = {"parts": "valid/", "zip around": "photos/"}.get(form, "")
    folder = tmp_path / "set"
    shutil.copytree(pictures / "red", folder / part / name)
    if form == "parts":
        shutil.copytree(pictures / "red", folder / "train" / name)
    place, settings = folder, ["--pictures", "all"]
    if form == "table":
        place = folder / "all.csv"
        rows = "".join(f"{name}/{file.name},{name}\n" for file in folder.rglob("*.jpg"))
        place.write_text(f"image,label\n{rows}")
    elif form == "pattern":
        for file in [*folder.rglob("*.jpg")]:
            file.rename(folder / f"{name}_{file.name}")
        settings += ["--data.pattern", r"(.+)_\d+\.jpg"]
    elif form.startswith("zip"):
        place = Path(shutil.make_archive(folder, "zip", folder))
    argv = (trained[0], "--data.path", place, *settings, "--json", "--out", tmp_path / "out")
    status, out, err = evaluated(capsys, *argv)
    if name == "green":
        assert status == 2
        assert f"{place}: class green is not one of the run's classes (blue, red)" in err
        return
    assert status == 0, err
    document = json.loads(out)
    assert document["absent"] == ["blue"]
    assert (
        sum(document["confusion_matrix"][1])
        == document["pictures"]
        == (40 if form == "parts" else 20)
    )
    data = {"path": place, "size": 32, "presize": 36}
    if form == "pattern":
        data["pattern"] = settings[-1]
    with pytest.raises(DataError, match="one class only, red; a classifier needs two"):
        load_data(Config.model_validate({"data": data}))


def test_a_set_one_level_too_high_is_no_class(trained, pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "photos")
    status, _, err = evaluated(capsys, trained[0], "--data.path", tmp_path)
    assert status == 2
    assert err.endswith(f"use --data.path {tmp_path / 'photos'}\n")


@pytest.mark.parametrize("given", [("batch-size", "3"), ("on-bad", "skip")])
def test_what_names_no_pictures_changes_none_that_are_scored(
    given, trained, tmp_path, capsys, monkeypatch
):
    """The same pictures are scored, in batches of the size that is given."""
    name, value = given
    path, learn = trained
    compute, rows = Predictor._of_items, []

    def note(self, program, source, items, batch_size):
        rows.append(batch_size)
        return compute(self, program, source, items, batch_size)

    monkeypatch.setattr(Predictor, "_of_items", note)
    argv = (path, f"--data.{name}", value, "--json", "--out", tmp_path / "out")
    status, out, err = evaluated(capsys, *argv)
    assert status == 0, err
    assert rows == [3 if name == "batch-size" else BATCH]
    assert err.splitlines()[0] == "8 pictures that the run validated on"
    matrix = learn.interpret().confusion_matrix()
    assert json.loads(out)["confusion_matrix"] == matrix.tolist()


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder of sets that hold the same four pictures, each named after its class.

    Beside them are others, which are read only if the setting that leaves them out is ignored.
    """
    root = tmp_path_factory.mktemp("places")
    plain = [f"{name}/{name}_{number}.png" for name in ("blue", "red") for number in range(2)]
    parts = [f"{part}/{name}" for part, name in zip(("one", "two") * 2, plain, strict=True)]
    sets = {
        "plain": plain,
        "flat": [f"any/{Path(name).name}" for name in plain],
        "large": plain,
        "parts": [*parts, "train/red/red_8.png", "valid/red/red_9.png"],
    }
    for folder, names in sets.items():
        for name in names:
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((1001, 1000) if folder == "large" else (9, 9), 4095, np.uint16)
            Image.fromarray(pixels).save(root / folder / name)
    rows = [f"{name},{Path(name).parts[0]},{name}x,any" for name in plain]
    (root / "all.csv").write_text("\n".join(["where,kind,image,label", *rows]))
    shutil.make_archive(root / "all", "zip", root / "plain")
    return root


TABLE = "--data.path all.csv --data.image-column where --data.label-column kind --data.root plain"
ARCHIVE = "--data.archive all.zip --data.sha256"
TFDS = "--data.tfds oxford_iiit_pet --data.tfds-dir sets"
# For each setting, the arguments that choose pictures of `places`, and a pattern of the error, or
# "" if there is none.
OBEYED = {
    "data.path": ("--data.path plain", ""),
    "data.pattern": (r"--data.path flat --data.pattern (.+)_\d\.png", ""),
    "data.train": ("--data.path parts --data.train one --data.valid two", ""),
    "data.valid": ("--data.path parts --data.train two --data.valid one", ""),
    "data.image_column": (TABLE, ""),
    "data.label_column": (TABLE, ""),
    "data.root": (TABLE, ""),
    "data.archive": (f"{ARCHIVE} DIGEST", ""),
    "data.sha256": (f"{ARCHIVE} {64 * '0'}", "has the SHA-256 .*, not the one given"),
    "data.tfds": ("--data.tfds no_such_set", "data.tfds = no_such_set: "),
    "data.tfds_dir": (TFDS, "is not prepared in .*/sets/oxford_iiit_pet"),
    "data.range": ("--data.path plain --data.range 8191", ""),
    "data.max_pixels": (
        "--data.path large --data.max-pixels 1000000",
        "1000 x 1001 pixels are more than",
    ),
}


@pytest.mark.parametrize("key", OBEYED)
def test_every_setting_about_other_pictures_is_obeyed(key, trained, places, tmp_path, monkeypatch):
    """Each setting that says which pictures are scored, or how they are read, has its effect."""
    import jaxch5.data.sources.tfds as module

    if "tfds" in key:
        pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(module, "reachable", lambda address: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(places)
    words, refusal = OBEYED[key]
    digest = sha256_of(places / "all.zip")
    argv = [str(trained[0]), *words.replace("DIGEST", digest).split()]
    options = parse(EvaluateOptions, argv, "jaxch5 evaluate")
    recorded = from_toml(trained[0] / "config.toml")

    def pixels():
        source, scored = chosen(options, options.settings(), recorded)
        assert scored.part == "all"
        names = [Path(source.references[item]).name for item in scored.items]
        assert sorted(names) == ["blue_0.png", "blue_1.png", "red_0.png", "red_1.png"]
        labels = [source.classes[source.labels[item]] for item in scored.items]
        assert labels == [name.partition("_")[0] for name in names]
        return np.unique([read_pixels(source, item) for item in scored.items])

    if refusal:
        with pytest.raises(DataError, match=refusal):
            pixels()
    else:
        assert pixels() == [127 if key == "data.range" else 255]


def test_every_other_setting_is_obeyed_or_refused(trained, capsys):
    """Each setting that belongs to the run, rather than to `evaluate`, is refused by its name.

    For each of the other settings, a test shows that it is obeyed.
    """
    path, _ = trained
    config = from_toml(path / "config.toml")
    taken = set(filter(USES["evaluate"].of, flat(config))) - {"model.arch", "model.task"}
    # `test_evaluate_suggests_a_threshold_that_it_then_takes` tests the last of these settings.
    assert taken == OBEYED.keys() | {"data.on_bad", "data.batch_size", "model.threshold"}
    others = {
        "data.split": "random", "augment.mix": "mixup", "model.arch": "resnet34",
        "model.weights": "imagenet", "model.head": "linear", "model.precision": "bf16",
        "model.groups": "stages", "model.bn": "local", "fit.schedule": "sgdr", "fit.loss": "focal",
        "fit.optimizer": "sgd", "fit.moms": "0.9,0.8,0.9", "log": "tensorboard",
        "data.split_column": "is_val", "model.mean": "0.5,0.5,0.5", "model.std": "0.5,0.5,0.5",
        "model.task": "sigmoid", "fit.metrics": "f1", "hooks": "math:floor",
        "data.method": "squish", "data.pad_mode": "zeros", "data.cache": "off",
        "data.sampler": "balanced",
        "fit.best": "valid_loss", "fit.class_weights": "balanced", "fit.sizes": "8,16",
        "data.crop_pct": "0.9", "data.interpolation": "bicubic",
    }  # fmt: skip
    for key, value in flat(config).items():
        if key in taken:
            continue
        option = "--" + key.replace("_", "-")
        if isinstance(value, bool):
            argv = [option.replace("--", "--no-") if value else option]
        elif key in others:
            argv = [option, others[key]]
        else:
            argv = [option, str(value - 0.01 if isinstance(value, float) and value else value + 1)]
            if value == 0:
                argv[1] = "1" if isinstance(value, int) else "0.5"
        status, _, err = evaluated(capsys, path, *argv)
        assert status == 2, (argv, err)
        assert key in err, (argv, err)


def test_a_run_without_a_record_is_evaluated_as_before_and_it_is_said(trained, tmp_path, capsys):
    path, learn = trained
    old = shutil.copytree(path, tmp_path / "run")
    (old / "pictures.jsonl.gz").unlink()
    status, out, err = evaluated(capsys, old, "--json")
    assert status == 0, err
    assert err.startswith("8 pictures, the validation part of the run's split drawn again: ")
    document = json.loads(out)
    assert document["scored"] == {"part": "drawn again"}
    assert document["confusion_matrix"] == learn.interpret().confusion_matrix().tolist()
    status, _, err = evaluated(capsys, old, "--pictures", "validated")
    assert status == 2
    assert "has no pictures.jsonl.gz, which records the pictures that the run validated on;" in err
    status, _, err = evaluated(capsys, old, "--pictures", "all")
    assert status == 0
    assert not err


class MeanColour(nn.Module):
    """A network that tells pictures apart by their mean colour, and trains within a second."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2, kernel_init=nn.initializers.zeros)(x.mean((1, 2)))


def test_suspects_can_be_mended_and_trained_on(trained, pictures, tmp_path, capsys):
    """Once its labels are corrected, the list of suspects is a set of the same files to train on.

    All labels are inverted here, and the answers are right, so every label is suspect. A network
    that is trained on the corrected labels gives the right answers; one trained on the inverted
    labels would not.
    """
    _, learn = trained
    interp = learn.interpret()
    right = np.where(np.eye(2)[interp.targets] == 1, 0.9, 0.1).astype(np.float32)
    wrong = type(interp)(1 - interp.targets, right, interp.classes, interp.references)
    file = tmp_path / "suspects.csv"
    count = wrong.write_suspects(file, min_loss=0.0, min_probability=0.0)
    assert count == 8
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert {row["image"]: row["label"] for row in rows} == {
        name: "red" if Path(name).parent.name == "blue" else "blue" for name in interp.references
    }
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(row | {"label": Path(row["image"]).parent.name} for row in rows)
    source = from_csv(file)
    assert sorted(source.references) == sorted(interp.references)
    sizes = {"presize": 36, "size": 32, "batch_size": 3}
    data = load_data(Config.model_validate({"data": {"path": file, "stratify": True, **sizes}}))
    learn = vision_learner(data, MeanColour())
    learn.console = Console(file=io.StringIO())
    learn.fit(20, 0.1)
    for name in ("blue", "red"):
        assert learn.predict(pictures / name / "3.jpg").label == name


def test_what_is_no_run_is_named(tmp_path, capsys):
    status, _, err = evaluated(capsys, tmp_path)
    assert status == 2
    assert "is not a run directory" in err


def test_the_learner_shows_its_results_and_predicts(trained, pictures, tmp_path):
    path, learn = trained
    figure = learn.show_results(2, 2)
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 4
    right = [title[0] == "✓" for title in titles]
    names = [title[2:].split("\nis ") for title in titles]
    assert all(set(pair) <= {"blue", "red"} for pair in names)
    assert [len(set(pair)) == 1 for pair in names] == right
    for (*_, actual), axes in zip(names, figure.axes, strict=True):
        red, _, blue = np.asarray(axes.images[0].get_array(), float).mean((0, 1))
        assert actual == ("red" if red > blue else "blue")
    colors = [axes.title.get_color() for axes in figure.axes]
    assert len(set(zip(right, colors, strict=True))) == len(set(right))
    assert np.array_equal(*(one._repr_png_() for one in (figure, learn.show_results(2, 2))))
    file = pictures / "red" / "3.jpg"
    mine, loaded = learn.predict(file), load_learner(path).predict(file)
    np.testing.assert_allclose(mine.probabilities, loaded.probabilities, atol=1e-6)
    learn.save(tmp_path / "learner")
    assert (tmp_path / "learner.safetensors").is_file()
    again = load_learner(tmp_path / "learner").predict(file)
    np.testing.assert_allclose(again.probabilities, mine.probabilities, atol=1e-6)
