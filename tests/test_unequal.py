"""Classes of unequal size can be weighted in the loss, and a run reports metrics that suit them."""

import dataclasses
import io
import json
import re
import sys
from functools import partial

import flax.linen as nn
import numpy as np
import pytest
from rich.console import Console
from sklearn.utils.class_weight import compute_class_weight

import jaxch5 as jx
from jaxch5 import evaluate, train
from jaxch5.config.settings import Config
from jaxch5.configured import recipe_of
from jaxch5.data.block import DataBlock
from jaxch5.data.source import from_arrays
from jaxch5.errors import ConfigError
from jaxch5.losses import cross_entropy, focal_loss, sigmoid_cross_entropy
from jaxch5.run.checkpoint import StoredCheckpoints
from jaxch5.run.directory import create_run, open_run
from jaxch5.training.class_weights import weights_of_classes
from jaxch5.training.recipe import Recipe

LABELS = np.array([0] * 30 + [1] * 6)
CLASSES = ("many", "few")


class Tiny(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2, name="head")(x.mean((1, 2)))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (len(LABELS), 8, 8, 3), dtype=np.uint8)
    split = np.arange(len(LABELS)) % 3 != 0
    block = DataBlock(
        from_arrays(pictures, LABELS, CLASSES),
        lambda source: (np.flatnonzero(split), np.flatnonzero(~split)),
        presize=8,
        size=8,
    )
    return block.load(8)


def learner(data, **values):
    learn = jx.vision_learner(data, Tiny(), **values)
    learn.console = Console(file=io.StringIO())
    return learn


def test_balanced_weights_are_scikit_learns():
    labels = np.array([0, 0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert weights_of_classes("balanced", labels, "abc") == pytest.approx(expected)
    assert weights_of_classes("sqrt", labels, "abc") == pytest.approx(np.sqrt(expected))


@pytest.mark.parametrize(
    ("loss", "task"),
    [
        (cross_entropy, jx.single_label()),
        (focal_loss, jx.single_label()),
        (sigmoid_cross_entropy, jx.one_vs_rest()),
    ],
)
def test_the_loss_of_training_and_of_validation_has_the_weights(data, loss, task):
    """The weights come from the training pictures: 0.6 and 3 for classes of 20 and 4 pictures."""
    learn = learner(data, loss=loss, task=task, class_weights="balanced")
    assert learn.recipe.class_weights == pytest.approx((0.6, 3.0))
    probabilities, labels = learn.get_preds()
    odds = 1 - probabilities if loss is sigmoid_cross_entropy else 1
    expected = float(loss(np.log(probabilities / odds), labels, weight=[0.6, 3.0]))
    assert learn.validate()["valid_loss"] == pytest.approx(expected, rel=1e-4)
    given = learner(data, loss=partial(loss, weight=[0.6, 3.0]), task=task)
    for each in (learn, given):
        each.fit(1, 0.1)
    assert learn.recorder.losses == pytest.approx(given.recorder.losses)


def test_weights_of_a_file_are_by_name(data, tmp_path):
    file = tmp_path / "weights.toml"
    file.write_text("few = 5\nmany = 1.5\n")
    assert learner(data, class_weights=file).recipe.class_weights == (1.5, 5.0)
    for text, line in (
        ("few = 5", "there is no weight for many"),
        ("few = 5\nmany = 1\nmanny = 1", "there is no class manny"),
        ("few = -5\nmany = 1", r"\[1, -5\] should be 2 numbers above 0"),
        ("few = 'x'\nmany = 1", r"\[1, 'x'\] should be 2 numbers above 0"),
        ("few = true\nmany = 2", r"\[2, True\] should be 2 numbers above 0"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=f"^fit.class_weights = {file}: {line}"):
            learner(data, class_weights=file)


def test_weights_are_by_name_however_an_umlaut_is_stored():
    whole, parts = "caf\u00e9", "cafe\u0301"
    for name, other in ((whole, parts), (parts, whole)):
        assert weights_of_classes({"a": 1, name: 2}, np.array([0, 1]), [other, "a"]) == (2.0, 1.0)
    with pytest.raises(ConfigError, match=f"there are two weights for {whole}"):
        weights_of_classes({whole: 1, parts: 2}, np.array([0]), [whole])


def test_a_loss_of_ones_own_that_takes_no_weights_is_refused():
    def plain(logits, labels):
        return cross_entropy(logits, labels)

    for loss in (plain, partial(cross_entropy, weight=[1.0, 2.0])):
        with pytest.raises(ConfigError, match=r"class_weights = sqrt: the loss takes no class w"):
            Recipe(loss=loss, class_weights="sqrt")


def test_a_run_goes_on_with_the_weights_that_it_began_with(data, tmp_path):
    learn = learner(data, class_weights={"few": 2, "many": 1})
    learn.run = create_run(Config(), tmp_path / "run")
    learn.fit(1, 0.1)
    assert learner(data, class_weights=(1, 2)).restore(learn.run)
    for other in ("none", (1, 3)):
        with pytest.raises(ConfigError, match=r"has class_weights \[1\.0, 2\.0\], not"):
            learner(data, class_weights=other).restore(learn.run)


def test_balanced_accuracy_stands_beside_accuracy_where_classes_are_unequal(data):
    learn = learner(data)
    learn.fit(1, 0.1)
    assert 0 <= learn.records[0]["balanced_accuracy"] <= 1
    assert "balanced_accuracy" in learn.console.file.getvalue()
    equal = DataBlock(data.source, lambda source: (np.arange(24, 36), np.arange(24)), 8, 8).load(4)
    assert learner(equal).recipe.columns == []


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    """A run of `jaxch5 train` on two classes of 18 and 6 pictures, and the command's output."""
    root = tmp_path_factory.mktemp("unequal")
    for name, count in (("blue", 18), ("red", 6)):
        (root / "set" / name).mkdir(parents=True)
        for file in sorted((pictures / name).iterdir())[:count]:
            (root / "set" / name / file.name).symlink_to(file)
    argv = ["--data.path", root / "set", "--workdir", root / "run", "--fit.epochs", "2"]
    argv += ["--data.presize", "36", "--data.size", "32", "--data.batch-size", "8"]
    argv += ["--model.weights", "none", "--fit.class-weights", "sqrt", "--data.sampling", "sqrt"]
    argv += ["--data.stratify", "--data.valid-fraction", "0.34"]
    argv += ["--metrics", "f1,top_1", "--log", "tensorboard", "--fit.best", "f1"]
    argv += ["--fit.keep-best"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train", *map(str, argv)])
        out = io.StringIO()
        patch.setattr(sys, "stdout", out)
        assert train.main() == 0
    return root / "run", out.getvalue()


def test_metrics_by_name_are_in_table_records_report_and_event_files(run):
    folder, out = run
    names = ["f1", "top_1", "balanced_accuracy"]
    header = next(line for line in out.splitlines() if line.startswith("epoch "))
    assert header.split()[-2:] == names[1:]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    page = (folder / "report.html").read_text()
    events = b"".join(file.read_bytes() for file in (folder / "tensorboard").iterdir())
    for name in names:
        assert all(0 <= record[name] <= 1 for record in records)
        label = name.replace("_", " ")
        assert f"<dt>{label}</dt><dd>{100 * records[-1][name]:.2f}" in page
        assert f'<th scope="col">{label}</th>' in page
        assert f"epoch/{name}".encode() in events


def test_epochs_are_compared_by_the_metric_that_was_named(run):
    """The line with the final score, the report and the checkpoints agree on the best epoch."""
    folder, out = run
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = records[jx.Best("f1").of(records)]
    line = f"f1 {100 * best['f1']:.2f} % (of epoch {best['epoch'] + 1}, the best)"
    assert out.splitlines()[-3].startswith(line)
    assert f"best f1, epoch {best['epoch'] + 1}</dt>" in (folder / "report.html").read_text()
    saves = StoredCheckpoints(open_run(folder)[0].checkpoints)
    assert saves.best_step() == 2 * (1 + best["epoch"])


def test_epochs_are_compared_by_what_they_record_alone():
    by_loss = recipe_of(Config.model_validate({"fit": {"best": "valid_loss"}})).task
    assert by_loss == dataclasses.replace(jx.single_label(), best=jx.Best("valid_loss", "lowest"))
    by_error = recipe_of(Config.model_validate({"fit": {"best": "error_rate"}})).task
    assert by_error.best == jx.Best("error_rate", "lowest")
    line = r"^fit\.best = f1: should be one of accuracy, error_rate, .*valid_loss.*--metrics f1"
    with pytest.raises(ConfigError, match=line):
        recipe_of(Config.model_validate({"fit": {"best": "f1"}}))


def test_the_recall_of_each_class_is_told_rarest_first(run):
    (line,) = [line for line in run[1].splitlines() if line.startswith("recall")]
    assert re.fullmatch(r"recall  red [01]\.\d{4} \(of 2\), blue [01]\.\d{4} \(of 6\)", line)


def test_evaluate_has_balanced_accuracy(run, monkeypatch, capsys, tmp_path):
    argv = ["evaluate", str(run[0]), "--json", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", argv)
    assert evaluate.main() == 0
    document = json.loads(capsys.readouterr().out)
    matrix = np.array(document["confusion_matrix"])
    recalls = np.diag(matrix) / matrix.sum(axis=1)
    assert document["balanced_accuracy"] == pytest.approx(recalls.mean())


def test_a_run_records_what_it_was_told(run):
    config = open_run(run[0])[1]
    assert (config.fit.class_weights, config.data.sampler) == ("sqrt", "sqrt")
    assert config.fit.metrics == ("f1", "top_1")
    for text in ("balancd", "weights.csv"):
        with pytest.raises(ValueError, match=r"should be none, balanced, sqrt or a \.toml file"):
            Config.model_validate({"fit": {"class_weights": text}})
