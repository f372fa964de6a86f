"""The arrays of a checkpoint come back as they were, or not at all."""

import numpy as np
import pytest

from jaxch5.run.arrays import from_arrays, to_arrays

TREE = {"conv": {"kernel": np.arange(6.0).reshape(2, 3)}, "count": np.int32(3), "on": [np.True_]}


def test_a_tree_comes_back_from_its_arrays():
    """Scalars stay scalars, and types are kept."""
    arrays = to_arrays(TREE)
    assert set(arrays) == {"conv/kernel", "count", "on/0"}
    back = from_arrays(arrays, TREE)
    np.testing.assert_array_equal(back["conv"]["kernel"], TREE["conv"]["kernel"])
    assert back["count"] == 3
    assert back["count"].dtype == np.int32
    assert back["count"].shape == ()
    assert back["on"][0].dtype == bool


def test_arrays_are_copies():
    """The arrays do not share memory with the state, which the next training step overwrites."""
    kernel = TREE["conv"]["kernel"]
    assert not np.shares_memory(to_arrays(TREE)["conv/kernel"], kernel)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": None}, "count is missing"),
        ({"other": np.zeros(2)}, "other is not part of this model"),
        ({"conv/kernel": np.zeros((3, 2))}, r"conv/kernel is float64\[3, 2\], not float64\[2, 3\]"),
        ({"count": np.float32(3)}, r"count is float32\[\], not int32\[\]"),
    ],
)
def test_what_does_not_fit_is_named(change, said):
    arrays = {
        name: array for name, array in (to_arrays(TREE) | change).items() if array is not None
    }
    with pytest.raises(ValueError, match=f"^{said}$"):
        from_arrays(arrays, TREE)
