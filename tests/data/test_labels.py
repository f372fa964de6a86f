"""Tests that labels become indices into the classes, and that invalid ones are refused at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.dtypes import StringDType

from jaxch5.data.labels import check_labels, look_alikes, numbers_of
from jaxch5.data.source import Source, from_arrays
from jaxch5.errors import DataError

counts = st.integers(2, 5)


def names(count):
    return [f"class {number}" for number in range(count)]


@st.composite
def labelled(draw):
    """Draws valid labels, and the number of classes."""
    count = draw(counts)
    labels = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=8))
    return np.array(labels), count


# Functions that write the same labels in different forms.
FORMS = {
    "integers": lambda labels, count: labels,
    "small ones": lambda labels, count: labels.astype(np.uint8),
    "a list": lambda labels, count: labels.tolist(),
    "floats": lambda labels, count: labels.astype(float),
    "a column": lambda labels, count: labels[:, None],
    "names": lambda labels, count: [f"class {label}" for label in labels],
    "names of any length": lambda labels, count: np.array(names(count), StringDType())[labels],
    "names as objects": lambda labels, count: np.array(names(count), object)[labels],
    "a column of names": lambda labels, count: np.array(names(count))[labels][:, None],
    "rows": lambda labels, count: np.eye(count)[labels],
    "rows of booleans": lambda labels, count: np.eye(count, dtype=bool)[labels].tolist(),
}


@pytest.mark.parametrize("form", FORMS)
@given(labelled())
def test_forms_of_one_meaning_are_taken(form, given_labels):
    labels, count = given_labels
    taken = numbers_of(FORMS[form](labels, count), names(count))
    np.testing.assert_array_equal(taken, labels)


def test_a_torch_like_array_and_booleans_of_two_classes_are_taken():
    import jax.numpy as jnp

    np.testing.assert_array_equal(numbers_of(jnp.array([1, 0]), ["a", "b"]), [1, 0])
    np.testing.assert_array_equal(numbers_of([True, False], ["a", "b"]), [1, 0])


@given(labelled(), st.data())
def test_labels_out_of_range_are_refused_with_their_count_and_the_first_ones_name(
    given_labels, data
):
    """Both `check_labels` and the constructor of `Source` refuse labels that are out of range."""
    labels, count = given_labels
    wrong = data.draw(st.sets(st.integers(0, len(labels) - 1), min_size=1))
    labels[[*wrong]] = data.draw(st.sampled_from([-1, count, count + 250, -(2**31)]))
    references = [f"{number}.jpg" for number in range(len(labels))]
    count_of_others = len(wrong) - 1
    words = "1 other" if count_of_others == 1 else f"{count_of_others} others"
    others = f" (and {words})" if count_of_others else ""
    for make in (
        lambda: Source(tuple(names(count)), labels, references, bytes),
        lambda: check_labels(labels.tolist(), names(count), references),
    ):
        with pytest.raises(DataError) as error:
            make()
        assert str(error.value).startswith(f"{min(wrong)}.jpg{others}: label {labels[min(wrong)]} ")
        assert "\n" not in str(error.value)


NO_LABELS = {
    "soft": ([[0.5, 0.5], [1, 0]], "should be one-hot rows"),
    "two at once": ([[1, 1], [1, 0]], "should be one-hot rows"),
    "rows of another length": (np.eye(3)[[0, 1]], r"shape \[2, 3\].*with 2 columns"),
    "a fraction": ([0.0, 0.5], "item 1 has 0.5"),
    "not a number": ([np.nan, 0.0], "item 0 has nan"),
    "an unknown name": (["a", "c"], r"c is not one of the classes \(a, b\)"),
    "none": ([None, "a"], "are object"),
    "no array": ([[0], [0, 1]], "are not an array"),
    "too deep": (np.zeros((2, 2, 2), int), "are int64"),
    "one for both": (1, "are int64"),
    "another number of them": ([0, 1, 0], "3 labels"),
    "below the classes": ([-1, 0], "image 000000000: label -1 is not one of the 2 classes"),
}


@pytest.mark.parametrize("kind", NO_LABELS)
def test_what_has_no_meaning_is_one_line(kind):
    labels, reason = NO_LABELS[kind]
    with pytest.raises(DataError, match=reason) as error:
        from_arrays(np.zeros((2, 4, 4), np.uint8), labels, ["a", "b"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (["a", "a"], "a is listed 2 times"),
        ("ab", "'ab' is one name"),
        ([1, 0], "1 is int; should be a name, such as '1'"),
        ([None, "a"], "None is NoneType"),
        (["a", ""], "the name of class 1 is empty"),
        (["\u00e9", "e\u0301"], "\u00e9 is listed 2 times"),
    ],
)
def test_classes_have_a_name_each(classes, reason):
    with pytest.raises(DataError, match=reason):
        from_arrays(np.zeros((2, 4, 4), np.uint8), [0, 1], classes)
    if not isinstance(classes, str):
        with pytest.raises(DataError, match=reason):
            Source(tuple(classes), np.array([0, 1]), ["a.jpg", "b.jpg"], bytes)


@pytest.mark.parametrize(
    "classes",
    [{"a", "b"}, {"b": 1, "a": 0}, {0: "a", 1: "b"}.values(), {"a": 0, "b": 1}.keys(), b"ab", None],
    ids=lambda classes: type(classes).__name__,
)
def test_classes_that_have_no_order_of_their_own_are_refused(classes):
    """A set's order differs between processes, and a mapping's numbers would be ignored."""
    for labels in ([0, 1], ["a", "b"]):
        with pytest.raises(DataError, match=r"^classes: .*; give a list of names"):
            from_arrays(np.zeros((2, 4, 4), np.uint8), labels, classes)


@pytest.mark.parametrize("array", [np.array, lambda names: np.array(names, StringDType()), tuple])
def test_classes_are_a_list_of_any_library(array):
    source = from_arrays(np.zeros((2, 4, 4), np.uint8), [0, 1], array(["b", "a"]))
    assert source.classes == ("b", "a")


def test_an_umlaut_is_one_character_in_classes_and_in_labels():
    """Names are compared and kept composed, as those of class folders are."""
    for name, label in (("b\u00e4r", "ba\u0308r"), ("ba\u0308r", "b\u00e4r")):
        source = from_arrays(np.zeros((2, 4, 4), np.uint8), [label, "cat"], ["cat", name])
        assert source.classes == ("cat", "b\u00e4r")
        assert source.labels.tolist() == [1, 0]


@given(
    st.sampled_from(["great dane", "Bär", "Café au lait"]),
    st.sampled_from([str.upper, lambda name: name + " ", lambda name: name.replace(" ", "_")]),
    st.booleans(),
)
def test_classes_that_only_look_alike_are_named_once_as_a_pair(name, change, unseen):
    """Names that differ in case, spacing or invisible characters are a pair.

    Names that differ by a letter are not.
    """
    other = change(name) + "\u200b" * unseen
    if other == name:
        return
    assert look_alikes([name, "cat", other]) == [(name, other)]
    assert look_alikes([name, name + "s"]) == []
