"""Splits put each item into exactly one part, whatever the order in which items are listed."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxch5.data.block import DataBlock
from jaxch5.data.source import Source, digits
from jaxch5.data.split import column_split, divide, folder_split, given_split, random_split
from jaxch5.errors import DataError


def source_of(labels, references=None, columns=None) -> Source:
    labels = np.asarray(labels, np.int32)
    classes = tuple(f"class {number}" for number in range(int(labels.max()) + 1))
    references = references or [f"{number:05d}.png" for number in range(len(labels))]
    return Source(classes, labels, references, lambda item: b"", columns or {})


# Each class has at least two items, as random splits require, and a tenth of all items is at least
# one item.
label_lists = (
    st.lists(st.integers(2, 12), min_size=2, max_size=6)
    .filter(lambda counts: sum(counts) >= 10)
    .map(lambda counts: np.repeat(np.arange(len(counts)), counts))
)


@given(label_lists, st.floats(0.1, 0.9), st.integers(0, 2**32 - 1), st.booleans())
def test_every_item_is_in_exactly_one_part(labels, fraction, seed, stratify):
    """A random split uses each item once and leaves pictures of every class for training.

    Without stratification this may be impossible; the error then suggests `--data.stratify`.
    """
    refusal = "" if stratify else "no picture for training.*--data.stratify"
    try:
        train, valid = random_split(fraction, seed, stratify)(source_of(labels))
    except DataError as error:
        if refusal and re.search(refusal, str(error)):
            return
        raise
    assert len(np.unique(labels[train])) == len(np.unique(labels))
    both = np.concatenate([train, valid])
    np.testing.assert_array_equal(np.sort(both), np.arange(len(labels)))
    assert len(train)
    assert len(valid)


@given(label_lists, st.integers(0, 2**32 - 1), st.booleans(), st.randoms())
def test_the_order_of_the_items_is_no_matter(labels, seed, stratify, random):
    """The same names and seed hold out the same names, however the source lists them."""
    source = source_of(labels)
    order = list(range(len(source)))
    random.shuffle(order)
    shuffled = source_of(labels[order], [source.references[item] for item in order])

    def held_out(source: Source) -> set[str]:
        try:
            return {source.references[i] for i in random_split(0.3, seed, stratify)(source)[1]}
        except DataError as error:
            return {str(error)}

    assert held_out(source) == held_out(shuffled)


@given(label_lists, st.floats(0.1, 0.9), st.integers(0, 9), st.booleans(), st.data())
def test_a_reference_is_in_one_part_and_drawn_as_if_it_stood_there_once(
    labels, fraction, seed, stratify, data
):
    """Rows with the same reference are in one part, and do not change the parts of other rows."""
    source = source_of(labels)
    items = st.integers(0, len(labels) - 1)
    again = np.array(data.draw(st.lists(items, max_size=2 * len(labels))), int)
    order = data.draw(st.permutations([*range(len(labels)), *again]))
    repeated = source_of(labels[order], [source.references[item] for item in order])
    split = random_split(fraction, seed, stratify)
    try:
        once = [{source.references[item] for item in part} for part in divide(source, split)]
    except DataError:
        with pytest.raises(DataError):
            divide(repeated, split)
        return
    train, valid = divide(repeated, split)
    assert [{repeated.references[item] for item in part} for part in (train, valid)] == once
    assert len(train) + len(valid) == len(repeated)


def test_the_split_of_the_digits_stays_what_it_is():
    """The digits' split is fixed: another generator or order would change published accuracies."""
    train, valid = random_split(0.2, seed=42)(digits())
    assert (len(train), len(valid)) == (1438, 359)
    rows = np.random.Generator(np.random.PCG64(42)).permutation(1797)[:359]
    np.testing.assert_array_equal(valid, np.sort(rows))


def test_another_seed_is_another_split():
    source = digits()
    assert set(random_split(seed=1)(source)[1]) != set(random_split(seed=2)(source)[1])


@given(label_lists, st.floats(0.1, 0.9))
def test_stratified_shares_are_those_of_the_whole(labels, fraction):
    """A stratified split gives validation its share of each class, within one item.

    Each part has at least one item of each class.
    """
    _, valid = random_split(fraction, stratify=True)(source_of(labels))
    for count, held_out in zip(np.bincount(labels), np.bincount(labels[valid]), strict=True):
        assert 1 <= held_out <= count - 1
        assert abs(held_out - fraction * count) <= 1


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_is_named(fraction):
    with pytest.raises(DataError, match="valid_fraction"):
        random_split(fraction)


def test_a_class_with_one_picture_is_named():
    with pytest.raises(DataError, match="class 1 has 1 picture:"):
        random_split()(source_of([0, 0, 0, 1]))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=4, max_size=20),
    st.sampled_from(["folder", "is_valid", "own"]),
)
def test_a_class_without_training_pictures_is_refused_whatever_the_split(items, kind):
    labels = np.array([*(label for label, _ in items), *range(4)])
    in_valid = np.array([*(held_out for _, held_out in items), True, True, True, True])
    if in_valid.all():
        return
    columns = {
        "folder": {"folder": ["valid" if held_out else "train" for held_out in in_valid]},
        "is_valid": {"is_valid": in_valid.tolist()},
        "own": {},
    }[kind]
    split = given_split()
    if kind == "own":
        split = lambda source: (np.flatnonzero(~in_valid), np.flatnonzero(in_valid))  # noqa: E731
    block = DataBlock(source_of(labels, columns=columns), split, 8, 8)
    missing = sorted(set(range(4)) - set(labels[~in_valid]))
    if missing:
        with pytest.raises(DataError, match=f"class {missing[0]} has no picture for training"):
            block.load(1)
    else:
        assert len(block.load(1).train.items) == (~in_valid).sum()


def test_an_empty_part_is_an_error():
    with pytest.raises(DataError, match="0 for validation"):
        random_split(0.1)(source_of([0, 0, 1, 1]))


def test_folder_split_follows_the_folders():
    columns = {"folder": ["train", "val", "train", "valid"]}
    train, valid = folder_split()(source_of([0, 0, 1, 1], columns=columns))
    assert (train.tolist(), valid.tolist()) == ([0, 2], [1, 3])
    train, valid = given_split()(source_of([0, 0, 1, 1], columns=columns))
    assert (train.tolist(), valid.tolist()) == ([0, 2], [1, 3])


def test_folder_split_of_other_names():
    columns = {"folder": ["fit", "fit", "held", "held"]}
    train, valid = folder_split("fit", "held")(source_of([0, 1, 0, 1], columns=columns))
    assert (train.tolist(), valid.tolist()) == ([0, 1], [2, 3])
    with pytest.raises(DataError, match="held"):
        folder_split("fit", "valid")(source_of([0, 1, 0, 1], columns=columns))


def test_column_split_follows_the_column():
    columns = {"is_valid": [False, True, True, False]}
    train, valid = column_split()(source_of([0, 0, 1, 1], columns=columns))
    assert (train.tolist(), valid.tolist()) == ([0, 3], [1, 2])
    train, valid = given_split()(source_of([0, 0, 1, 1], columns=columns))
    assert (train.tolist(), valid.tolist()) == ([0, 3], [1, 2])


@pytest.mark.parametrize("split", [folder_split(), column_split(), given_split()])
def test_a_source_without_a_split_of_its_own_says_so(split):
    with pytest.raises(DataError, match=r"no column.*--data\.split random"):
        split(source_of([0, 0, 1, 1]))


def test_folder_split_reads_the_words_of_a_column():
    """Strings in `is_valid` are read as `column_split` reads them, so "no" does not mean true."""
    columns = {"folder": ["cam1"] * 4, "is_valid": ["", "no", "yes", "No"]}
    train, valid = folder_split()(source_of([0, 1, 0, 1], columns=columns))
    assert (train.tolist(), valid.tolist()) == ([0, 1, 3], [2])


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize(
    ("parts", "named"),
    [
        (([0, 1, 2], [2, 3]), r"00002\.png is both for training and for validation"),
        (([0, 1, 2], []), "leaves 3 pictures for training and 0 for validation"),
        (([], [0]), "leaves 0 pictures for training and 1 for validation"),
        (([0, 0, 1], [3]), "item 0 occurs more than once among the items for training"),
        (([0, 1], [6]), "there is no item 6 for validation"),
        (([0, 1], [-1]), "there is no item -1 for validation"),
        (([0.0, 1.0], [2]), "list of items for training is not an array of item numbers"),
        (([0, [1, 2]], [3]), "list of items for training is not an array of item numbers"),
        (({0, 1}, [2]), "set of items for training is not an array of item numbers"),
        (([0, 1], [True, False]), "the mask of items for validation has 2 values"),
        (([0, 1], [2], [3]), "should return two arrays.*not 3 parts"),
        (None, "should return two arrays.*not None"),
    ],
)
def test_what_a_split_of_ones_own_returns_is_checked(parts, named, in_parts):
    """Wrong parts are named for every source, even for one that has parts of its own."""
    source = replace(source_of([0, 1] * 3), in_parts=in_parts)
    with pytest.raises(DataError, match=named):
        divide(source, lambda source: parts)


@pytest.mark.parametrize(
    "parts",
    [
        (range(4), range(4, 6)),
        ([0, 1, 2, 3], (4, 5)),
        (np.arange(6) < 4, np.arange(6) >= 4),
        ([True] * 4 + [False] * 2, [False] * 4 + [True] * 2),
        (np.arange(4, dtype=np.uint8), np.arange(4, 6, dtype=np.int16)),
    ],
)
def test_a_split_of_ones_own_may_return_numbers_or_masks(parts):
    train, valid = divide(source_of([0, 1] * 3), lambda source: parts)
    assert (train.tolist(), valid.tolist()) == ([0, 1, 2, 3], [4, 5])
