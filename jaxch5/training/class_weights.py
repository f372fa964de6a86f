"""Computes or checks the weights that classes have in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxch5.config.toml import read_toml
from jaxch5.errors import ConfigError
from jaxch5.util.limits import is_one_number
from jaxch5.util.text import composed

ClassWeights = str | Path | Mapping[str, float] | Sequence[float]


def weights_of_classes(
    given: ClassWeights, labels: Int[np.ndarray, "items"], classes: Sequence[str]
) -> tuple[float, ...]:
    """Returns the weight of each class in the loss.

    Args:
        given: "balanced", which gives all classes the same sum of weights, as in scikit-learn;
            "sqrt", the square roots of those weights; a mapping from the names of classes to
            weights, or a TOML file with such a table; or the weights in the order of the classes.
        labels: Classes of the training pictures.
        classes: Names of the classes.

    Raises:
        ConfigError: The weights are not exactly one number above 0 for each class, or the file
            cannot be read.

    Example:
        >>> weights_of_classes("balanced", np.array([0, 0, 0, 1]), ["cat", "dog"])
        (0.6666666666666666, 2.0)
        >>> weights_of_classes({"cat": 1}, np.array([0, 1]), ["cat", "dog"])
        Traceback (most recent call last):
        jaxch5.errors.ConfigError: fit.class_weights: there is no weight for dog
    """
    if isinstance(given, str) and given in ("balanced", "sqrt"):
        counts = np.maximum(np.bincount(labels, minlength=len(classes)), 1)
        weights = len(labels) / (len(classes) * counts)
        return tuple((weights if given == "balanced" else np.sqrt(weights)).tolist())
    where = "fit.class_weights"
    if isinstance(given, str | Path):
        where, given = f"{where} = {given}", read_toml(Path(given))
    if isinstance(given, Mapping):
        if unnamed := [key for key in given if not isinstance(key, str)]:
            raise ConfigError(
                f"{where}: {unnamed[0]!r} should be the name of a class; if you have numbers of "
                "classes, give the weights as a list, in the order of the classes"
            )
        names = [*map(composed, given)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"{where}: there are two weights for {twice}; leave one out")
        given = dict(zip(names, given.values(), strict=True))
        classes = [*map(composed, classes)]
        if missing := [name for name in classes if name not in given]:
            raise ConfigError(f"{where}: there is no weight for {', '.join(missing)}")
        if unknown := [name for name in given if name not in classes]:
            raise ConfigError(f"{where}: there is no class {', '.join(unknown)}")
        given = [given[name] for name in classes]
    # `tolist` turns the elements of a JAX array, which are arrays, into Python numbers.
    numbers: list[float] = np.atleast_1d(np.asarray(given, object)).tolist()
    if len(numbers) != len(classes) or not all(
        is_one_number(weight) and 0 < weight < np.inf for weight in numbers
    ):
        raise ConfigError(
            f"{where}: {numbers} should be {len(classes)} numbers above 0, one for each class"
        )
    return tuple(map(float, numbers))
