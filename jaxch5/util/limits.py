"""States the limits of numbers that both Python and the command line take, and checks numbers."""

from __future__ import annotations

import math
import operator
from numbers import Integral, Real
from typing import Any

from jaxch5.errors import ConfigError

# More epochs or batches than this are surely a mistake, and could overflow 32-bit step counts.
MANY = 1_000_000

_RATE: dict[str, Any] = {"gt": 0, "le": 100}
# Limits by the name of the setting or argument, in the words of pydantic's `Field`. All numbers
# have to be finite.
LIMITS: dict[str, dict[str, Any]] = {
    "epochs": {"ge": 1, "le": MANY},
    "lr": _RATE,
    "lr_max": _RATE,
    "lr_min": {"ge": 0, "le": 100},
    "base_lr": _RATE,
    "start_lr": {"gt": 0},
    "end_lr": {"gt": 0},
    "pct_start": {"gt": 0, "lt": 1},
    "div": {"ge": 1},
    "div_final": {"ge": 1},
    "momentum": {"ge": 0, "lt": 1},
    "freeze_epochs": {"ge": 0, "le": MANY},
    "lr_mult": {"ge": 1},
    "layer_decay": {"gt": 0, "le": 1},
    "steps": {"ge": 1},
    "steps_per_cycle": {"ge": 1},
    "factor": {"ge": 1, "le": 100},
    "wd": {"ge": 0, "le": 1},
    "clip": {"ge": 0},
    "accumulate": {"ge": 1, "le": MANY},
    "average": {"ge": 0, "lt": 1},
    "devices": {"ge": 0},
    "drop_path": {"ge": 0, "lt": 1},
    "label_smoothing": {"ge": 0, "lt": 1},
    "gamma": {"ge": 0, "le": 10},
    "alpha": {"gt": 0, "le": 10},
}
WHOLE = {"epochs", "freeze_epochs", "steps", "steps_per_cycle", "accumulate", "devices"}
COMPARISONS = {
    "gt": (operator.gt, "above"),
    "ge": (operator.ge, "at least"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "below"),
}


def is_one_number(value: Any) -> bool:
    """Checks whether a value is a single real number of Python, NumPy or JAX.

    Example:
        >>> [is_one_number(value) for value in (1, 0.5, math.nan, True, "1", None, [1.0])]
        [True, True, True, False, False, False, False]
    """
    return isinstance(_of_python(value), Real) and not isinstance(_of_python(value), bool)


def is_traced(value: Any) -> bool:
    """Checks whether a value is unknown because jax is compiling a program for any such value.

    Example:
        >>> is_traced(0.5)
        False
    """
    # Imported late, because a command that only prints its help should not wait for jax.
    from jax.core import Tracer

    return isinstance(value, Tracer)


def check_numbers(**values: Any) -> None:
    """Refuses numbers that are not within their limits.

    Args:
        values: Values keyed by the names that they have in `LIMITS`; traced ones are not checked.

    Raises:
        ConfigError: A value is not a number, is not finite or is out of range, or is not whole
            although it has to be.

    Example:
        >>> check_numbers(wd=0.1, average=0.99)
        >>> check_numbers(wd=0.1, average=1.5)
        Traceback (most recent call last):
        jaxch5.errors.ConfigError: average = 1.5: should be at least 0 and below 1
    """
    for name, value in values.items():
        if not is_traced(value) and not is_within(name, value):
            raise ConfigError(f"{name} = {value}: should be {_wanted(name)}")


def _of_python(value: Any) -> Any:
    """Returns a scalar of NumPy or JAX as a Python number, and any other value unchanged."""
    return value.item() if getattr(value, "shape", None) == () else value


def is_within(name: str, value: Any) -> bool:
    """Checks whether a value is a finite number within the limits that `LIMITS` has for a name.

    Example:
        >>> [is_within("accumulate", value) for value in (1, 0, 1.5)]
        [True, False, False]
    """
    number = _of_python(value)
    if not is_one_number(number) or not math.isfinite(number):
        return False
    limits = LIMITS[name].items()
    fits = all(COMPARISONS[comparison][0](number, limit) for comparison, limit in limits)
    return fits and (isinstance(number, Integral) or name not in WHOLE)


def _wanted(name: str) -> str:
    limits = LIMITS[name]
    kind = "a whole number, " if name in WHOLE else ""
    if not (kind or limits.keys() & {"le", "lt"}):
        kind = "a finite number, "
    said = (f"{COMPARISONS[comparison][1]} {limit:,}" for comparison, limit in limits.items())
    return kind + " and ".join(said)
