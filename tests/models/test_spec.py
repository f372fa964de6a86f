"""The statistics of colours are the same in every form, and none that cannot be is accepted."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxch5.errors import ConfigError
from jaxch5.models.spec import Normalization


@pytest.mark.parametrize("form", [list, np.array, jnp.array, tuple])
def test_statistics_of_colours_are_tuples_whatever_they_were_given_as(form):
    found = Normalization(form([0.5, 0.25, 1]), form([0.5, 0.25, 1]))
    assert found == ((0.5, 0.25, 1.0), (0.5, 0.25, 1.0))
    assert hash(found) == hash(Normalization((0.5, 0.25, 1), (0.5, 0.25, 1)))
    assert {type(number) for row in found for number in row} == {float}


@pytest.mark.parametrize(
    ("mean", "std", "line"),
    [
        (0.5, (0.5,) * 3, r"^mean = \[0\.5\]: should be three finite numbers, for red, "),
        ((0.5,) * 2, (0.5,) * 3, r"^mean = \[0\.5, 0\.5\]: "),
        ((0.5, 0.5, np.nan), (0.5,) * 3, r"^mean = \[0\.5, 0\.5, nan\]: "),
        ((0.5,) * 3, (0.5, 0, 0.5), r"^std = .*: should be three finite numbers above 0, for "),
        ((0.5,) * 3, "0.5", r"^std = \['0', '\.', '5'\]: "),
        ((0.5,) * 3, [[0.5]] * 3, r"^std = \[\[0\.5\], "),
    ],
)
def test_statistics_that_are_not_of_three_colours_are_refused(mean, std, line):
    with pytest.raises(ConfigError, match=line):
        Normalization(mean, std)
