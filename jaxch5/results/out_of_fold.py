"""Divides items into folds, and predicts each fold with a linear head trained on the others."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxch5.data.parallel import in_order
from jaxch5.task import SMALLEST
from jaxch5.util.seeds import check_seed

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

# Values of scikit-learn's C for features of norm 1, the strongest regularization first. The best
# value depends on the features and labels; the choice decides how many wrong labels are found.
STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-3, 9))
USUAL = 1.0
ROWS = 1024
NEAREST = 3


def stratified_folds(
    labels: Int[np.ndarray, "items"],
    count: int,
    seed: int = 0,
    same: Iterable[Sequence[int]] = (),
) -> Int[np.ndarray, "items"]:
    """Assigns items to folds, spreading each class evenly over the folds.

    If all items of a class would be in a single fold, they are assigned to no fold (-1), since a
    classifier trained on the other folds could not learn the class.

    Args:
        labels: Class of each item.
        count: Number of folds; there are fewer if some would be empty.
        seed: Seed for the order in which items are assigned.
        same: Groups of items that belong in the same fold, such as copies of one picture.

    Example:
        >>> folds = stratified_folds(np.array([0, 0, 0, 0, 1, 1, 2]), 2)
        >>> np.bincount(folds[:4]).tolist(), sorted(folds[4:6].tolist()), int(folds[6])
        ([2, 2], [0, 1], -1)
    """
    group = np.arange(len(labels))
    for items in same:
        # Groups that share an item are merged.
        group[np.isin(group, group[list(items)])] = group[items[0]]
    members: dict[int, list[int]] = {}
    for item in (
        np.random.Generator(np.random.PCG64(check_seed(seed))).permutation(len(labels)).tolist()
    ):
        members.setdefault(int(group[item]), []).append(item)
    dealt = np.zeros((labels.max(initial=0) + 1, count), int)
    folds = np.full(len(labels), -1)
    for items in members.values():
        # Take the fold with the fewest items of the first item's class; if several folds have
        # equally few, take the smallest of them.
        fold = np.lexsort((dealt.sum(axis=0), dealt[labels[items[0]]]))[0]
        folds[items] = fold
        np.add.at(dealt[:, fold], labels[items], 1)
    judged = (dealt > 0).sum(axis=1)[labels] > 1
    # Folds in which no item can be judged are empty now, so the others are renumbered.
    folds[judged] = np.unique(folds[judged], return_inverse=True)[1]
    return np.where(judged, folds, -1)


def judge_by_heads(
    features: Float[np.ndarray, "items channels"],
    labels: Int[np.ndarray, "items"],
    folds: Int[np.ndarray, "items"],
    classes: int,
) -> Float[np.ndarray, "items classes"]:
    """Computes class probabilities of items with linear heads that were not trained on them.

    A fold's head is a softmax regression on the features of all items outside the fold. These
    items also decide how strongly it is regularized: heads trained on all of them except the next
    fold are compared by how well they predict the next fold. Items in no fold get zeros.

    Args:
        features: Features of the items.
        labels: Index of each item's class.
        folds: Fold of each item, or -1; see `stratified_folds`.
        classes: Number of classes.

    Example:
        >>> x = np.array([[-1.0], [1.0]] * 6)
        >>> labels = np.array([0, 1, 1, 1, *[0, 1] * 4])  # the third is wrong
        >>> judge_by_heads(x, labels, stratified_folds(labels, 3), classes=2).argmax(axis=1)
        array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
    """
    x = np.asarray(features, np.float32)
    x = x - x.mean(axis=0)
    x /= np.sqrt(np.square(x).mean()) or 1
    found, count = np.zeros((len(labels), classes)), folds.max() + 1

    def judge(fold: int) -> None:
        held, following = folds == fold, folds == (fold + 1) % count
        strength = _strength(x, labels, ~held & ~following, ~held & following)
        head = next(_heads(x[~held], labels[~held], [strength]))
        found[np.ix_(held, head.classes_)] = head.predict_proba(x[held])

    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # Each fold gets one thread. Threads that share a matrix product wait for one another in a busy
    # loop, which takes many times as long while other programs run.
    with warnings.catch_warnings(), threadpool_limits(1):
        # The fit need not be exact to tell which labels look wrong.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in in_order(judge, range(count)):
            pass
    return found


def _strength(
    x: Float[np.ndarray, "items channels"],
    labels: Int[np.ndarray, "items"],
    rest: Bool[np.ndarray, "items"],
    following: Bool[np.ndarray, "items"],
) -> float:
    """Chooses the regularization by how well heads trained on `rest` predict `following`."""
    known = following & np.isin(labels, labels[rest])
    if len(set(labels[rest].tolist())) < 2 or not known.any():
        return USUAL
    losses: list[np.ndarray] = []
    for head in _heads(x[rest], labels[rest], STRENGTHS):
        places = np.searchsorted(head.classes_, labels[known])
        chosen = head.predict_proba(x[known])[np.arange(len(places)), places]
        losses.append(-np.log(np.maximum(chosen, SMALLEST)))
        if losses[-1].mean() > min(map(np.mean, losses)):
            break
    # Take the strongest regularization whose loss is within a standard error of the least loss: if
    # some labels are wrong, the head with the least loss has learned some of the wrong ones.
    least = min(losses, key=np.mean)
    limit = least.mean() + least.std() / np.sqrt(len(least))
    return next(s for s, loss in zip(STRENGTHS, losses, strict=False) if loss.mean() <= limit)


def _heads(
    x: Float[np.ndarray, "items channels"],
    labels: Int[np.ndarray, "items"],
    strengths: Iterable[float],
) -> Iterator[LogisticRegression]:
    """Yields a head for each value in `strengths`, starting from the previous head's weights."""
    from sklearn.linear_model import LogisticRegression

    head = LogisticRegression(warm_start=True)
    for strength in strengths:
        yield head.set_params(C=strength / x.shape[1]).fit(x, labels)


def nearest_items(
    features: Float[np.ndarray, "items channels"],
    labels: Int[np.ndarray, "items"],
    asked: Sequence[tuple[int, int]],
    count: int = NEAREST,
) -> list[list[int]]:
    """Finds, for pairs of an item and a class, the class's items that are most like the item.

    Args:
        features: Features of the items, compared by cosine similarity after subtracting their mean.
        labels: Class of each item.
        asked: Pairs of an item and a class.
        count: Maximum number of items to find for each pair; the pair's own item is not among them.

    Example:
        >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
        >>> nearest_items(x, np.array([0, 0, 0, 1, 1]), [(0, 0), (0, 1)], count=1)
        [[2], [3]]
    """
    x = np.asarray(features, np.float32)
    x = x - x.mean(axis=0)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    found: list[list[int]] = [[] for _ in asked]
    items, classes = np.array(asked, int).reshape(-1, 2).T
    for label in np.unique(classes):
        others = np.flatnonzero(labels == label)
        for places in np.array_split(np.flatnonzero(classes == label), len(asked) // ROWS + 1):
            similar = x[items[places]] @ x[others].T
            similar[items[places][:, None] == others] = -np.inf
            order = np.argsort(-similar, axis=1, kind="stable")[:, : count + 1]
            for place, row, nearest in zip(places.tolist(), similar, order, strict=True):
                found[place] = others[nearest[np.isfinite(row[nearest])]][:count].tolist()
    return found
