"""The metrics agree with scikit-learn's, and can be chosen by their names."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from jaxch5.errors import ConfigError
from jaxch5.metrics import METRICS, Best, accuracy, metric_of, top_k


def answers(seed, items=40, classes=5):
    """Returns probabilities without ties, and labels, which may lack some of the classes."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(classes), items), rng.integers(0, classes, items)


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 12), st.integers(1, 7))
def test_metrics_are_scikit_learns(seed, items, classes):
    """Each metric agrees with scikit-learn's.

    The sets are small, so that some classes have no items or no predictions.
    """
    probabilities, labels = answers(seed, items, classes)
    predicted = probabilities.argmax(axis=1)
    macro = {"average": "macro", "zero_division": 0.0}
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "error_rate": 1 - sk.accuracy_score(labels, predicted),
        "precision": sk.precision_score(labels, predicted, **macro),
        "recall": sk.recall_score(labels, predicted, **macro),
        "f1": sk.f1_score(labels, predicted, **macro),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
    }
    assert expected.keys() == METRICS.keys()
    for name, value in expected.items():
        assert METRICS[name](probabilities, labels) == pytest.approx(value, abs=1e-12), name


@given(seeds, st.integers(1, 4))
def test_top_k_is_scikit_learns(seed, k):
    probabilities, labels = answers(seed)
    expected = sk.top_k_accuracy_score(labels, probabilities, k=k, labels=range(5))
    assert top_k(probabilities, labels, k) == pytest.approx(expected)


@given(seeds)
def test_top_k_grows_with_k_from_accuracy_to_one(seed):
    """A larger k never makes `top_k` smaller, also when probabilities are equal.

    There are only three different probabilities here.
    """
    rng = np.random.default_rng(seed)
    probabilities, labels = rng.integers(0, 3, (20, 4)) / 3, rng.integers(0, 4, 20)
    shares = [top_k(probabilities, labels, k) for k in range(1, 7)]
    assert shares == sorted(shares)
    assert shares[0] == accuracy(probabilities, labels)
    assert shares[3:] == [1.0, 1.0, 1.0]


def test_of_equal_probabilities_the_first_is_predicted():
    even = np.full((4, 4), 0.25)
    assert accuracy(even, np.arange(4)) == 0.25
    assert top_k(even, np.arange(4), 3) == 0.75


def test_one_of_each_kind_wrong():
    """All metrics are 0.5 if each class is once recognized and once mistaken for the next one."""
    labels = np.array([0, 0, 1, 1, 2, 2])
    probabilities = np.eye(3)[[0, 1, 1, 2, 2, 0]]
    for name in METRICS:
        assert METRICS[name](probabilities, labels) == pytest.approx(0.5), name


def test_a_class_that_is_not_there_counts_nothing_and_one_that_is_taken_for_it_zero():
    probabilities, labels = np.eye(4)[[0, 1, 3]], np.array([0, 1, 1])
    assert metric_of("recall")[1](probabilities, labels) == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert metric_of("f1")[1](np.eye(4)[:2], np.arange(2)) == 1


@pytest.mark.parametrize("name", [*METRICS, "top_1", "top_2"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_of_nothing_and_of_what_is_no_number_there_is_no_score(name, value):
    """For an empty set, or if a probability is not a finite number, each metric is NaN.

    It is not the score of predicting class 0, which would be the first of equal classes.
    """
    probabilities, labels = np.eye(3), np.arange(3)
    assert np.isnan(metric_of(name)[1](probabilities[:0], labels[:0]))
    probabilities[1, 2] = value
    assert np.isnan(metric_of(name)[1](probabilities, labels))


def test_every_name_has_its_function():
    for name, function in METRICS.items():
        assert metric_of(name) == (name, function)
    probabilities, labels = answers(0)
    name, top_3 = metric_of("top_3")
    assert name == "top_3"
    assert top_3(probabilities, labels) == top_k(probabilities, labels, 3)


def test_a_function_goes_by_its_own_name():
    def kappa(probabilities, labels):
        return sk.cohen_kappa_score(labels, probabilities.argmax(axis=1))

    assert metric_of(kappa) == ("kappa", kappa)
    assert metric_of(partial(top_k, k=2))[0] == "top_k"


@pytest.mark.parametrize("metric", [*METRICS, "top_3", partial(top_k, k=3)])
def test_the_metrics_of_the_package_are_shown_as_percentages(metric):
    name, _ = metric_of(metric)
    assert Best(name).shown({name: 0.95}) == "95.00 %"


@pytest.mark.parametrize("unknown", ["acuracy", "top_0", "top_", "top_5x", "", 3, None])
def test_an_unknown_metric_is_an_error_that_names_the_known(unknown):
    with pytest.raises(ConfigError) as error:
        metric_of(unknown)
    message = str(error.value)
    assert all(name in message for name in (*METRICS, "top_K"))
    assert "\n" not in message


@pytest.mark.parametrize("name", ["valid_loss", "train_loss", "error_rate", "accuracy", "own"])
def test_losses_are_best_where_they_are_lowest_unless_the_rule_says_otherwise(name):
    falls = name in ("valid_loss", "train_loss", "error_rate")
    assert Best(name) == Best(name, "lowest" if falls else "highest")
    assert Best(name, "highest").direction == "highest"


@pytest.mark.parametrize("direction", ["min", "lower", "Lowest", "", 1])
def test_a_direction_that_is_misspelt_is_refused(direction):
    with pytest.raises(
        ConfigError, match=f"^direction = {direction}: should be highest or lowest$"
    ):
        Best("valid_loss", direction)
