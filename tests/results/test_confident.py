"""Confident learning agrees with examples worked by hand, and finds wrong labels in any order."""

import numpy as np
import pytest

from jaxch5.errors import ConfigError
from jaxch5.results.confident import confident_joint, estimate_joint, find_label_issues


def test_the_joint_of_an_example_worked_by_hand():
    """The counts, wrong labels and doubts of a small example are those computed by hand.

    The classes' thresholds are 0.6, 0.6 and 0.8, so the second item confidently belongs to class 1,
    and the fourth to class 0.
    """
    labels = np.array([0, 0, 1, 1, 2])
    probabilities = np.array(
        [
            [0.9, 0.1, 0.0],
            [0.3, 0.6, 0.1],
            [0.1, 0.9, 0.0],
            [0.7, 0.3, 0.0],
            [0.1, 0.1, 0.8],
        ]
    )
    assert confident_joint(labels, probabilities).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert estimate_joint(labels, probabilities).sum(axis=1).tolist() == [2, 2, 1]
    issues = find_label_issues(labels, probabilities)
    assert issues.wrong.tolist() == [False, True, False, True, False]
    assert issues.estimated == 2
    assert issues.rival.tolist() == [1, 1, 0, 0, 0]
    assert issues.doubt == pytest.approx([0.1, 2 / 3, 0.1, 0.7, 1 / 9])
    assert issues.disputed.tolist() == [False, True, False, True, False]


def test_the_doubt_by_calibrated_probabilities_worked_by_hand():
    """With `calibrated`, the doubts of a small example are those computed by hand.

    The probabilities of class a add up to 1.6, of which items labelled b have 0.4, a rate of 1/4.
    Those of class b add up to 2.4, of which items labelled a have 0.8, a rate of 1/3. Each rate is
    averaged with the mean of both, 7/24, and the result is divided by this mean.
    """
    labels = np.array([0, 0, 1, 1])
    sure = np.array([0.9, 0.3, 0.4, 0.0])
    weights = (1 + np.array([8, 6]) / 7) / 2  # for items labelled a, then for b
    others = np.array([0.1, 0.7, 0.4, 0.0]) * np.repeat(weights, 2)
    own = np.array([0.9, 0.3, 0.6, 1.0])
    share, margin = others / (own + others), (others - own) / (own + others)
    doubt = find_label_issues(labels, np.stack([sure, 1 - sure], axis=1), calibrated=True).doubt
    assert doubt == pytest.approx(0.9 * share + 0.1 * (1 + margin) / 2)


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_known_noise_is_counted_by_class_pair(rate):
    """The number of wrong labels is estimated for each pair of classes.

    The probabilities take the noise into account, as those of an ideal classifier would.
    """
    rng = np.random.default_rng(0)
    # Some labels are changed to the next class; those of the last class are all correct.
    noise = np.eye(3) * (1 - rate) + np.eye(3, k=1) * rate
    noise[2, 2] = 1
    truth = rng.integers(3, size=6000)
    labels = (rng.random(6000)[:, None] > noise[truth].cumsum(axis=1)).sum(axis=1)
    sure = 0.94 * np.eye(3)[truth] + 0.02
    probabilities = sure @ noise
    joint = estimate_joint(labels, probabilities)
    actual = np.zeros((3, 3))
    np.add.at(actual, (labels, truth), 1)
    # The tolerance is a tenth of a pair's wrong labels.
    assert joint == pytest.approx(actual, abs=0.1 * rate * 2000)
    issues = find_label_issues(labels, probabilities)
    assert issues.estimated == pytest.approx((labels != truth).sum(), rel=0.05)
    assert (issues.wrong == (labels != truth)).mean() > 0.99


def test_neither_the_order_of_items_nor_that_of_classes_matters():
    rng = np.random.default_rng(1)
    labels = rng.integers(4, size=200)
    probabilities = rng.dirichlet(np.ones(4), 200)
    issues = find_label_issues(labels, probabilities)
    items, classes = rng.permutation(200), rng.permutation(4)
    other = find_label_issues(np.argsort(classes)[labels[items]], probabilities[items][:, classes])
    assert other.doubt == pytest.approx(issues.doubt[items])
    assert np.array_equal(other.disputed, issues.disputed[items])
    assert np.array_equal(other.wrong, issues.wrong[items])
    assert np.allclose(other.joint, issues.joint[np.ix_(classes, classes)])


@pytest.mark.parametrize("calibrated", [False, True])
def test_doubt_is_from_0_to_1_and_a_label_is_disputed_if_a_class_is_more_probable(calibrated):
    rng = np.random.default_rng(2)
    labels = rng.integers(5, size=500)
    probabilities = rng.dirichlet(np.full(5, 0.3), 500)
    issues = find_label_issues(labels, probabilities, calibrated)
    assert issues.doubt.min() >= 0
    assert issues.doubt.max() <= 1
    assert np.array_equal(issues.disputed, probabilities.argmax(axis=1) != labels)
    if not calibrated:
        assert np.array_equal(issues.doubt > 0.5, issues.disputed)


def test_of_two_equal_doubts_the_one_of_the_more_frequent_mistake_is_larger():
    """Of two equally unsure items, the one with the more frequent mistake is doubted more.

    One looks like class 1 and the other like class 2. Both are labelled 0, and of the items
    labelled 0, many look like class 1 but few look like class 2.
    """
    labels = np.zeros(42, int)
    labels[20:30], labels[30:40] = 1, 2
    probabilities = np.eye(3)[labels] * 0.9 + 0.1 / 3
    probabilities[10:20] = 0.4, 0.5, 0.1
    probabilities[40:] = [0.3, 0.6, 0.1], [0.3, 0.1, 0.6]
    doubt = find_label_issues(labels, probabilities, calibrated=True).doubt
    assert doubt[40] > doubt[41] + 0.05


def test_a_class_without_items_and_one_that_nothing_looks_like_take_no_others():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.5, 0.0, 0.5], [0.6, 0.0, 0.4], [0.7, 0.0, 0.3], [1.0, 0.0, 0.0]])
    joint = estimate_joint(labels, probabilities)
    assert joint.tolist() == [[3, 0, 0], [1, 0, 0], [0, 0, 0]]
    issues = find_label_issues(labels, probabilities)
    assert issues.wrong.tolist() == [False, False, False, True]
    assert np.isfinite(issues.doubt).all()


def test_right_labels_leave_nothing_to_find():
    issues = find_label_issues(np.arange(10) % 2, np.eye(2)[np.arange(10) % 2])
    assert not issues.wrong.any()
    assert issues.estimated == 0
    assert not issues.doubt.any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="targets run from 0 to 3"):
        find_label_issues(np.array([0, 3]), np.ones((2, 2)) / 2)
    with pytest.raises(ConfigError, match="probabilities"):
        find_label_issues(np.array([0, 1]), np.full((2, 2), np.nan))
