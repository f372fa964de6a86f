"""Defines types of settings: shares, sizes, and the values that stand for black and white."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, PlainSerializer

from jaxch5.framing import Size, parse_size, size_text


def parsed(key: str, parse: Callable[[Any], Any]) -> BeforeValidator:
    """Returns a validator that parses a setting's value and names the setting in errors."""

    def parse_or_say(said: Any) -> Any:
        try:
            return parse(said)
        except ValueError as error:
            raise ValueError(f"{key} = {error}") from None

    return BeforeValidator(parse_or_say)


AS_WRITTEN = PlainSerializer(
    lambda size: size if isinstance(size, int) else size_text(size), when_used="json"
)
DataSize = Annotated[Size, parsed("data.size", parse_size), AS_WRITTEN]
TrainingSize = Annotated[Size, parsed("fit.sizes", parse_size), AS_WRITTEN]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
PAIR = rf"({NUMBER})(?:,({NUMBER}))?"
RANGE = re.compile(rf"{PAIR}|(auto)?(?: ?integers {PAIR})?(?: ?floats {PAIR})?")

# The value that stands for black, and the value that stands for white.
Limits = tuple[float, float]


class Ranges(NamedTuple):
    """Holds the values of black and white for integers and for floats; None if they are unknown.

    Attributes:
        file_first: Whether a range that a file itself states takes precedence.
    """

    file_first: bool
    integers: Limits | None
    floats: Limits | None


@lru_cache
def parse_range(text: str) -> Ranges:
    """Parses a value of `--data.range`.

    Args:
        text: "auto"; the value of white; the values of black and white, as in "0,4095"; or the
            values of black and white for each kind of number, as in "auto integers 0,4095 floats
            0,1". There, "auto" gives precedence to a range that a file itself states.

    Raises:
        ValueError: The text is none of these, or black and white are equal or not finite.

    Example:
        >>> parse_range("4095").integers, parse_range("auto floats -1,1").floats
        ((0.0, 4095.0), (-1.0, 1.0))
    """
    match = RANGE.fullmatch(text.strip())
    if not match or not text.strip():
        raise ValueError(
            f"{text}: should be auto, the value of white (4095), or the values of black "
            "and white (0,4095)"
        )

    def limits(first: str | None, second: str | None) -> Limits | None:
        if first is None:
            return None
        low, high = (0.0, float(first)) if second is None else (float(first), float(second))
        if low == high or not (isfinite(low) and isfinite(high)):
            raise ValueError(f"{text}: black and white should be two different numbers")
        return low, high

    both, auto = limits(match[1], match[2]), match[3] is not None
    return Ranges(auto, both or limits(match[4], match[5]), both or limits(match[6], match[7]))
