"""A task defines activation, answers, loss, metrics and the rule by which epochs are compared."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxch5.config.settings import ModelConfig
from jaxch5.errors import ConfigError
from jaxch5.metrics import FIELDS, is_number
from jaxch5.results.interpretation import Interpretation
from jaxch5.task import NAMED, SOFTMAX, Best, computed, one_vs_rest, single_label, task_of

BEST = SOFTMAX.best
NUMBERS = st.sampled_from([0.5, 0.9, 1.0, math.nan, None])
RECORDS = st.lists(st.fixed_dictionaries({"accuracy": NUMBERS, "valid_loss": NUMBERS}), max_size=8)


@given(RECORDS)
def test_no_record_beats_the_best(records):
    """No record is more accurate than the best, or as accurate with a lower loss.

    Among records that are equal in both, the last is the best.
    """
    best = BEST.of(records)
    known = [record for record in records if is_number(record["accuracy"])]
    assert (best is None) == (not known)
    if best is None:
        return
    chosen = records[best]
    assert chosen["accuracy"] == max(record["accuracy"] for record in known)
    equals = [record for record in known if record["accuracy"] == chosen["accuracy"]]
    losses = [record["valid_loss"] for record in equals if is_number(record["valid_loss"])]
    assert not losses or chosen["valid_loss"] == min(losses)
    assert BEST.rank(chosen) not in map(BEST.rank, records[best + 1 :])


@given(RECORDS)
def test_the_best_so_far_of_each_epoch_leads_to_the_best_of_all(records):
    """Both ways of keeping the best end with the best of all records.

    In memory, the better of two records is kept after each epoch; of checkpoints, the one with the
    highest rank is kept.
    """
    kept = None
    for record in records:
        before = [] if kept is None else [kept]
        if BEST.of([*before, record]) == len(before):
            kept = record
    best = BEST.of(records)
    assert kept is (None if best is None else records[best])
    if best is not None:
        assert sorted(records, key=BEST.rank)[-1] is records[best]


@given(RECORDS)
def test_the_lowest_is_the_best_where_the_rule_says_so(records):
    best = Best("valid_loss", "lowest").of(records)
    known = [record["valid_loss"] for record in records if is_number(record["valid_loss"])]
    assert (best is None) == (not known)
    assert best is None or records[best]["valid_loss"] == min(known)


LOGITS = np.array([[3.0, -2.0, 0.5], [-1.0, -3.0, -0.2], [0.1, 4.0, 2.0]], np.float32)


def test_a_sigmoid_answers_none_of_these_where_no_class_is_probable():
    """A softmax answers with the most probable class, however improbable that is."""
    task = one_vs_rest(0.5)
    np.testing.assert_allclose(task.probabilities(LOGITS), 1 / (1 + np.exp(-LOGITS)), rtol=1e-6)
    assert task.decode(task.probabilities(LOGITS)).tolist() == [0, 3, 1]
    assert task.answers(["a", "b", "c"]) == ("a", "b", "c", "none of these")
    assert SOFTMAX.decode(SOFTMAX.probabilities(LOGITS)).tolist() == [0, 2, 1]
    for without in (SOFTMAX, one_vs_rest(0)):
        assert without.answers(("a", "b", "c")) == ("a", "b", "c")


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.1, 1.0])
def test_a_probability_at_the_threshold_has_one_answer_in_every_precision(threshold):
    """Converting float32 probabilities to float64, as for an interpretation, changes no answer."""
    task, there = one_vs_rest(threshold), np.array([[threshold, 0.0]], np.float32)
    assert task.decode(there) == task.decode(there.astype(np.float64))


@pytest.mark.parametrize("task", [single_label(), one_vs_rest()], ids=lambda task: task.name)
def test_the_loss_of_probabilities_is_that_of_their_logits(task):
    """Training minimizes the same loss by which top losses and suspects are found."""
    labels = np.array([0, 1, 2])
    expected = [
        float(task.loss(jnp.asarray(row[None]), np.array([n]))) for n, row in enumerate(LOGITS)
    ]
    found = task.item_losses(task.probabilities(LOGITS).astype(np.float64), labels)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_an_answer_of_none_of_these_is_wrong_in_every_score():
    """The metrics of epochs, the classification report and the confusion matrix agree."""
    probabilities = np.array([[0.9, 0.2], [0.3, 0.1], [0.4, 0.2], [0.2, 0.8]])
    labels, task = np.array([0, 0, 1, 1]), one_vs_rest()
    scores = {
        name: metric(probabilities, labels)
        for name, metric in task.scores(["precision", "recall"]).items()
    }
    assert scores == {"accuracy": 0.5, "error_rate": 0.5, "precision": 1.0, "recall": 0.5}
    interp = Interpretation(labels, probabilities, ["a", "b"], task=task)
    report = interp.classification_report()
    assert (report.accuracy, report.macro.precision, report.macro.recall) == (0.5, 1.0, 0.5)
    assert [line.name for line in report.classes] == ["a", "b"]
    assert interp.confusion_matrix().tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 0]]
    assert interp.most_confused() == [("a", "none of these", 1), ("b", "none of these", 1)]
    ticks = interp.plot_confusion_matrix().axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["a", "b", "none of these"]


def test_none_of_these_is_no_class_that_a_label_could_be_mistaken_for():
    """A suspect is an item that the network is sure belongs to another class."""
    probabilities = np.array([[0.01, 0.8], [0.01, 0.95]])
    interp = Interpretation([0, 0], probabilities, ["a", "b"], task=one_vs_rest(0.9))
    assert [suspect.item for suspect in interp.suspects()] == [1]


def test_calibration_is_of_the_most_probable_class_whatever_the_answer():
    probabilities = np.array([[0.4, 0.1], [0.4, 0.1]])
    interp = Interpretation([0, 1], probabilities, ["a", "b"], task=one_vs_rest())
    assert interp.calibration(bins=2).accuracy[0] == 0.5


def doubled(probabilities, labels):
    return 2.0


def test_scores_are_the_tasks_and_others_each_once():
    assert list(SOFTMAX.scores([doubled, "f1", "error_rate"])) == [
        "accuracy",
        "error_rate",
        "doubled",
        "f1",
    ]
    with pytest.raises(ConfigError, match="doubled: two metrics have this name"):
        SOFTMAX.scores([doubled, lambda *_: 0.0, doubled])


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("f1", "f1"),
        (doubled, "doubled"),
        (None, "None"),
        ({"f1": doubled}, "{'f1': "),
        (iter(["f1"]), "<list_iterator"),
    ],
)
def test_what_is_not_several_metrics_is_refused(given, shown):
    """The letters of a string are no metrics, nor are the keys of a mapping.

    An iterator would give its metrics only once, and the epochs would record none of them.
    """
    for refused in (SOFTMAX.scores, lambda more: dataclasses.replace(SOFTMAX, metrics=more)):
        with pytest.raises(ConfigError, match=f"fit.metrics = {shown}.*should be several metrics"):
            refused(given)


@pytest.mark.parametrize("name", FIELDS)
def test_a_metric_does_not_replace_what_else_an_epoch_records(name):
    def metric(probabilities, labels):
        return 0.5

    metric.__name__ = name
    for refused in (SOFTMAX.scores, lambda more: dataclasses.replace(SOFTMAX, metrics=more)):
        with pytest.raises(ConfigError, match=f"fit.metrics = {name}: each epoch records"):
            refused((metric,))


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.array(0.5), jnp.float32(0.5), jnp.bfloat16(0.5)]
)
def test_the_scalars_of_every_library_are_scores(value):
    """JSON, in which runs keep their records, has only Python's own numbers."""
    score = computed({"own": lambda *_: value}, LOGITS, np.arange(3))["own"]
    assert type(score) is float
    assert score == 0.5
    assert computed({"wrong": lambda p, _: (p > 1).sum()}, LOGITS, np.arange(3)) == {"wrong": 3.0}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.zeros(3), "ndarray of shape (3,)"),
        (jnp.zeros((1, 1)), "ArrayImpl of shape (1, 1)"),
        ("0.5", "str"),
        (None, "NoneType"),
        ([0.5], "list"),
    ],
)
def test_what_is_not_one_number_is_no_score(value, kind):
    with pytest.raises(ConfigError) as error:
        computed({"own": lambda *_: value}, LOGITS, np.arange(3))
    assert str(error.value) == (
        "fit.metrics = own: should return one number, such as a mean over the items, but returned "
        f"a value of type {kind}"
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"metrics": ("f2",)}, "fit.metrics = f2: should be one of accuracy"),
        ({"metrics": ("f1",)}, "best = accuracy: epochs should be compared by one of f1, "),
        ({"threshold": 1.5}, "threshold = 1.5: should be from 0 to 1"),
        ({"activation": lambda logits: 5 * logits}, "name = softmax: is the name of a built-in"),
        ({"item_losses": one_vs_rest().item_losses}, "name = softmax: is the name of a built-in"),
    ],
)
def test_a_task_that_cannot_be_is_refused_when_it_is_made(changes, line):
    with pytest.raises(ConfigError, match=line):
        dataclasses.replace(SOFTMAX, **changes)


def test_a_task_is_had_by_its_name():
    """The settings accept the name of every task in `NAMED`; other tasks have an import path."""
    assert {ModelConfig(task=name).task for name in NAMED} == {"softmax", "sigmoid"}
    assert task_of("softmax") is SOFTMAX
    assert task_of("sigmoid", 0.25) == one_vs_rest(0.25)
    assert task_of("jaxch5.task:SOFTMAX").name == "jaxch5.task:SOFTMAX"
    for name, line in (("hinge", "should be an import path"), ("math:pi", "should be a Task")):
        with pytest.raises(ConfigError, match=f"model.task = {name}: {line}"):
            task_of(name)
