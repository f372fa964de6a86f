"""Arrays and scikit-learn's digits are sources, and each class has one name in any source."""

import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxch5.config.building import load_source
from jaxch5.config.settings import Config
from jaxch5.data.source import digits, from_arrays
from jaxch5.errors import DataError


def test_digits_are_those_of_scikit_learn():
    """The digits, read directly from scikit-learn's file, equal what its own loader returns."""
    from sklearn.datasets import load_digits

    expected = load_digits()
    source = digits()
    assert len(source) == 1797
    assert source.classes == tuple("0123456789")
    np.testing.assert_array_equal(source.labels, expected.target)
    for item in (0, 1, 900, 1796):
        wanted = np.round(expected.images[item] * 255 / 16)
        for channel in range(3):
            np.testing.assert_array_equal(source.read(item)[:, :, channel], wanted)


def test_it_is_shown_in_a_line():
    """The `repr` of a source is one line; the names of all pictures would fill a notebook."""
    assert repr(digits()) == "<1,797 pictures of 10 classes>"


def test_arrays_must_fit_each_other():
    pictures = np.zeros((3, 8, 8), np.uint8)
    with pytest.raises(DataError, match="2 labels"):
        from_arrays(pictures, np.array([0, 1]), ["a", "b"])
    with pytest.raises(DataError, match="2 classes"):
        from_arrays(pictures, np.array([0, 1, 2]), ["a", "b"])
    with pytest.raises(DataError, match=r"images: is float32 \[3, 8, 8\]; should be uint8"):
        from_arrays(pictures.astype(np.float32), np.array([0, 1, 1]), ["a", "b"])


@given(
    forms=st.lists(st.sampled_from(["NFC", "NFD"]), min_size=4, max_size=8),
    kind=st.sampled_from(["folder", "parts", "names", "table"]),
)
def test_a_class_is_one_however_its_umlaut_is_stored(forms, kind):
    """A class name is the same class, whether its Unicode is composed or decomposed.

    This applies to folders, file names and tables, because systems store such names differently.
    """
    named = [unicodedata.normalize(form, "Bär") for form in forms]
    with tempfile.TemporaryDirectory() as name:
        root, setting = Path(name), {}
        for number, label in enumerate([*named, "cat", "cat"]):
            part = ("train", "valid")[number % 2]
            file = {
                "folder": f"{label}/{number}.png",
                "parts": f"{part}/{label}/{number}.png",
                "names": f"{label}_{number}.png",
                "table": f"{number}.png",
            }[kind]
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        if kind == "names":
            setting = {"pattern": r"(.+)_\d+\.png"}
        path = root
        if kind == "table":
            rows = [f"{number}.png,{label}\n" for number, label in enumerate([*named, "cat"])]
            path = root / "t.csv"
            path.write_text("image,label\n" + "".join(rows), encoding="utf-8")
        source = load_source(Config.model_validate({"data": {"path": path, **setting}}).data)
    assert source.classes == ("Bär", "cat")
    assert np.bincount(source.labels)[0] == len(named)
    with pytest.raises(DataError, match="there are no images"):
        from_arrays([], [], ["a", "b"])
