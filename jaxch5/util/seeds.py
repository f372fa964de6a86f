"""Checks seeds, of which JAX keeps only 32 bits."""

from __future__ import annotations

from operator import index
from typing import Any

from jaxch5.errors import ConfigError

# Number of different seeds: JAX would draw the same numbers for 0 and for this number.
SEEDS = 2**32


def check_seed(seed: Any, name: str = "seed") -> int:
    """Returns a seed as a Python integer.

    Args:
        seed: A whole number of Python, NumPy or JAX.
        name: Name of the argument, for the message.

    Raises:
        ConfigError: The seed is not a whole number, or is negative or too large.

    Example:
        >>> check_seed(42)
        42
        >>> check_seed(-1)
        Traceback (most recent call last):
        jaxch5.errors.ConfigError: seed = -1: should be a whole number from 0 to 4294967295
    """
    try:
        number = index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < SEEDS:
        raise ConfigError(f"{name} = {seed}: should be a whole number from 0 to {SEEDS - 1}")
    return number
