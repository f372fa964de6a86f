"""Estimates by confident learning which labels are wrong (Northcutt et al., 1911.00068)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxch5.results.classification import check_probabilities

# If probabilities are calibrated, the doubt about a label is a weighted mean of two terms: one from
# the ratio of the label's and the rival's probabilities, which has this weight, and one from their
# difference. The ratio finds more of the labels that were changed at random; the difference finds
# more of those that were changed to a similar class.
SHARE = 0.9
TINY = np.finfo(float).tiny


class LabelIssues(NamedTuple):
    """Holds what out-of-sample probabilities say about labels.

    Attributes:
        doubt: How strong the evidence against the label is, from 0 to 1; see `find_label_issues`.
            docs/benchmarks.md compares this score with others.
        rival: Most probable class other than the label.
        disputed: Whether the rival is more probable than the label.
        wrong: Whether the label is likely wrong.
        joint: Estimated number of items with each label (row) and each true class (column).
    """

    doubt: Float[np.ndarray, "items"]
    rival: Int[np.ndarray, "items"]
    disputed: Bool[np.ndarray, "items"]
    wrong: Bool[np.ndarray, "items"]
    joint: Float[np.ndarray, "classes classes"]

    @property
    def estimated(self) -> int:
        """Returns the estimated number of wrong labels."""
        return round(float(self.joint.sum() - np.trace(self.joint)))


def find_label_issues(
    labels: Int[np.ndarray, "items"],
    probabilities: Float[np.ndarray, "items classes"],
    calibrated: bool = False,
) -> LabelIssues:
    """Finds labels that look wrong, and estimates how many are wrong.

    `estimate_joint` estimates, for each label and each other class, how many items with the
    label belong to that class. At most that many are marked as likely wrong: those for which the
    class's probability exceeds the label's by the most.

    The doubt about a label is the rival's probability divided by the sum of the label's and the
    rival's probabilities. With `calibrated`, the doubt also depends on the difference between these
    two probabilities, and every other class's probability is first weighted by how often items of
    that class get this label, since items of one class are often mislabelled as one particular
    other class. Networks are usually too sure of their answers for this to help: with their
    probabilities, `calibrated` finds fewer of the wrong labels.

    Args:
        labels: Index of each item's class.
        probabilities: Class probabilities of each item, by a classifier not trained on that item.
        calibrated: Whether the classifier is right as often as its probabilities say, which is
            roughly true of the heads that `judge_by_heads` trains.

    Raises:
        ConfigError: Labels or probabilities are invalid, or contradict each other.

    Example:
        >>> labels = np.array([0, 0, 0, 1, 1, 1])
        >>> sure = np.array([0.9, 0.8, 0.1, 0.2, 0.1, 0.1])  # of the first class
        >>> issues = find_label_issues(labels, np.stack([sure, 1 - sure], axis=1))
        >>> issues.estimated, issues.wrong.tolist(), round(float(issues.doubt[2]), 2)
        (1, [False, False, True, False, False, False], 0.9)
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    check_probabilities(labels, probabilities, probabilities.shape[-1], None)
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    others = probabilities.copy()
    others[rows, labels] = -1
    rival = others.argmax(axis=1)
    disputed = others[rows, rival] > own
    others[rows, labels] = 0
    if calibrated:
        others *= _weights(labels, probabilities)[labels]
    doubt = _doubt(own, others, SHARE if calibrated else 1)

    joint = estimate_joint(labels, probabilities)
    wrong = np.zeros(len(labels), bool)
    for label, other in np.argwhere(np.rint(joint) > 0):
        if label != other:
            items = np.flatnonzero(labels == label)
            margins = probabilities[items, other] - own[items]
            order = np.argsort(-margins, kind="stable")[: round(joint[label, other])]
            wrong[items[order[margins[order] > 0]]] = True
    return LabelIssues(doubt, rival, disputed, wrong, joint)


def _weights(
    labels: Int[np.ndarray, "items"], probabilities: Float[np.ndarray, "items classes"]
) -> Float[np.ndarray, "classes classes"]:
    """Returns the relative rate at which items of each class (column) get another label (row)."""
    classes = probabilities.shape[1]
    mass = np.zeros((classes, classes))
    np.add.at(mass, labels, probabilities)
    rate = mass / np.maximum(mass.sum(axis=0), TINY)
    np.fill_diagonal(rate, 0)
    mean = rate.sum() / max(classes * (classes - 1), 1)
    # As rates are estimates from few items, each is averaged with the mean rate.
    return (rate + mean) / (2 * mean) if mean else np.ones_like(rate)


def _doubt(
    own: Float[np.ndarray, "items"], others: Float[np.ndarray, "items classes"], ratio: float
) -> Float[np.ndarray, "items"]:
    """Returns the doubt about labels, from their probabilities and other classes' weighted ones."""
    strongest = others.max(axis=1)
    share = strongest / np.maximum(own + strongest, TINY)
    margin = (strongest - own) / np.maximum(own + others.sum(axis=1), TINY)
    return ratio * share + (1 - ratio) * (1 + margin) / 2


def confident_joint(
    labels: Int[np.ndarray, "items"], probabilities: Float[np.ndarray, "items classes"]
) -> Int[np.ndarray, "classes classes"]:
    """Counts items by label (row) and by the class that they confidently belong to (column).

    An item confidently belongs to a class if its probability for the class is at least as high as
    the mean of that probability over all items labelled with the class. If that holds for several
    classes, the item is counted for the most probable one of them; if it holds for none, the item
    is not counted.

    Args:
        labels, probabilities: As in `find_label_issues`.

    Example:
        >>> sure = np.array([0.9, 0.8, 0.1, 0.2, 0.1, 0.1])
        >>> confident_joint(np.array([0, 0, 0, 1, 1, 1]), np.stack([sure, 1 - sure], axis=1))
        array([[2, 1],
               [0, 2]])
    """
    classes = probabilities.shape[1]
    right = labels[:, None] == np.arange(classes)
    thresholds = (probabilities * right).sum(axis=0) / np.maximum(right.sum(axis=0), 1)
    # The tolerance is needed because the mean of equal probabilities may be rounded upward. No item
    # confidently belongs to a class if all items labelled with the class have probability 0 for it.
    confident = (probabilities >= thresholds * (1 - 1e-9)) & (thresholds > 0)
    found = np.where(confident, probabilities, -1).argmax(axis=1)
    joint = np.zeros((classes, classes), int)
    some = confident.any(axis=1)
    np.add.at(joint, (labels[some], found[some]), 1)
    return joint


def estimate_joint(
    labels: Int[np.ndarray, "items"], probabilities: Float[np.ndarray, "items classes"]
) -> Float[np.ndarray, "classes classes"]:
    """Estimates the number of items by label (row) and true class (column).

    The estimate is `confident_joint` with each row scaled to the number of items with the label.

    Args:
        labels, probabilities: As in `find_label_issues`.

    Example:
        >>> sure = np.array([0.9, 0.8, 0.1, 0.2, 0.1, 0.1])
        >>> estimate_joint(np.array([0, 0, 0, 1, 1, 1]), np.stack([sure, 1 - sure], axis=1))
        array([[2., 1.],
               [0., 3.]])
    """
    joint = confident_joint(labels, probabilities).astype(float)
    # If no item with a label confidently belongs to any class, the label counts as right.
    np.fill_diagonal(joint, np.where(joint.any(axis=1), np.diag(joint), 1))
    counts = np.bincount(labels, minlength=len(joint))
    return joint * (counts / joint.sum(axis=1))[:, None]
