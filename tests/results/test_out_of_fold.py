"""Folds are equally large and keep copies together; heads judge only items that they never saw."""

import warnings

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from jaxch5.results.out_of_fold import judge_by_heads, nearest_items, stratified_folds


def blobs(count=120, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return rng.normal(size=(count, 8)) + 2 * np.eye(classes, 8)[labels], labels


def test_folds_are_even_in_each_class_and_the_same_for_the_same_seed():
    labels = np.repeat([0, 1, 2], [103, 31, 7])
    folds = stratified_folds(labels, 5, seed=3)
    for label in range(3):
        counts = np.bincount(folds[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(folds)) <= 1
    assert np.array_equal(folds, stratified_folds(labels, 5, seed=3))
    assert not np.array_equal(folds, stratified_folds(labels, 5, seed=4))


def test_copies_are_in_one_fold_also_where_groups_share_an_item():
    labels = np.arange(40) % 2
    same = [[0, 1, 2], [7, 9], [9, 30], [30, 31]]
    folds = stratified_folds(labels, 4, same=same)
    for items in ([0, 1, 2], [7, 9, 30, 31]):
        assert len(set(folds[items])) == 1


def test_what_could_not_be_learned_elsewhere_is_in_no_fold():
    """A class is in no fold if it has only one picture, or only copies of one picture."""
    folds = stratified_folds(np.array([0, 0, 0, 1, 2, 2, 3, 3]), 3, same=[[4, 5]])
    assert (folds < 0).tolist() == [False] * 3 + [True] * 3 + [False] * 2


def test_a_label_does_not_matter_to_its_own_judgement():
    """An item's probabilities depend neither on its own label nor on labels in the same fold.

    They depend on the labels in other folds.
    """
    x, labels = blobs()
    folds = stratified_folds(labels, 4)
    before = judge_by_heads(x, labels, folds, 3)
    changed = np.where(folds == 2, (labels + 1) % 3, labels)
    after = judge_by_heads(x, changed, folds, 3)
    assert np.array_equal(before[folds == 2], after[folds == 2])
    assert not np.array_equal(before[folds == 1], after[folds == 1])
    assert before.sum(axis=1) == pytest.approx(np.ones(len(x)))


def test_wrong_labels_are_doubted():
    x, truth = blobs(300)
    labels = truth.copy()
    labels[::20] = (labels[::20] + 1) % 3
    found = judge_by_heads(x, labels, stratified_folds(labels, 5), 3)
    assert (found.argmax(axis=1) == truth).mean() > 0.85


@pytest.mark.parametrize("count", [2, 5])
def test_folds_of_few_pictures_are_numbered_without_a_gap_and_can_be_judged(count):
    """Folds are renumbered if a class's only picture, which was alone in its fold, is left out."""
    rng = np.random.default_rng(0)
    random = [rng.integers(0, 4, rng.integers(2, 12)) for _ in range(40)]
    judged = 0
    for labels in [np.array([0, 0, 1, 1, 2]), *random]:
        folds = stratified_folds(labels, count)
        kept = folds[folds >= 0]
        assert set(kept.tolist()) == set(range(len(set(kept.tolist()))))
        if len(kept) and len(set(labels.tolist())) > 1:
            found = judge_by_heads(rng.normal(size=(len(labels), 4)), labels, folds, classes=4)
            assert found.sum(axis=1) == pytest.approx((folds >= 0).astype(float))
            judged += 1
    assert judged > 20


@pytest.mark.parametrize("count", [2, 3])
def test_few_folds_few_items_and_a_class_in_one_fold_alone_are_judged(count):
    x, labels = blobs(10, classes=2)
    labels[:] = 0
    labels[[0, 1]] = 1
    folds = stratified_folds(labels, count)
    found = judge_by_heads(x, labels, folds, classes=2)
    assert np.isfinite(found).all()
    assert found.sum(axis=1) == pytest.approx(np.ones(10))


def test_items_in_no_fold_are_learned_from_and_not_judged():
    x, labels = blobs(31)
    labels[30] = 3
    found = judge_by_heads(x, labels, stratified_folds(labels, 3), classes=4)
    assert not found[30].any()
    assert (found[:30, 3] > 0).all()


def test_features_that_are_all_the_same_tell_nothing():
    labels = np.arange(12) % 2
    found = judge_by_heads(np.ones((12, 4)), labels, stratified_folds(labels, 3), classes=2)
    assert found == pytest.approx(np.full((12, 2), 0.5), abs=0.01)


def test_judging_leaves_the_threads_of_others_and_the_warnings_as_they_were():
    x, labels = blobs(30)
    before = [library["num_threads"] for library in threadpool_info()], warnings.filters[:]
    judge_by_heads(x, labels, stratified_folds(labels, 3), 3)
    after = [library["num_threads"] for library in threadpool_info()], warnings.filters[:]
    assert after == before


def test_the_nearest_are_those_of_the_largest_cosine():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(3000, 5)), rng.integers(2, size=3000)
    asked = [(item, (item + 1) % 2) for item in range(2500)]
    found = nearest_items(x, labels, asked, count=3)
    unit = x - x.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for item, label in asked[::250]:
        similar = np.where(labels == label, unit @ unit[item], -np.inf)
        similar[item] = -np.inf
        assert found[item] == np.argsort(-similar)[:3].tolist()


def test_none_is_near_where_none_is_left():
    assert nearest_items(np.eye(3), np.array([0, 0, 1]), [(2, 1), (0, 0)]) == [[], [1]]
    assert nearest_items(np.eye(3), np.array([0, 0, 1]), []) == []
