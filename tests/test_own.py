"""A user's own loss, metrics and task work through an entire run, and so does the sigmoid task."""

import json
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

import jaxch5 as jx
from jaxch5 import evaluate, export, predict, train
from jaxch5.clean import CleanOptions
from jaxch5.cli import parse
from jaxch5.config.settings import Config, from_toml
from jaxch5.configured import recipe_of
from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.data.split import random_split
from jaxch5.errors import ConfigError, WeightsError
from jaxch5.losses import sigmoid_cross_entropy
from jaxch5.run.checkpoint import StoredCheckpoints
from jaxch5.run.directory import create_run, open_run
from jaxch5.task import SOFTMAX

SMALL = ("--data.presize", "36", "--data.size", "32", "--data.batch-size", "8")
SMALL += ("--model.weights", "none", "--model.head", "linear")
MODULE = """
from dataclasses import replace
import numpy as np
import jaxch5 as jx

def far_off(logits, labels):
    return 10 + jx.cross_entropy(logits, labels)

def doubt(probabilities, labels):
    return float(1 - np.max(probabilities, axis=1).mean())

BY_LOSS = replace(
    jx.single_label(), metrics=("f1", doubt), best=jx.Best("valid_loss", "lowest")
)
"""


def called(command, monkeypatch, capsys, *arguments):
    """Runs a command in this process; returns its status, its output and its error output."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    status = command.main()
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def own(pictures, tmp_path_factory):
    """A folder with a user's module, a run that uses this module, and the run's output."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine_of_test.py").write_text(MODULE)
    argv = ["--data.path", pictures, "--workdir", "run", *SMALL, "--fit.epochs", "2"]
    argv += ["--fit.loss", "mine_of_test:far_off", "--model.task", "mine_of_test:BY_LOSS"]
    argv += ["--fit.metrics", "top_1", "--fit.metrics", "accuracy", "--fit.keep-best"]
    package = str(Path(jx.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "jaxch5.train", *map(str, argv)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, folder / "run", done.stdout


def test_a_loss_metrics_and_a_task_of_ones_own_make_a_run(own):
    """A run uses the loss, metrics and task that the command line names by import paths.

    The module is in the folder in which the command is started.
    """
    _, run, out = own
    columns = out.splitlines()[1].split()
    names = ["train_loss", "valid_loss", "f1", "doubt"]
    assert columns == ["epoch", *names, "time", "images/s", "top_1", "accuracy"]
    for record in records(run):
        assert 10 < record["valid_loss"] < 14
        assert record["top_1"] == record["accuracy"]
        assert 0 < record["doubt"] < 0.5
    best = min(records(run), key=lambda record: record["valid_loss"])
    line = f"valid_loss {best['valid_loss']:.4f} (of epoch {best['epoch'] + 1}, the best)"
    assert out.splitlines()[-3].startswith(line)
    assert "<dt>doubt</dt>" in (run / "report.html").read_text()


def test_checkpoints_know_the_best_by_the_rule_of_the_run(own):
    """The best checkpoint of a run is found by the run's own rule, without naming its task."""
    _, run, _ = own
    losses = [record["valid_loss"] for record in records(run)]
    saves = StoredCheckpoints(open_run(run)[0].checkpoints)
    assert saves.best_step() == 4 * (1 + int(np.argmin(losses)))


def test_a_run_is_resumed_and_evaluated_with_what_it_names(own, monkeypatch, capsys, tmp_path):
    folder, run, _ = own
    config = from_toml(run / "config.toml")
    assert config.fit.loss == "mine_of_test:far_off"
    assert config.fit.metrics == ("top_1", "accuracy")
    status, _, err = called(train, monkeypatch, capsys, "--resume", run)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "model.task = mine_of_test:BY_LOSS: there is no module mine_of_test" in err
    status, _, err = called(predict, monkeypatch, capsys, run, tmp_path / "one.jpg")
    assert (status, len(err.splitlines())) == (1, 1)
    assert "has the task mine_of_test:BY_LOSS, which is not one of softmax, sigmoid" in err
    monkeypatch.syspath_prepend(folder)
    (run / "metrics.jsonl").unlink()
    status, out, err = called(train, monkeypatch, capsys, "--resume", run)
    assert status == 0, err
    assert "this run is finished" in out
    status, out, err = called(
        evaluate, monkeypatch, capsys, run, "--json", "--out", tmp_path / "evaluation"
    )
    assert status == 0, err
    assert {"f1", "doubt", "accuracy", "top_1", "recall"} <= json.loads(out).keys()


def test_a_classifier_of_a_task_of_ones_own_is_loaded_by_whoever_names_it(
    own, pictures, monkeypatch, capsys, tmp_path
):
    """A learner's file with a user's own task loads only if the caller names the task.

    A file never causes an import, because it may come from elsewhere.
    """
    folder, run, _ = own
    monkeypatch.syspath_prepend(folder)
    task, file = ("--model.task", "mine_of_test:BY_LOSS"), tmp_path / "learner.safetensors"
    argv = (run, "--format", "learner", "--out", file, *task)
    assert called(export, monkeypatch, capsys, *argv)[0] == 0
    with pytest.raises(WeightsError, match=r"the task mine_of_test:BY_LOSS.*name it"):
        jx.load_learner(file)
    picture = next((pictures / "red").iterdir())
    expected = jx.load_learner(file, task=jx.single_label()).predict(picture)
    argv = (file, picture, "--json", *task)
    status, out, err = called(predict, monkeypatch, capsys, *argv)
    assert status == 0, err
    assert json.loads(out)["predictions"][0]["answer"] == expected.label


SURE = 0.999999


@pytest.fixture(scope="module")
def sigmoid(pictures, tmp_path_factory):
    """A short run of the sigmoid task, with a threshold that no probability reaches."""
    run = tmp_path_factory.mktemp("sigmoid") / "run"
    argv = ["--data.path", pictures, "--workdir", run, *SMALL, "--fit.epochs", "1"]
    argv += ["--fit.loss", "binary_cross_entropy", "--model.threshold", SURE]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train", *map(str, argv)])
        assert train.main() == 0
    return run


def test_a_run_of_sigmoids_says_none_of_these(sigmoid, pictures, monkeypatch, capsys, tmp_path):
    """If no probability reaches the threshold, the answer is "none of these".

    This holds for the records, the scores, the confusion matrix, the predictions and the report.
    """
    (record,) = records(sigmoid)
    assert (record["accuracy"], record["error_rate"]) == (0.0, 1.0)
    argv = (sigmoid, "--json", "--out", tmp_path / "evaluation")
    status, out, err = called(evaluate, monkeypatch, capsys, *argv)
    assert status == 0, err
    document = json.loads(out)
    assert document["answers"] == ["blue", "red", "none of these"]
    matrix = np.array(document["confusion_matrix"])
    assert matrix[:2, 2].sum() == matrix.sum() == document["pictures"]
    assert (document["accuracy"], document["recall"]) == (0.0, 0.0)
    assert '<th scope="row" title="none of these">' in (sigmoid / "report.html").read_text()

    picture = next((pictures / "red").iterdir())
    status, out, err = called(predict, monkeypatch, capsys, sigmoid, picture)
    assert status == 0, err
    assert out.split("\t")[1] == "none of these"
    status, out, _ = called(predict, monkeypatch, capsys, sigmoid, picture, "--json")
    (prediction,) = json.loads(out)["predictions"]
    assert prediction["answer"] is None
    assert prediction["classes"].keys() == {"blue", "red"}
    argv = (sigmoid, picture, "--json", "--model.task", "sigmoid", "--model.threshold", "0")
    status, out, _ = called(predict, monkeypatch, capsys, *argv)
    (prediction,) = json.loads(out)["predictions"]
    assert prediction["answer"] == max(prediction["classes"], key=prediction["classes"].get)


def test_a_threshold_counts_wherever_it_is_given(sigmoid, pictures, monkeypatch, capsys, tmp_path):
    """It is obeyed on the command line, beside a task in a file, and in the file of `--config`."""
    picture, file = next((pictures / "red").iterdir()), tmp_path / "x.toml"
    file.write_text('[model]\ntask = "sigmoid"\nthreshold = 0.0\n')
    config = sigmoid / "config.toml"
    for words, none in (
        (("--config", config, "--model.threshold", "0"), False),
        (("--config", file), False),
        (("--config", file, "--model.threshold", SURE), True),
        (("--config", config), True),
        ((), True),
    ):
        status, out, err = called(predict, monkeypatch, capsys, sigmoid, picture, "--json", *words)
        assert status == 0, err
        (prediction,) = json.loads(out)["predictions"]
        assert (prediction["answer"] is None) is none, words
    out = tmp_path / "learner.safetensors"
    argv = (sigmoid, "--format", "learner", "--out", out, "--config", file)
    status, _, err = called(export, monkeypatch, capsys, *argv)
    assert status == 0, err
    assert jx.load_learner(out).task.threshold == 0
    # A run's own file names nothing that its classifier does not have anyway.
    assert parse(CleanOptions, [str(sigmoid)], "jaxch5 clean").task() is None


def test_the_name_of_a_loss_says_which_task_it_is_of(sigmoid):
    """A loss implies its task, and settings that name another task with it are refused.

    Settings that name only the sigmoid task get its loss.
    """
    assert from_toml(sigmoid / "config.toml").model.task == "sigmoid"
    binary, task = {"fit": {"loss": "binary_cross_entropy"}}, {"model": {"task": "sigmoid"}}
    assert Config.model_validate(binary | task) == Config.model_validate(binary)
    assert recipe_of(Config.model_validate(binary)).objective is sigmoid_cross_entropy
    assert recipe_of(Config.model_validate(task)).objective is sigmoid_cross_entropy
    for loss, other in (("binary_cross_entropy", "softmax"), ("focal", "sigmoid")):
        line = rf"fit\.loss = {loss}: only works with model\.task = "
        with pytest.raises(ValueError, match=line):
            Config.model_validate({"fit": {"loss": loss}, "model": {"task": other}})


def test_evaluate_suggests_a_threshold_that_it_then_takes(
    sigmoid, pictures, monkeypatch, capsys, tmp_path
):
    """`evaluate` prints options with a threshold, which `evaluate` and `predict` accept.

    With these options, `evaluate` leaves unanswered the share of pictures that it printed before.
    """
    argv = (sigmoid, "--out", tmp_path / "evaluation")
    status, out, err = called(evaluate, monkeypatch, capsys, *argv)
    assert status == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("--model.task sigmoid")]
    options = line.split(" leaves ")[0].split()
    assert (tmp_path / "evaluation" / "unanswered.png").stat().st_size > 5000
    *_, share = argv = (*argv, "--json", *options)
    _, out, _ = called(evaluate, monkeypatch, capsys, *argv)
    document = json.loads(out)
    assert document["suggested"]["threshold"] == float(share)
    matrix = np.array(document["confusion_matrix"])
    assert f"{100 * matrix[:, 2].sum() / matrix.sum():.1f} % unanswered" in line
    assert matrix[:, 2].sum() <= 0.05 * matrix.sum()
    answers = matrix[:, :2].sum()
    assert document["suggested"]["error_of_answers"] == 1 - np.trace(matrix[:2, :2]) / answers
    picture = next((pictures / "red").iterdir())
    assert called(predict, monkeypatch, capsys, sigmoid, picture, *options)[0] == 0


def test_the_task_travels_with_the_classifier(sigmoid, pictures, tmp_path):
    """A run, a learner's file and an exported program record the task and its threshold.

    The program's outputs are the sigmoids, which need not add up to 1.
    """
    loaded = jx.load_learner(sigmoid)
    assert loaded.task == jx.one_vs_rest(SURE)
    picture = next((pictures / "red").iterdir())
    prediction = loaded.predict(picture)
    assert (prediction.label, prediction.index) == ("none of these", 2)
    from jaxch5.results.artifacts import as_learner, as_stablehlo

    (tmp_path / "learner.safetensors").write_bytes(as_learner(loaded))
    again = jx.load_learner(tmp_path / "learner.safetensors")
    assert again.task == loaded.task
    np.testing.assert_array_equal(again.predict(picture).probabilities, prediction.probabilities)
    program = jax.export.deserialize(bytearray(as_stablehlo(loaded)))
    about = json.loads(program.fun_name)
    assert (about["task"], about["threshold"]) == ("sigmoid", SURE)
    grey = np.full((1, 36, 36, 3), 128, np.uint8)
    expected = loaded.predict(grey[0]).probabilities
    np.testing.assert_allclose(program.call(grey)[0], expected, rtol=1e-4)
    assert abs(expected.sum() - 1) > 1e-3


def test_a_file_that_is_older_than_tasks_is_of_softmax(trained, tmp_path):
    from safetensors.numpy import load_file, save_file

    from jaxch5.results.artifacts import _metadata, as_learner, description_of

    _, learn = trained
    new, old = (tmp_path / f"{name}.safetensors" for name in ("new", "old"))
    predictor = learn.predictor()
    new.write_bytes(as_learner(predictor))
    description = description_of(predictor)
    del description["task"], description["threshold"]
    save_file(load_file(new), old, _metadata(description))
    assert jx.load_learner(old).task == jx.load_learner(new).task == SOFTMAX


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"task": "os:getcwd"}, "has the task os:getcwd, which is not one of softmax, sigmoid"),
        ({"task": "sigmoid", "threshold": "much"}, "its threshold is much, but should be from 0"),
        ({"task": "sigmoid", "threshold": "nan"}, "its threshold is nan, but should be from 0"),
    ],
)
def test_what_a_file_says_of_its_task_is_not_trusted(said, line, trained, tmp_path):
    from safetensors.numpy import load_file, save_file

    from jaxch5.results.artifacts import _metadata, as_learner, description_of

    _, learn = trained
    file = tmp_path / "learner.safetensors"
    file.write_bytes(as_learner(learn.predictor()))
    metadata = _metadata(description_of(learn.predictor()) | said)
    save_file(load_file(file), file, metadata)
    with pytest.raises(WeightsError, match=line):
        jx.load_learner(file)


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.Dense(8)(x.mean((1, 2))))
        return nn.Dense(2, name="head")(x)


@pytest.fixture(scope="module")
def shades():
    labels = np.arange(48) % 2
    pictures = np.uint8(255 * labels)[:, None, None] * np.ones((8, 8), np.uint8)
    source = from_arrays(pictures, labels, ["dark", "bright"])
    return DataBlock(source, random_split(), presize=8, size=8, augment=None).load(8)


def test_in_python_a_loss_and_metrics_are_functions_or_import_paths(shades):
    def halved(logits, labels):
        return jx.cross_entropy(logits, labels) / 2

    def zero(probabilities, labels):
        return 0.0

    def first_epoch(**given):
        learn = jx.vision_learner(shades, Tiny(), **given)
        learn.fit(1, 0.0 + 1e-9)
        return learn.records[0]

    plain = first_epoch()
    own = first_epoch(loss=halved, metrics=[zero, "jaxch5.metrics:recall", "top_1"])
    assert own["valid_loss"] == pytest.approx(plain["valid_loss"] / 2, rel=1e-5)
    assert (own["zero"], own["top_1"]) == (0.0, plain["accuracy"])
    assert 0 <= own["recall"] <= 1
    with pytest.raises(ConfigError, match=r"fit\.metrics = zero: two metrics have this name"):
        first_epoch(metrics=[zero, lambda *_: 1.0, zero])


def test_sigmoids_learn_and_a_run_of_another_task_is_not_resumed(shades, tmp_path):
    learn = jx.vision_learner(shades, Tiny(), task=jx.one_vs_rest(), mix=jx.mixup)
    probabilities, labels = learn.get_preds()
    likelihoods = np.where(np.eye(2)[labels], probabilities, 1 - probabilities)
    loss = -np.log(likelihoods).sum(axis=1).mean()
    assert learn.validate()["valid_loss"] == pytest.approx(loss, rel=1e-5)
    learn.run = create_run(Config(), tmp_path / "run")
    learn.fit(4, 0.1)
    assert learn.validate()["accuracy"] == 1.0
    probabilities, labels = learn.tta(2)
    assert (learn.recipe.task.decode(probabilities) == labels).all()
    assert learn.predict(np.full((8, 8, 3), 255, np.uint8)).label == "bright"
    with pytest.raises(ConfigError, match="has task sigmoid, not softmax; resume a run with"):
        jx.vision_learner(shades, Tiny()).restore(learn.run)
