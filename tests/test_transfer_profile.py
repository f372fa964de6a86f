"""`jaxch5 transfer_profile` draws one figure with one command, and does no training twice."""

import json
import shutil

import pytest
from PIL import Image

from jaxch5.cli import parse, run
from jaxch5.configured import data_of
from jaxch5.data.block import DataBlock
from jaxch5.data.pictures import read_pictures
from jaxch5.data.sources.folder import from_folder
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError, DataError
from jaxch5.learner import vision_learner
from jaxch5.run.directory import RunDir, create_run, locked
from jaxch5.run.history import find_runs
from jaxch5.run.pictures import record_pictures
from jaxch5.transfer_profile import (
    RESULTS,
    ProfileOptions,
    settings_of_profile,
    transfer_profile,
)
from jaxch5.util.files import to_json

SMALL = ["--data.presize", "36", "--data.size", "32", "--data.batch-size", "16"]


def started(*argv):
    prog = "jaxch5 transfer_profile"
    return run(transfer_profile, ProfileOptions, prog, [*map(str, argv), *SMALL])


@pytest.mark.slow
def test_what_is_missing_is_trained_and_nothing_twice(pictures, tmp_path, capsys):
    """A repeated command does only the training runs that are missing, and then none.

    At first it finds the results of a profile that was killed with two of seven runs left: one
    with frozen layers, whose result is incomplete, and one from scratch.
    """
    data = DataBlock(from_folder(pictures), random_split(), 36, 32).load(16)
    weights = tmp_path / "weights.safetensors"
    vision_learner(data, "resnet18", "none", groups="stages").export(weights)

    out, results = tmp_path / "profile.png", tmp_path / "profile"
    argv = ["--data.path", pictures, "--model.weights", weights, "--fit.epochs", 1]
    argv += ["--metrics", "f1"]
    options = parse(ProfileOptions, [*map(str, argv), *SMALL], "profile")
    record_pictures(create_run(settings_of_profile(options, print), results), data)
    done = [{"frozen": kind, "seed": 0, "accuracy": kind / 10} for kind in (0, 1, 2, 3, 4)]
    whole = "".join(json.dumps(point) + "\n" for point in done)
    (results / RESULTS).write_text(whole + '{"frozen": 5, "seed": 0, "accu')

    argv += ["--workdir", results, "--out", out, "--json"]
    assert started(*argv) == 0
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    repeated = f"{results / RESULTS}: the last line is incomplete, so its training is repeated"
    assert repeated in lines
    assert [line.split("  ")[0] for line in lines if "seed" in line] == [
        "frozen: stem to layer4",
        "from scratch",
    ]
    document = json.loads(captured.out)
    assert [len(accuracies) for accuracies in document["frozen"]] == [1] * 6
    assert document["frozen"][:5] == [[0.0], [0.1], [0.2], [0.3], [0.4]]
    # The metrics that were asked for are printed and written.
    assert all("%  f1 " in line for line in lines if "seed" in line)
    points = [*map(json.loads, (results / RESULTS).read_text().splitlines())]
    assert ["f1" in point for point in points] == [False] * 5 + [True] * 2
    assert len(document["scratch"]) == 1
    assert Image.open(out).size[0] > 400

    assert started(*argv) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == document
    assert captured.err.count("\n") == 3
    assert "profile.jsonl: earlier results lack f1\n" in captured.err
    assert started(*argv, "--fit.lr", "0.1") == 2
    assert "fit.lr: " in capsys.readouterr().err
    # A last line that lacks only its end is kept.
    (results / RESULTS).write_text((results / RESULTS).read_text().removesuffix("\n"))
    assert started(*argv) == 0
    assert json.loads(capsys.readouterr().out) == document
    assert (results / RESULTS).read_text().endswith("}\n")
    (results / RESULTS).write_text(f"{whole}what is this\n")
    assert started(*argv) == 1
    assert f"{results / RESULTS}: is damaged (" in capsys.readouterr().err
    with locked(RunDir(results)):
        assert started(*argv) == 1
    assert "is being written by process" in capsys.readouterr().err


def test_it_goes_on_with_the_pictures_that_it_began_with(pictures, tmp_path, capsys):
    """All points of a profile come from the same split of the same pictures.

    Pictures that were added are left out, and a folder that was moved is found by `--data.path`. If
    a picture is gone, nothing is drawn. All training is done beforehand.
    """
    folder, results = shutil.copytree(pictures, tmp_path / "set"), tmp_path / "profile"
    argv = ["--data.path", folder, "--model.weights", tmp_path / "weights.safetensors"]
    options = parse(ProfileOptions, [*map(str, argv), *SMALL], "profile")
    data = DataBlock(from_folder(folder), random_split(), 36, 32).load(16)
    directory = create_run(settings_of_profile(options, print), results)
    record_pictures(directory, data)
    kinds = [*range(6), "scratch"]
    done = [{"frozen": kind, "seed": 0, "accuracy": 0.5} for kind in kinds]
    (results / RESULTS).write_text("".join(json.dumps(point) + "\n" for point in done))
    argv += ["--workdir", results, "--out", tmp_path / "profile.png"]

    shutil.copy(folder / "red" / "0.jpg", folder / "red" / "new.jpg")
    assert started(*argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 picture was added since the run began and is left out"
    assert lines[1] == "40 pictures of 2 classes: 32 for training, 8 for validation"
    # A presize or batch size that is not given is the recorded one, whatever the default is now.
    for given in (SMALL[2:], SMALL[:4]):
        words = [*map(str, argv), *given]
        assert run(transfer_profile, ProfileOptions, "jaxch5 transfer_profile", words) == 0
    config = settings_of_profile(options, print)
    again, _ = data_of(config, directory, lines.append)
    recorded = read_pictures(directory.pictures_file)
    assert again.pictures.digest == data.pictures.digest == recorded.digest

    argv[1] = folder.rename(tmp_path / "moved")
    assert started(*argv) == 0
    (argv[1] / "red" / "0.jpg").unlink()
    (tmp_path / "profile.png").unlink()
    capsys.readouterr()
    assert started(*argv) == 1
    err = capsys.readouterr().err
    assert "red/0.jpg: is gone" in err
    assert err.endswith("or name another --workdir\n")
    assert err.count("\n") == 1
    assert not (tmp_path / "profile.png").exists()


def test_scores_are_those_that_fit_best_names(pictures, tmp_path, capsys):
    """All training is done beforehand; results of an earlier version may lack the score."""
    results = tmp_path / "profile"
    argv = ["--data.path", pictures, "--model.weights", tmp_path / "weights.safetensors"]
    argv += ["--metrics", "f1", "--metrics", "top_5", "--fit.best", "f1"]
    options = parse(ProfileOptions, [*map(str, argv), *SMALL], "profile")
    data = DataBlock(from_folder(pictures), random_split(), 36, 32).load(16)
    record_pictures(create_run(settings_of_profile(options, print), results), data)
    points = [{"frozen": kind, "seed": 0, "accuracy": 0.5} for kind in (*range(6), "scratch")]
    argv += ["--workdir", results, "--out", tmp_path / "profile.svg", "--json"]
    for more, status in (({}, 2), ({"f1": 0.25}, 0)):
        lines = [json.dumps(point | more) + "\n" for point in points]
        (results / RESULTS).write_text("".join(lines))
        assert started(*argv) == status
    captured = capsys.readouterr()
    assert "profile.jsonl: has results without f1; name another --workdir" in captured.err
    assert "profile.jsonl: earlier results lack top_5\n" in captured.err
    assert json.loads(captured.out)["frozen"] == [[0.25]] * 6
    assert json.loads(captured.out)["scratch"] == [0.25]


def test_a_profile_is_no_run_from_the_beginning(pictures, tmp_path, capsys, monkeypatch):
    """`jaxch5 runs` does not list it; an earlier version listed it as one that was cut off."""
    found = []

    def stop(*given):
        found.append(find_runs([tmp_path]))
        raise DataError("stopped")

    monkeypatch.setattr("jaxch5.transfer_profile.measure", stop)
    weights = ["--model.weights", tmp_path / "weights.safetensors"]
    assert started(pictures, *weights, "--workdir", tmp_path / "profile") == 1
    assert [(one.runs, one.others) for one in found] == [([], [tmp_path / "profile"])]


def test_a_score_that_is_no_number_is_read_again(pictures, tmp_path, capsys):
    """All training is done beforehand; one of the networks had no score."""
    results = tmp_path / "profile"
    argv = ["--data.path", pictures, "--model.weights", tmp_path / "weights.safetensors"]
    options = parse(ProfileOptions, [*map(str, argv), *SMALL], "profile")
    data = DataBlock(from_folder(pictures), random_split(), 36, 32).load(16)
    record_pictures(create_run(settings_of_profile(options, print), results), data)
    points = [{"frozen": kind, "seed": 0, "accuracy": 0.5} for kind in (*range(6), "scratch")]
    points[1]["accuracy"] = float("nan")
    (results / RESULTS).write_text("".join(to_json(point) + "\n" for point in points))
    argv += ["--workdir", results, "--out", tmp_path / "profile.svg", "--json"]
    assert started(*argv) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["frozen"][:3] == [[0.5], [None], [0.5]]


@pytest.mark.parametrize("missing", ["--data.path", "--model.weights"])
def test_what_cannot_begin_leaves_nothing(missing, pictures, tmp_path, capsys):
    places = {"--data.path": pictures, "--model.weights": tmp_path / "gone.safetensors"}
    places[missing] = tmp_path / "gone.safetensors"
    argv = [word for pair in places.items() for word in pair]
    assert started(*argv, "--workdir", tmp_path / "profile") == 1
    assert "gone.safetensors" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weights", ["none", "auto"])
def test_it_needs_weights_to_transfer(pictures, weights, capsys):
    assert started("--data.path", pictures, "--model.weights", weights) == 2
    assert f"model.weights = {weights}: a profile needs pretrained weights" in (
        capsys.readouterr().err
    )


def test_a_seed_beyond_the_greatest_is_named_before_any_work(pictures, tmp_path, capsys):
    argv = ["--data.path", pictures, "--model.weights", "imagenet", "--seed", 2**32 - 1]
    assert started(*argv, "--repeats", 2, "--workdir", tmp_path / "profile") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "seed + repeats - 1 = 4294967296: should be a whole number from 0 to" in line
    assert not (tmp_path / "profile").exists()


def test_what_a_profile_does_not_obey_in_a_file_is_said():
    """The same settings on the command line are refused."""
    said, argv = [], ["--config", "pets_resnet50"]
    config = settings_of_profile(parse(ProfileOptions, argv, "profile"), said.append)
    assert (config.fit.schedule, config.fit.freeze_epochs) == ("one_cycle", 1)
    assert said == [
        "fit.schedule = fine_tune: this command uses one_cycle instead",
        "fit.freeze_epochs = 3: only works with fit.schedule = fine_tune, not with one_cycle; it "
        "is left out",
    ]
    for words, line in (
        (["--fit.schedule", "fine_tune"], "fit.schedule: this command chooses its value"),
        (["--fit.freeze-epochs", "3"], "fit.freeze_epochs = 3: only works with"),
    ):
        with pytest.raises(ConfigError, match=line):
            settings_of_profile(parse(ProfileOptions, [*argv, *words], "profile"), said.append)
    assert len(said) == 2
